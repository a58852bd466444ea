"""What is scored: the inputs as sources of rows in a deterministic order, and the decoding of image files.

- `sources.py`: opens folders, files, glob patterns, lists, data sets and the standard input; read it first
- `decoding.py`: decodes image files to `uint8[n, 28, 28]`, in a pool of processes

The readers of the formats are training's own (`imagesets/`).
"""
