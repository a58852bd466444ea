"""The contract between training and serving: what a published model is, on disk.

`training` writes bundles, `serving` reads them, and both know only this package, which imports
neither torch nor onnxruntime. From top to bottom:

- `fetch.py`, `verify.py`: a version from a URL; a version checked again from its bytes
- `repository.py`: versions in a directory, published atomically, read by `reading.py`, the one way
- `golden.py`, `graph.py`: the golden examples; what an ONNX file must not make a reader do
- `manifest.py`: what a version states about itself; read it first
- `drift.py`: what images look like, counted over the manifest's bins, and how far that has moved; `triton.py`
- `images/`: the input contract, and the decoder of image files that training, service and scorer share
"""

import os

__version__ = "0.1.0"
"""Glyph's. It stands here because an image has no pyproject.toml, and a checkout need not be installed."""

# ONNX Runtime reports to its maker from Linux too, unless this is set before it is imported (its pull request 27379).
# Both of this package's users import it first.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
