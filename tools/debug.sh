#!/usr/bin/env bash
# bash tools/debug.sh train CONFIG [arguments of tools/train.py]
# bash tools/debug.sh test CONFIG CHECKPOINT [arguments of tools/test.py]
#
# One process, no DeepSpeed, no loader workers: breakpoints work and errors come undecorated.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/python.sh"

[[ $# -ge 2 && ("$1" == train || "$1" == test) ]] || usage "$0"
verb="$1"
shift
if [[ "$verb" == train ]]; then
    set -- "$@" --cfg-options train_dataloader.num_workers=0
fi
[[ "$(count_gpus)" != 0 ]] || export DS_ACCELERATOR=cpu
exec "$PYTHON" "$ROOT/tools/$verb.py" "$@" --launcher none
