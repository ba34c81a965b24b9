#!/usr/bin/env bash
# Measurements on one GPU, in bfloat16: parts of a training step, start-up, esc_jax compared with torch.compile,
# cross-validation in three ways, and a full recipe over all folds. No part needs a network or TensorFlow.
#
#   DATA=ESC-50-master bash benchmarks/gpu.sh                           all parts
#   bash benchmarks/gpu.sh "steps resnet34" "compare resnet34 256"      selected parts
#   DATA=ESC-50-master BUDGET_S=3600 bash benchmarks/gpu.sh "recipe resnet34 200 --config.train.batch_size=64"
#
# Parts:
#   steps CONFIG                       times of augmentation, frontend, network and optimizer (step_parts.py)
#   kernels CONFIG                     times of the kernels of a training step (kernels.py)
#   startup CONFIG                     seconds to the end of the first training step (startup.py)
#   compare MODEL BATCH                training step and prediction, compared with torch.compile (models.py)
#   ways CONFIG EPOCHS                 cross-validation in three ways (crossval_ways.py)
#   recipe CONFIG EPOCHS [SETTINGS]    training and test of all folds, with settings such as --config.optim.lr=1e-3
#   quickstart                         the config of `make run`
#
# Variables:
#   DATA       a data set in the layout of ESC-50, whose clips may be Opus or FLAC files. Without it, "startup" and
#              "ways" use synthesized sounds, and "recipe" fails.
#   BUDGET_S   seconds for all parts of this call (530)
#   OUT        folder of the results (benchmarks/results/gpu)
#   PYTHON     Python with JAX for the GPU and, for "compare", PyTorch (python)
#   SCALE      "tiny" runs a small network, for tests
#
# Every part has a process and a folder of its own in OUT. Finished parts are skipped in the next call. A recipe that the
# time limit or a signal stops continues in the next call, and so do the "ways". Results are json and md files of each
# part, OUT/gpu.md with all tables, and OUT/gpu.log. The exit status is the number of parts that failed or found no time,
# 64 if nothing can be measured, and 75 after a signal.
set -u
case ${1:-} in -h | --help)
  sed -n '2,/^set -u/{/^#/s/^# \{0,1\}//p}' "$0"
  exit 0 ;;
esac
fail() { # MESSAGE
  echo "benchmarks/gpu.sh: $1" >&2
  exit 64
}

root=$(cd "$(dirname "$0")/.." && pwd)
out=${OUT:-$root/benchmarks/results/gpu}
{ mkdir -p "$out" && [ -w "$out" ]; } 2>/dev/null || fail "OUT=$out is not a folder that can be written to"
out=$(cd "$out" && pwd)
python=${PYTHON:-python}
budget=${BUDGET_S:-530}
[[ $budget =~ ^[1-9][0-9]*$ ]] || fail "BUDGET_S=$budget must be a whole number of seconds"
tiny=
[ "${SCALE:-}" = tiny ] && tiny=--tiny
data=()
if [ -n "${DATA:-}" ]; then
  [ -e "$DATA" ] || fail "DATA=$DATA does not exist"
  data=("--config.data.dir=$(realpath "$DATA")" ${tiny:+--config.data.name=esc50})
fi
cd "$root" || exit
command -v "$python" >/dev/null || fail "PYTHON=$python does not exist"
export ESC_JAX_CACHE=${ESC_JAX_CACHE:-$out/cache}
if command -v flock >/dev/null; then
  exec 9>"$out/lock" # held by the processes of the parts too
  flock --nonblock 9 || fail "another run is writing to $out"
fi
failed=()
child=

stop() { # a signal: the running part gets it, and 20 s to save its state
  trap '' TERM INT HUP
  if [ -n "$child" ]; then
    kill "$child"
    wait "$child"
    cat "$out/part.log" >>"$out/gpu.log"
  fi
  echo "stopped; run the same command again to continue"
  exit 75
}
trap stop TERM INT HUP

run() { # NAME LIMIT_S COMMAND…: stops after the limit or the remaining budget; a process gets 20 s to save its state
  local name=$1 limit=$2 left=$((budget - SECONDS - 20)) status
  shift 2
  if ((left < 10)); then
    failed+=("$name (no time left)")
    return 1
  fi
  echo "== $name, at $SECONDS s" | tee -a "$out/gpu.log"
  timeout --kill-after=20 "$((limit < left ? limit : left))" "$@" >"$out/part.log" 2>&1 &
  child=$!
  wait "$child"
  status=$?
  child=
  cat "$out/part.log" >>"$out/gpu.log"
  if ((status)); then
    if ((status == 124)); then failed+=("$name (time limit)"); else failed+=("$name (exit status $status)"); fi
    tail -n 15 "$out/part.log"
  fi
  return "$status"
}

config_of() { # CONFIG
  if [ -n "$tiny" ]; then echo tests/configs/tiny.py; else echo "configs/$1.py"; fi
}

if [ $# -eq 0 ]; then
  set -- "steps resnet34" "kernels resnet34" "startup resnet34" "ways resnet34 20" "recipe resnet34 300" "compare resnet34 256" \
    "compare beats 32" "compare beats 64" "compare mn04 256" "compare mn10 256" "compare distilhubert 32" \
    "compare efficientnet_b0 256" "steps efficientat_finetune" "startup beats_finetune" quickstart
fi
for part; do # every mistake is reported before anything is measured
  read -r kind name number settings <<<"$part"
  case $kind in
    steps | kernels | startup) ;;
    compare | ways | recipe) [[ $number =~ ^[0-9]+$ ]] || fail "part \"$part\": \"$kind NAME\" is followed by a number" ;;
    quickstart) name=quickstart ;;
    *) fail "there is no part \"$part\": see --help" ;;
  esac
  [ "$kind" = compare ] || [ -f "configs/$name.py" ] || fail "part \"$part\": configs/$name.py does not exist"
done
for part; do
  read -r kind name number settings <<<"$part"
  folder="$out/${part//[^[:alnum:].-]/_}"
  if [ -f "$folder/done" ]; then
    echo "== $part: finished before"
    continue
  fi
  mkdir -p "$folder"
  case $kind in
    steps)
      run "$part" 150 "$python" benchmarks/step_parts.py "$(config_of "$name")" --dtype=bfloat16 --out="$folder" $tiny ;;
    kernels)
      run "$part" 150 "$python" benchmarks/kernels.py "$(config_of "$name")" --dtype=bfloat16 --out="$folder" $tiny ;;
    startup)
      run "$part" 150 "$python" benchmarks/startup.py --config="$(config_of "$name")" --rounds=2 --out="$folder" $tiny \
        --config.model.dtype=bfloat16 "${data[@]}" ;;
    compare)
      run "$part" 300 "$python" benchmarks/models.py --models "$name" --batch "$number" --dtype=bfloat16 --compile \
        --out="$folder" $tiny ;;
    ways)
      run "$part" 300 "$python" benchmarks/crossval_ways.py --config="$(config_of "$name")" --out="$folder" $tiny --resume \
        --config.train.epochs="$number" --config.model.dtype=bfloat16 "${data[@]}" ;;
    recipe)
      if ((!${#data[@]})); then
        failed+=("$part (set DATA to the folder of a data set)")
        continue
      fi
      run "$part" "$budget" "$python" -m esc_jax.main --config="$(config_of "$name")" --mode=crossval \
        --workdir="$folder/run" --config.train.epochs="$number" --config.train.checkpoint_epochs=50 \
        --config.train.tensorboard=False --config.model.dtype=bfloat16 "${data[@]}" $settings &&
        cp "$folder/run/report.md" "$folder/run/results.json" "$folder" ;;
    quickstart)
      run "$part" 120 "$python" -m esc_jax.main --config="$(config_of quickstart)" --workdir="$folder/run" &&
        cp "$folder/run/results.json" "$folder" && tail -n 5 "$out/part.log" ;;
  esac && touch "$folder/done"
  cat "$out"/*/*.md >"$out/gpu.md" 2>/dev/null
done
rm -f "$out/part.log"
echo "== done, at $SECONDS s"
for part in "${failed[@]+"${failed[@]}"}"; do echo "failed: $part"; done
exit ${#failed[@]}
