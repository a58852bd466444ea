#!/usr/bin/env bash
# Writes the locks: each lists every package with its version and hashes, for Python 3.11 to 3.14.
# The development lock decides the versions; the others are the same versions, fewer packages.
#   lock/compile.sh path/to/uv [--upgrade]
set -euo pipefail
cd "$(dirname "$0")/.."
uv=$1
shift
runtime=lock/onnxruntime.in # its name is in the locks
# The head of a lock has the command that updates it, in the one form that Renovate reads and runs (renovate.json).
said() { # ARGUMENT...
  local command="uv pip compile --universal --python-version=3.11 --generate-hashes $*"
  command=${command//--extra /--extra=} command=${command//--constraints /--constraints=}
  command=${command// --constraints=$runtime/}
  echo "${command/ --upgrade/}"
}
compile() { # OUTPUT ARGUMENT...
  local output=$1
  shift
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-package glyph \
    --custom-compile-command "$(said --no-emit-package=glyph --output-file="$output" pyproject.toml "$@")" \
    --output-file "$output" pyproject.toml "$@"
}
# Which ONNX Runtime it is depends on the platform (`runtime` in pyproject.toml), and the version does not: the other has
# that of the one for GPUs, so that every platform and image answers as was tested.
trap 'rm -f "$runtime"' EXIT
compile lock/development.txt --extra development "$@"
sed -n 's/^onnxruntime-gpu\(==[^ ]*\).*/onnxruntime\1/p' lock/development.txt >"$runtime"
compile lock/development.txt --extra development --constraints "$runtime"
compile lock/run.txt --extra training --extra serving --constraints lock/development.txt
compile lock/tracking.txt --extra training --extra serving --extra tracking --constraints lock/development.txt
compile lock/ray.txt --extra training --extra serving --extra ray --constraints lock/development.txt
compile lock/training.txt --extra training --extra signing --constraints lock/development.txt
# Images install one of these two, and for batch scoring the third on top.
compile lock/image-cuda.txt --extra image-cuda --constraints lock/development.txt
compile lock/image-cpu.txt --extra image-cpu --constraints lock/development.txt --constraints "$runtime"
compile lock/image-scoring.txt --extra scoring --constraints lock/development.txt
# On top of any of them, the client of one object store.
for store in s3 gcs azure; do
  compile "lock/store-$store.txt" --extra "$store" --constraints lock/development.txt
done
# In environments of their own: other people's clients, which tests run unmodified, and linters.
for name in clients linters; do
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --custom-compile-command "$(said --output-file="lock/$name.txt" "lock/$name.in" "$@")" \
    --output-file "lock/$name.txt" "lock/$name.in" "$@"
done
