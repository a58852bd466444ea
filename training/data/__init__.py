"""Data sets and their splits: what `--data` names becomes images in memory, and the download of MNIST.

Open `loading.py` first, then `dataset.py`. Imports go down only, in this order:

- `loading`: the option `--data`, from the set that `imagesets/` finds to a `DataSet`
- `reading`: reads and decodes all images of a part
- `splits` (test and validation sets, nested subsets), `duplicates`
- `dataset`: a data set in memory and on the device
- `mnist_download`, `class_names` (images of each class), `problems` (what is wrong with many files)

The readers of the formats are the batch scorer's own (`imagesets/`).
"""
