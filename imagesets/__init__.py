"""The containers that people hold 28x28 images in, read once for training and for scoring.

- `array_files.py`: what stands before the numbers in IDX files and NumPy's `.npy`, and what may follow it
"""
