"""The contract between training and serving: the format of a published model on disk.

`training` writes bundles and `serving` reads them. They share only this package, which imports neither PyTorch nor
ONNX Runtime. From top to bottom; read `manifest.py` first:

- `remote.py`: versions in object stores, pushed whole or not at all
- `fetch.py`, `verify.py`: download a version by URL; verify a version from its bytes
- `repository.py`: the model repository, with atomic publishing; every read goes through `reading.py`
- `signing.py`: signatures of versions, and which files a trusted key has signed
- `golden.py`, `graph.py`: the golden examples; checks of an ONNX file before it is parsed
- `manifest.py`: the metadata and hashes of a version
- `version_paths.py`: which path is a model's and which a version's
- `drift.py`: histograms of images and predictions, and their population stability index; `triton.py`
- `images/`: the input contract, and the image decoder that training, service and batch scorer share
"""

import os

__version__ = "0.1.0"
"""Glyph's version. It is here because a container image has no pyproject.toml, and a checkout need not be installed."""

# ONNX Runtime sends telemetry, on Linux too, unless this is set before it is imported (its pull request 27379).
# `training` and `serving` therefore import this package first.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
