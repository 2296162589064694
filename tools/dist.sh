#!/usr/bin/env bash
# bash tools/dist.sh train CONFIG GPUS [--work-dir D] [--resume] [arguments of tools/train.py]
# bash tools/dist.sh test CONFIG GPUS CHECKPOINT [arguments of tools/test.py]
#
# Starts one process per GPU (without a GPU: GPUS processes on the CPU). Environment:
#   DEEPSPEED    config of a training, default deepspeed_zero2; empty for plain data parallelism
#   NNODES NODE_RANK MASTER_ADDR PORT    several nodes: start it on each of them, with GPUS of one
#                node; PORT is 29500 where it is unset, and on one node a free one
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/python.sh"

[[ $# -ge 3 && ("$1" == train || "$1" == test) && "$3" =~ ^[1-9][0-9]*$ ]] || usage "$0"
verb="$1" config="$2" gpus="$3"
shift 3

NNODES="${NNODES:-1}"
if [[ "$NNODES" != 1 && (-z "${NODE_RANK:-}" || -z "${MASTER_ADDR:-}") ]]; then
    echo "NNODES=$NNODES: give NODE_RANK (0 to $((NNODES - 1))) and MASTER_ADDR (node 0) too" >&2
    exit 2
fi
if [[ -z "${PORT:-}" ]]; then
    PORT=29500
    if [[ "$NNODES" == 1 ]]; then
        PORT="$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
    fi
fi
if [[ "$(count_gpus)" == 0 ]]; then
    export DS_ACCELERATOR=cpu
    cores="$(getconf _NPROCESSORS_ONLN)"
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > gpus ? cores / gpus : 1))}"
    export MKL_NUM_THREADS="${MKL_NUM_THREADS:-$OMP_NUM_THREADS}"
fi
if [[ "$verb" == train && -n "${DEEPSPEED-deepspeed_zero2}" ]]; then
    set -- --deepspeed "${DEEPSPEED-deepspeed_zero2}" "$@"
fi

exec "$PYTHON" "$ROOT/tools/launch.py" \
    --nnodes "$NNODES" --node_rank "${NODE_RANK:-0}" --nproc_per_node "$gpus" \
    --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "$PORT" \
    "$ROOT/tools/$verb.py" "$config" "$@" --launcher pytorch
