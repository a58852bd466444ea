"""Where the images come from: a data set as arrays, its split, and what is known of it.

From top to bottom; imports go down only. Open `dataset.py` first.

- `loading`: what `--data` takes
- `formats/`: a reader for each container: IDX files, NumPy archives, folders of images
- `splits` (test, validation and nested parts), `duplicates`
- `dataset`: arrays in memory, and on the device
- `mnist_download`, `class_names`
"""
