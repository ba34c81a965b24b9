#!/usr/bin/env bash
# Trains one run on several nodes of a Slurm cluster, with one process per node that uses all of its GPUs.
#
#   sbatch --nodes=4 --gpus-per-node=8 launch/slurm.sh --config=configs/resnet34.py --workdir=/shared/runs/resnet34
#
# All arguments are passed to esc_jax.main. The work directory, the data and the cache (ESC_JAX_CACHE) must be on a file
# system that all nodes share. train.batch_size is the global batch size; it must be divisible by the number of GPUs.
# Slurm sends SIGTERM 120 seconds before it ends the job. The run then saves its state and exits with status 75, and the
# job is requeued. If a node fails, the job ends; submit it again to resume.
#SBATCH --job-name=esc_jax
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"

# With --kill-on-bad-exit, srun kills the other tasks when one exits with an error. Status 75 is none: every task may
# finish, and a file tells this script about it. Slurm sends SIGTERM to this shell too, which has to outlive it.
marker="$PWD/.interrupted-$SLURM_JOB_ID"
rm -f "$marker"
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c '
  trap : TERM
  marker=$1; shift
  python -m esc_jax.main --distributed "$@" && exit
  status=$?
  [ "$status" = 75 ] || exit "$status"
  touch "$marker"
' esc_jax "$marker" "$@"
if [ -e "$marker" ]; then
  rm -f "$marker"
  scontrol requeue "$SLURM_JOB_ID"
  exit 75
fi
