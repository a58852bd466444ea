"""Arrays of numbers: IDX, NumPy's and MATLAB's files.

Imports go down only, in this order:

- `idx.py`; `numpy_files.py`: `.npy` and `.npz`; `mat.py`: MATLAB 5
- `numbers.py`: arrays of other types, ranges and sizes become images
- `array_source.py`: a source of images in a stream of bytes; `headers.py`: of IDX and `.npy`
"""
