#!/usr/bin/env bash
# Trains one run on all hosts of a Cloud TPU pod slice.
#
#   launch/tpu_pod.sh NAME ZONE --config=configs/resnet34.py --workdir=/mnt/shared/runs/resnet34
#
# NAME is an existing TPU VM. Every host needs this repository in ~/esc_jax with `pip install -e . jax[tpu]` done there,
# and a shared disk or bucket for the work directory, the data and the cache (ESC_JAX_CACHE). All other arguments are
# passed to esc_jax.main. Exit status 75 means that the run was stopped and its state was saved: to resume it, run the
# same command again.
set -euo pipefail

if [ $# -lt 3 ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
name=$1 zone=$2
shift 2
command="cd ~/esc_jax && ESC_JAX_CACHE=${ESC_JAX_CACHE:-} python3 -m esc_jax.main --distributed$(printf ' %q' "$@")"
status=0
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$command" || status=$?
if [ "$status" = 75 ]; then
  echo "the run was stopped and its state was saved: run the same command again to resume it" >&2
fi
exit "$status"
