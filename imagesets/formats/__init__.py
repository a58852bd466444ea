"""Readers of the containers of images, one module a format; each opens a file as sources (`imagesets/source.py`).

Open `arrays/idx.py` first, a short one. `imagesets/opening.py` calls the readers of files, `imagesets/image_set.py`
that of folders. Imports go down only, in this order:

- `tables/`: CSV and Parquet
- `arrays/`: IDX, `.npy`, `.npz`, MATLAB 5
- `files/`: image files in folders and archives

A reader checks what a header claims before it allocates. It unpickles nothing, and no member of an archive is written
where its name says.
"""
