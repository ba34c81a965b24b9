#!/usr/bin/env bash
# esc_jax and PyTorch on one GPU, in bfloat16 with torch.compile at batch sizes that fill the GPU; then the training of
# quickstart.py from end to end.
#
#   bash benchmarks/gpu.sh                            # all parts, in under nine minutes
#   bash benchmarks/gpu.sh "beats 32" "resnet34 256"  # selected parts
#
# Each part has a process of its own. Parts that fail or exceed their time limit are listed at the end and do not stop
# the others. Results are written to ${OUT:-benchmarks/results} as they come: tables (gpu.md), all figures with a line
# per part (gpu.jsonl), and gpu.log. ${PYTHON:-python} needs JAX and PyTorch for the GPU. BUDGET_S is the time limit of
# all parts in seconds (530). The exit status is the number of failed parts.
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

run() { # NAME LIMIT_S COMMAND…: stops after the limit or the remaining budget
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
    if [ -f "$work/$part/models.md" ]; then # also of a part that failed later
      { cat "$work/$part/models.md" && echo; } | tee -a "$out/gpu.md"
      { tr -d '\n' <"$work/$part/models.json" && echo; } >>"$out/gpu.jsonl"
    fi
  else
    run "$part" 120 "$python" -m esc_jax.main --config=configs/quickstart.py --workdir="$work/quickstart" &&
      tail -n 5 "$work/log"
  fi
done
echo "== done, at $SECONDS s"
for part in "${failed[@]+"${failed[@]}"}"; do echo "failed: $part"; done
exit ${#failed[@]}
