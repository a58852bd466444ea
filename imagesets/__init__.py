"""The containers that people have 28x28 images in, read for training and scoring alike: streams of images and labels.

Open `image_set.py` first: it finds out what is at a path. Imports go down only, in this order:

- `image_set.py`: the set at a path: its parts, their images and labels
- `label_files.py`: labels in a file of their own
- `opening.py`: one file: its kind by its first bytes, its reader, and what is refused with which way round
- `formats/`: the readers, one module a format
- `label_tables.py`: tables of names and labels, matched by the column that fits the names of the rows
- `streams.py`: files that may be compressed
- `names/`: class names, known sets, and what the names of files and folders say
- `source.py`: what every reader gives, and the options of reading
- `labels.py`: a column of labels, and its matching with a model's classes
- `errors.py`, `lazy_strings.py`

Formats' libraries (pyarrow, SciPy) are imported where a file needs them. The service imports nothing of this.
"""
