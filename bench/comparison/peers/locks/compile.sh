#!/usr/bin/env bash
# Writes the peers' locks from what each of them needs (*.in): every package with its version and hashes.
#   bench/comparison/peers/locks/compile.sh path/to/uv [--upgrade]
# torchserve.txt is written by hand and has no hashes: PyTorch for a CPU alone, which suffices, is another file than
# PyPI's, which brings 3 GB of CUDA along.
set -euo pipefail
cd "$(dirname "$0")"
uv=$1
shift
for needs in *.in; do
  "$uv" pip compile --quiet --generate-hashes --no-annotate --python-version 3.11 \
    --custom-compile-command "bench/comparison/peers/locks/compile.sh" --output-file "${needs%.in}.txt" "$@" "$needs"
done
