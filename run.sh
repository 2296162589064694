#!/usr/bin/env bash
# bash run.sh                            the main job: toy world, two stages of training, evaluation,
#                                        and work_dirs/toy/report.html; goes on where it was stopped
# bash run.sh --small | --fresh          the same on a smaller world | starting over
# bash run.sh setup                      make .venv and install what is missing
# bash run.sh train CONFIG GPUS [...]    train (arguments of tools/train.py)
# bash run.sh eval CONFIG CHECKPOINT [...]   evaluate (arguments of tools/test.py)
# bash run.sh data [DIR]                 link the downloads of DIR below data/, and say which datasets
#                                        are complete, which are not, and where to get them
# bash run.sh test [...]                 the test suite (arguments of pytest)
# bash run.sh check                      style, format and types
# bash run.sh smoke                      the small main job, its scores held against .ci/minima.json
# bash run.sh help                       this text
#
# Environment: PYTHON (a Python 3.11), GPUS (processes of the main job), TOY_SIZE (full or small).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

VENV=.venv
say() { printf '\n== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# ---- installation -----------------------------------------------------------------------------

is_python_311() {
    [[ -n "$1" ]] && "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3 python; do
        if is_python_311 "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.11 was found (tried ${PYTHON:+\$PYTHON, }python3.11, python3, python). Install it
       (Debian, Ubuntu: python3.11 and python3.11-venv; elsewhere pyenv, uv or conda have it), or
       say where it is: PYTHON=/path/to/python3.11 bash run.sh"
}

fingerprint() { cat "$@" | sha256sum | cut -d' ' -f1; }

pip_install() {
    "$VENV/bin/python" -m pip install --disable-pip-version-check "$@" ||
        die "pip failed: what it says stands above. After mending it, call run.sh again"
}

# One installation at a time, although two run.sh may start together.
with_lock() {
    mkdir -p "$VENV"
    (
        flock 9
        "$@"
    ) 9>"$VENV/.lock"
}

setup() {
    local stamp
    stamp="$(fingerprint requirements.txt requirements-nodeps.txt constraints.txt)"
    [[ "$(cat "$VENV/.installed" 2>/dev/null)" == "$stamp" ]] || with_lock install_main "$stamp"
    # the launchers take the environment that is active, which may be another one (conda's base)
    export VIRTUAL_ENV="$PWD/$VENV" PATH="$PWD/$VENV/bin:$PATH"
}

install_main() {
    [[ "$(cat "$VENV/.installed" 2>/dev/null)" == "$1" ]] && return
    say "Installing into $VENV (once)"
    if ! is_python_311 "$VENV/bin/python"; then
        local python
        python="$(find_python)"
        "$python" -m venv "$VENV" ||
            die "$python cannot make a virtual environment: what it says stands above
       (Debian, Ubuntu: apt install python3.11-venv)"
    fi
    # never beside opencv-python (see mend_opencv)
    "$VENV/bin/python" -m pip uninstall --quiet --yes opencv-python-headless 2>/dev/null
    pip_install -r requirements.txt -c constraints.txt
    pip_install --no-deps -r requirements-nodeps.txt
    mend_opencv
    "$VENV/bin/python" -c 'import projects, mmengine, xtuner, torchvision, transformers' ||
        die "the installed packages do not import: the reason stands above"
    echo "$1" >"$VENV/.installed"
}

# opencv-python needs libGL, which a machine without a screen often lacks. The headless wheel has
# the same modules; both at once overwrite each other, so it takes the other's place.
mend_opencv() {
    "$VENV/bin/python" -c 'import cv2' 2>/dev/null && return
    local version
    version="$(sed -n 's/^opencv-python==//p' requirements.txt)"
    say "OpenCV does not load here (libGL is missing?): using its headless build"
    "$VENV/bin/python" -m pip uninstall --yes opencv-python
    pip_install --no-deps "opencv-python-headless==$version"
    "$VENV/bin/python" -c 'import cv2' ||
        die "OpenCV does not load: the missing library stands above (Debian, Ubuntu:
       apt install libgl1 libglib2.0-0)"
}

setup_tests() {
    setup
    local stamp
    stamp="$(fingerprint requirements-test.txt requirements-test-nodeps.txt constraints.txt)"
    [[ "$(cat "$VENV/.installed-test" 2>/dev/null)" == "$stamp" ]] && return
    with_lock install_tests "$stamp"
}

install_tests() {
    [[ "$(cat "$VENV/.installed-test" 2>/dev/null)" == "$1" ]] && return
    say "Installing what the tests need (once)"
    pip_install -r requirements-test.txt -c constraints.txt
    SAM2_BUILD_CUDA=0 pip_install --no-deps --no-build-isolation -r requirements-test-nodeps.txt
    echo "$1" >"$VENV/.installed-test"
}

# ---- the main job -----------------------------------------------------------------------------

main_job() {
    local size="${TOY_SIZE:-full}" fresh=
    while [[ $# -gt 0 ]]; do
        case "$1" in
            --small) size=small ;;
            --fresh) fresh=1 ;;
            *) die "the main job has no option $1: see bash run.sh help" ;;
        esac
        shift
    done
    setup
    source tools/python.sh
    local suffix= gpus processes
    [[ "$size" == full ]] || suffix="_$size"
    export DATA_ROOT="data/toy$suffix"
    work="work_dirs/toy$suffix"
    [[ -z "$fresh" ]] || rm -rf "$work"
    gpus="$(count_gpus)"
    processes="${GPUS:-$((gpus > 0 ? gpus : 2))}"
    # a batch is shared out evenly: these numbers divide both stages' batches
    while [[ $((8 % processes)) != 0 || $((12 % processes)) != 0 ]]; do
        processes=$((processes - 1))
    done

    say "1/6 Toy world in $DATA_ROOT"
    "$PYTHON" -m projects.toy_world "$DATA_ROOT" --size "$size"
    train_stage "2/6" stage1 projects/sam2_video/configs/toy.py 8
    export STAGE1="$work/stage1"
    train_stage "3/6" stage2 projects/llava_sam2/configs/toy.py 12
    eval_stage "4/6" stage1 projects/sam2_video/configs/toy.py
    eval_stage "5/6" stage2 projects/llava_sam2/configs/toy.py
    say "6/6 Report"
    "$PYTHON" tools/report.py "$work"
}

# train_stage N NAME CONFIG BATCH: unless it is done; from its last checkpoint if there is one.
train_stage() {
    local dir="$work/$2" options=("train_dataloader.batch_size=$(($4 / processes))")
    if [[ -f "$dir/model.safetensors" ]]; then
        say "$1 Training $2: done before, in $dir"
        return
    fi
    say "$1 Training $2 in $processes processes"
    if [[ "$size" == small ]]; then
        local fewer
        read -ra fewer <<<"${SMALL_OPTIONS[$2]}"
        options+=("${fewer[@]}")
    fi
    bash tools/dist.sh train "$3" "$processes" --work-dir "$dir" --resume \
        --cfg-options "${options[@]}"
}

# eval_stage N NAME CONFIG: unless the scores are newer than the weights.
eval_stage() {
    local dir="$work/$2"
    if [[ "$dir/scores.json" -nt "$dir/model.safetensors" ]]; then
        say "$1 Evaluating $2: done before, in $dir/scores.json"
        return
    fi
    say "$1 Evaluating $2 in $processes processes"
    bash tools/dist.sh test "$3" "$processes" "$dir" --work-dir "$dir"
}

# The small job learns for fewer steps. It has fewer images, but as many times, the last of stage 2's
# datasets: they are drawn less often, or they would be most of its steps; and so are categories (4),
# which shapes need and colours do not.
declare -A SMALL_OPTIONS=(
    [stage1]="train_cfg.max_steps=400"
    [stage2]="train_cfg.max_steps=1200 train_dataloader.datasets.4.repeat=0.3 train_dataloader.datasets.6.repeat=0.4"
)

# ---- verbs ------------------------------------------------------------------------------------

check() {
    setup_tests
    "$VENV/bin/ruff" check .
    "$VENV/bin/ruff" format --check .
    "$VENV/bin/mypy"
}

run_tests() {
    setup_tests
    # tests take one thread each; a worker that is done takes over from one that is not
    OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" "$VENV/bin/python" -m pytest \
        --numprocesses logical --maxprocesses 8 --dist worksteal "$@"
}

smoke() {
    main_job --small "$@"
    "$PYTHON" tools/check_scores.py "$work/scores.json" .ci/minima.json
}

verb="${1:-}"
[[ $# -eq 0 ]] || shift
case "$verb" in
    "") main_job ;;
    --help) exec bash run.sh help ;;
    --*) main_job "$verb" "$@" ;;
    setup)
        setup
        say "$VENV is ready"
        ;;
    train)
        setup
        exec bash tools/dist.sh train "$@"
        ;;
    eval)
        [[ $# -ge 2 ]] || die "bash run.sh eval CONFIG CHECKPOINT [arguments of tools/test.py]"
        setup
        source tools/python.sh
        gpus="$(count_gpus)"
        config="$1"
        shift
        exec bash tools/dist.sh test "$config" "${GPUS:-$((gpus > 0 ? gpus : 1))}" "$@"
        ;;
    data)
        setup
        exec "$VENV/bin/python" tools/prepare_data.py "$@"
        ;;
    test) run_tests "$@" ;;
    check) check ;;
    smoke) smoke "$@" ;;
    help) sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' run.sh ;;
    *) die "unknown verb $verb: see bash run.sh help" ;;
esac
