#!/usr/bin/env bash
# Every experiment of the write-ups' final table, one after the other, and the report on them: for one GPU.
#
#   EFFICIENTAT=mn04_as_mAP_432.pt BEATS=BEATs_iter3_plus_AS2M.pt launch/writeups.sh --config.data.dir=ESC-50-master
#
# What is given is handed to every run. An experiment whose checkpoint is not named is left out; DistilHuBERT and
# EfficientNet are fetched from the Hugging Face hub. Runs live in runs/; the same command goes on where it stopped.
set -uo pipefail
cd "$(dirname "$0")/.."

failed=()
run() { # config, options of its own, and what was handed in
  local config=$1
  shift
  if ! python -m esc_jax.main --config="configs/$config.py" --workdir="runs/$config" "$@"; then
    failed+=("$config")
  elif [ ! -e "runs/$config/results.json" ]; then # a run that is told to end saves its state, and its status is 0
    echo "$config was interrupted: the same command goes on from there" >&2
    exit 1
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
python -m esc_jax.report runs
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
