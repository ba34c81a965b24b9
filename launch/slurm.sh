#!/usr/bin/env bash
# One run on several nodes of a Slurm cluster: a process per node, all GPUs of it.
#
#   sbatch --nodes=4 --gpus-per-node=8 launch/slurm.sh --config=configs/resnet34.py --workdir=/shared/runs/resnet34
#
# What is given is handed to the command. Workdir, data and cache must lie where all nodes see them. The batch is that of
# the whole run: train.batch_size must divide by the number of GPUs. Slurm warns with SIGTERM before it ends the job: the
# run saves its state and stops, is queued again, and goes on. A node that fails ends the job; submit it again.
#SBATCH --job-name=esc_jax
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"

said=$(mktemp)
srun --kill-on-bad-exit=1 python -m esc_jax.main --distributed "$@" | tee "$said"
if grep -q "goes on from there" "$said"; then
  scontrol requeue "$SLURM_JOB_ID"
fi
