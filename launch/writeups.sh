#!/usr/bin/env bash
# Runs all experiments of the public write-ups' final tables, one after the other, and a report on them. For one GPU.
#
#   EFFICIENTAT=mn04_as BEATS=beats_iter3_plus launch/writeups.sh --config.data.dir=ESC-50-master
#
# All arguments are passed to every run. Experiments with EfficientAT and BEATs run if their weights are given, by name or
# path; DistilHuBERT and EfficientNet are downloaded from the Hugging Face hub. Runs are written to runs/. To resume after an
# interruption (exit status 75), run the same command again.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

failed=()
run() { # CONFIG OPTION…
  local config=$1 status=0
  shift
  python -m esc_jax.main --config="configs/$config.py" --workdir="runs/$config" "$@" || status=$?
  if [ "$status" = 75 ]; then
    echo "$config was stopped and its state was saved: run the same command again to resume it" >&2
    exit 75
  elif [ "$status" != 0 ]; then
    failed+=("$config")
  fi
}

run resnet34 "$@"
run simclr_writeup "$@"
run masked_cnn "$@"
run masked_transformer "$@"
run efficientnet "$@"
run distilhubert_writeup "$@"
run distilhubert "$@"
if [ -n "${BEATS:-}" ]; then
  run beats_frozen --config.model.pretrained="$BEATS" "$@"
  run beats_finetune --config.model.pretrained="$BEATS" "$@"
fi
if [ -n "${EFFICIENTAT:-}" ]; then
  run efficientat_frozen --config.model.pretrained="$EFFICIENTAT" "$@"
  run efficientat_finetune --config.model.pretrained="$EFFICIENTAT" "$@"
fi
python -m esc_jax report runs
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
