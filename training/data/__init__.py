"""Where the images come from: a data set as arrays, its split, and what is known of it.

From top to bottom; imports go down only. Open `data.py` first.

- `datasets`: what `--data` takes
- `formats/`: a reader for each container: IDX files, NumPy archives, folders of images
- `data` (arrays and the split), `holdout`, `subsets`, `duplicates`
- `fetch` (MNIST from the net), `class_names`
"""
