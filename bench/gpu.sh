#!/usr/bin/env bash
# Everything that only a GPU can show, in two groups of parts:
#
#     bash bench/gpu.sh first    at most 400 s: driver, tests, one training, serving, accuracy and speed
#     bash bench/gpu.sh long     at most 550 s: the presets strong and record (800 epochs), one seed each; augmentation
#
# Run it in the repository's root with the environment's python3 first on PATH. Each part has a time limit of its own
# and writes what it says to $OUT/PART.txt ($OUT is a new directory where it is not set); one that fails stops no other.
# Exit code: 0 every part passed, 1 one failed or ran out of time, 3 there is no GPU to run on, 2 misuse.
set -uo pipefail
case ${1:-} in first | long) ;; *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;; esac
out=${OUT:-$(mktemp -d)} work=$(mktemp -d) failed=0 none=0
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
tests=(python3 -m pytest -q -rs -p no:cacheprovider -o addopts=--import-mode=importlib -o filterwarnings=default -m gpu)
# The machine may have other versions than the lock, and not every plugin that pyproject.toml configures.

part() { # NAME SECONDS COMMAND...
  local name=$1 seconds=$2 file=$out/$1.txt started=$SECONDS code said
  shift 2
  timeout --kill-after=10 "$seconds" "$@" >"$file" 2>&1
  code=$?
  grep -q '[0-9] skipped' "$file" && ! grep -qE '[0-9] (passed|failed|error)' "$file" && code=3
  case $code in
    0) said=passed ;;
    3 | 69) said="no GPU" none=1 ;; # 69 is what the training job exits with
    124 | 137) said="not done within $seconds s" failed=1 ;;
    *) said="FAILED with exit code $code" failed=1 ;;
  esac
  echo "== $name: $said ($((SECONDS - started)) s), $file"
  tail -n 4 "$file" | cut -c1-300
}

if [[ $1 = first ]]; then
  part driver 20 python3 -m bench.gpu.driver
  part tests-training 90 "${tests[@]}" tests/gpu tests/training/augmentation/test_augmenter.py
  part tests-serving 50 "${tests[@]}" tests/serving/model/test_cuda.py
  part fit 50 python3 -m training fit --device cuda --models "$work" --runs "$work/runs" --name mnist
  part serving 60 python3 -m bench gpu --model "$work/mnist" --seconds 0.1 --service-seconds 1
  # shellcheck disable=SC2016  # the inner shell's variable
  part presets 100 bash -c 'for precision in float32 bfloat16; do python3 -m bench presets --device cuda \
    --preset default --preset course --seeds 2 --precision "$precision" || exit; done'
  part training 30 python3 -m bench training --device cuda --rounds 3
else
  part strong 90 python3 -m bench presets --device cuda --preset strong --seeds 1
  part record 420 python3 -m bench presets --device cuda --preset record --epochs 800 --seeds 1
  part augmentation 40 python3 -m bench augmentation --device cuda --rounds 3
fi
((failed)) && exit 1
((none)) && exit 3
exit 0
