"""Data sets and their splits: readers of each format, class names, and the download of MNIST.

Open `dataset.py` first. Imports go down only, in this order:

- `loading`: the option `--data`
- `formats/`: a reader for each format: IDX files, NumPy archives, folders of images
- `splits` (test and validation sets, nested subsets), `duplicates`
- `dataset`: a data set in memory and on the device
- `mnist_download`, `class_names`
"""
