#!/usr/bin/env bash
# bash tools/slurm.sh train CONFIG GPUS [--work-dir D] [--resume] [arguments of tools/train.py]
# bash tools/slurm.sh test CONFIG GPUS CHECKPOINT [arguments of tools/test.py]
#
# Starts GPUS tasks under srun, GPUS_PER_NODE (default 8) on a node. Environment:
#   PARTITION, JOB_NAME, CPUS_PER_TASK (default 8), SRUN_ARGS (anything else for srun)
#   DEEPSPEED    config of a training, default deepspeed_zero2; empty for plain data parallelism
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/python.sh"

[[ $# -ge 3 && ("$1" == train || "$1" == test) && "$3" =~ ^[1-9][0-9]*$ ]] || usage "$0"
verb="$1" config="$2" gpus="$3"
shift 3
per_node="${GPUS_PER_NODE:-8}"
per_node=$((gpus < per_node ? gpus : per_node))
if [[ "$verb" == train && -n "${DEEPSPEED-deepspeed_zero2}" ]]; then
    set -- --deepspeed "${DEEPSPEED-deepspeed_zero2}" "$@"
fi

# SRUN_ARGS is a list of words on purpose
# shellcheck disable=SC2086
exec srun ${PARTITION:+--partition="$PARTITION"} \
    --job-name="${JOB_NAME:-$(basename "$config" .py)}" \
    --ntasks="$gpus" --ntasks-per-node="$per_node" --gres="gpu:$per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-8}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "$PYTHON" "$ROOT/tools/$verb.py" "$config" "$@" --launcher slurm
