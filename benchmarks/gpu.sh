#!/usr/bin/env bash
# The package and PyTorch on one GPU, in bfloat16, with torch.compile, at batches that fill the card; then, where
# TensorFlow is there to prepare its sounds, the quickstart's training from end to end.
#
#   bash benchmarks/gpu.sh                            # all of it, in under nine minutes
#   bash benchmarks/gpu.sh "beats 32" "resnet34 256"  # these alone
#
# Each has a process of its own: one that fails or takes too long is named at the end, with what it said, and stops no
# other. ${OUT:-benchmarks/results} gets the tables (gpu.md), all figures, a line for each (gpu.jsonl), and gpu.log, as
# they come. ${PYTHON:-python} has JAX and PyTorch for the GPU; BUDGET_S is the time for all, in seconds (530). The exit
# status is the number of those that failed.
set -u
cd "$(dirname "$0")/.."
out=${OUT:-benchmarks/results}
python=${PYTHON:-python}
budget=${BUDGET_S:-530}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
out=$(cd "$out" && pwd)
: >"$out/gpu.md" >"$out/gpu.jsonl" >"$out/gpu.log"
failed=()

run() { # NAME LIMIT_S COMMAND…: no longer than the limit and what is left of the budget
  local name=$1 limit=$2 left=$((budget - SECONDS)) status
  shift 2
  if ((left < 15)); then
    failed+=("$name (no time left)")
    return 1
  fi
  echo "== $name, at $SECONDS s" | tee -a "$out/gpu.log"
  timeout --kill-after=10 "$((limit < left ? limit : left))" "$@" >"$work/log" 2>&1
  status=$?
  cat "$work/log" >>"$out/gpu.log"
  if ((status)); then
    failed+=("$name (exit status $status)")
    tail -n 15 "$work/log"
  fi
  return "$status"
}

if [ $# -eq 0 ]; then
  set -- "resnet34 256" "beats 32" "beats 64" "mn04 256" "mn10 256" "distilhubert 32" "efficientnet_b0 256" quickstart
fi
for part; do
  if [ "$part" != quickstart ]; then
    read -r model batch <<<"$part"
    run "$part" 150 "$python" benchmarks/models.py --models "$model" --batch "$batch" --dtype=bfloat16 --compile \
      --out="$work/$part"
    if [ -f "$work/$part/models.md" ]; then # as far as it came
      { cat "$work/$part/models.md" && echo; } | tee -a "$out/gpu.md"
      { tr -d '\n' <"$work/$part/models.json" && echo; } >>"$out/gpu.jsonl"
    fi
  elif "$python" -c "import tensorflow_datasets" 2>/dev/null; then
    run "$part" 120 "$python" -m esc_jax.main --config=configs/quickstart.py --workdir="$work/quickstart" &&
      tail -n 5 "$work/log"
  else
    echo "== quickstart: left out, there is no TensorFlow to prepare its sounds"
  fi
done
echo "== done, at $SECONDS s"
for one in "${failed[@]+"${failed[@]}"}"; do echo "failed: $one"; done
exit ${#failed[@]}
