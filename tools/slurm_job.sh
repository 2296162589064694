#!/usr/bin/env bash
# The script of a batch job, submitted by tools/slurm.sh with BATCH=1: slurm_job.sh VERB COMMAND...
#
# Runs COMMAND under srun. Before the time limit the job puts itself into the queue again; a training
# that was started before goes on from its newest checkpoint.
set -uo pipefail

verb="$1"
shift
if [[ "$verb" == train && "${SLURM_RESTART_COUNT:-0}" != 0 ]]; then
    set -- "$@" --resume
fi
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1
srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" "$@" &
while true; do
    wait $!
    status=$?
    kill -0 $! 2>/dev/null || exit "$status" # a signal ends wait, not the training
done
