#!/usr/bin/env bash
# One run on all hosts of a Cloud TPU pod slice.
#
#   launch/tpu_pod.sh NAME ZONE --config=configs/resnet34.py --workdir=/mnt/shared/runs/resnet34
#
# NAME is a TPU VM that exists, with this repository in ~/esc_jax on every host, `pip install -r requirements.txt
# jax[tpu]` done there, and a disk or bucket mounted that all hosts see, for workdir, data (ESC_JAX_CACHE) and cache.
# What follows is handed to the command. The same command goes on where the run stopped.
set -euo pipefail

if [ $# -lt 3 ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
name=$1 zone=$2
shift 2
command="cd ~/esc_jax && ESC_JAX_CACHE=${ESC_JAX_CACHE:-} python3 -m esc_jax.main --distributed$(printf ' %q' "$@")"
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$command"
