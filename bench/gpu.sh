#!/usr/bin/env bash
# Everything that only a GPU can show: the CUDA tests, then the figures. Run in the repository's root, with
# the environment's python first on PATH; the table comes last.
set -uo pipefail
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
python3 -c 'import torch, onnxruntime; print("torch", torch.__version__, "onnxruntime", onnxruntime.__version__)'
failed=0
python3 -m pytest -q -m gpu tests || failed=1
models=$(mktemp -d)
python3 -m training fit --models "$models" --name mnist --runs "$models/runs" && \
  python3 -m bench gpu --model "$models/mnist" || failed=1
rm -rf "$models"
python3 -m bench augmentation --device cuda || failed=1
python3 -m bench training --device cuda || failed=1
python3 -m bench presets --device cuda --preset course --preset default --preset strong || failed=1
python3 -m bench presets --device cuda --preset record --seeds 1 || failed=1
exit "$failed"
