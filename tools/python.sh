# Sourced by the launchers: finds the repository and its Python: that of the active environment, but
# conda's base is active in every shell and no choice.
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ -n "${VIRTUAL_ENV:-}" ||
    (-n "${CONDA_PREFIX:-}" && "${CONDA_DEFAULT_ENV:-}" != base) ]]; then
    PYTHON="$(command -v python)"
elif [[ -x "$ROOT/.venv/bin/python" ]]; then
    PYTHON="$ROOT/.venv/bin/python"
else
    PYTHON="$(command -v python3)"
fi

# Number of GPUs that a run would see; 0 sends it to the CPU.
count_gpus() {
    if [[ -n "${CUDA_VISIBLE_DEVICES+set}" ]]; then
        if [[ -z "$CUDA_VISIBLE_DEVICES" || "$CUDA_VISIBLE_DEVICES" == -1 ]]; then
            echo 0
        else
            tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | wc -l
        fi
    elif command -v nvidia-smi >/dev/null; then
        nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true
    else
        echo 0
    fi
}

# usage FILE: its comment at the top.
usage() {
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$1" >&2
    exit 2
}
