"""The contract between training and serving: what a published model is, on disk.

`training` writes bundles, `serving` reads them, and both know only this package, which imports
neither torch nor onnxruntime. Open `manifest.py` first (what a bundle states), then
`repository.py` (how one is published and found) and `reading.py` (the one way in which its files are read).
`images.py` is the other half of the contract: what a file's pixels are, for whoever reads one; `array_files.py`
reads the heads of files of arrays, and `drift.py` says what images look like and how far that has moved. `page.py`,
`sheet.py` and `confusion.py` are the parts that every report is made of; `progress.py` is what jobs show meanwhile.
"""

import os

__version__ = "0.1.0"
"""Glyph's. It stands here because an image has no pyproject.toml, and a checkout need not be installed."""

# ONNX Runtime reports to its maker from Linux too, unless this is set before it is imported (its pull request 27379).
# Both of this package's users import it first.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
