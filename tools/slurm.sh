#!/usr/bin/env bash
# bash tools/slurm.sh train CONFIG GPUS [--work-dir D] [--resume] [arguments of tools/train.py]
# bash tools/slurm.sh test CONFIG GPUS CHECKPOINT [arguments of tools/test.py]
#
# Starts GPUS tasks under srun, GPUS_PER_NODE (default 8) on a node. Environment:
#   PARTITION ACCOUNT QOS TIME (wall-clock limit) JOB_NAME CPUS_PER_TASK (default 8)
#   SRUN_ARGS    anything else for srun, or with BATCH=1 for sbatch
#   BATCH=1      submit by sbatch and return; a job that is preempted, or ends at its time limit,
#                is queued again and goes on with the newest checkpoint
#   DEEPSPEED    config of a training, default deepspeed_zero2; empty for plain data parallelism
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/python.sh"

[[ $# -ge 3 && ("$1" == train || "$1" == test) && "$3" =~ ^[1-9][0-9]*$ ]] || usage "$0"
verb="$1" config="$2" gpus="$3"
shift 3
per_node="${GPUS_PER_NODE:-8}"
per_node=$((gpus < per_node ? gpus : per_node))
if ((gpus % per_node)); then
    echo "$gpus GPUs are no whole number of nodes with $per_node: change GPUS or GPUS_PER_NODE" >&2
    exit 2
fi
if [[ "$verb" == train && -n "${DEEPSPEED-deepspeed_zero2}" ]]; then
    set -- --deepspeed "${DEEPSPEED-deepspeed_zero2}" "$@"
fi

job=(
    ${PARTITION:+--partition="$PARTITION"} ${ACCOUNT:+--account="$ACCOUNT"}
    ${QOS:+--qos="$QOS"} ${TIME:+--time="$TIME"}
    --job-name="${JOB_NAME:-$(basename "$config" .py)}"
    --nodes=$((gpus / per_node)) --ntasks="$gpus" --ntasks-per-node="$per_node"
    --gres="gpu:$per_node" --cpus-per-task="${CPUS_PER_TASK:-8}"
)
command=("$PYTHON" "$ROOT/tools/$verb.py" "$config" "$@" --launcher slurm)

# SRUN_ARGS is a list of words on purpose
# shellcheck disable=SC2086
if [[ "${BATCH:-}" == 1 ]]; then
    # two minutes before the time limit the job's script is told by USR1
    exec sbatch "${job[@]}" --requeue --signal=B:USR1@120 --open-mode=append ${SRUN_ARGS:-} \
        "$ROOT/tools/slurm_job.sh" "$verb" "${command[@]}"
fi
exec srun "${job[@]}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} "${command[@]}"
