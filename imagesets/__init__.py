"""Readers of image set formats, shared by training and scoring.

- `array_files.py`: headers of IDX files and of NumPy's `.npy`
"""
