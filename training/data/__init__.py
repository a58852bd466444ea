"""Where the images come from: a data set as arrays, its split, and what is known of it.

From top to bottom; imports go down only. Open `dataset.py` first.

- `loading`: what `--data` takes
- `formats/`: a reader for each container: IDX files, NumPy archives, folders of images
- `dataset` (arrays and the split), `splits`, `subsets`, `duplicates`
- `mnist_download` (MNIST from the net), `class_names`
"""
