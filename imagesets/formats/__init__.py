"""Readers of the containers of images, one module a format; each opens a file as sources (`imagesets/source.py`).

Open `idx.py` first, a short one. Who calls them is `imagesets/opening.py`, and `imagesets/image_set.py` for folders.

- `idx.py`; `numpy_files.py`: `.npy` and `.npz`; `mat.py`: MATLAB 5
- `csv_files.py`; `parquet.py`, over `parquet_source.py`
- `archives.py`: tar and zip; `folder.py`: image files on the disk

They share:

- `array_source.py`: a source of images in a stream of bytes; `numbers.py`: other types and ranges; `headers.py`
- `pixel_columns.py`, `pixel_table.py`: tables with a column for each pixel
- `layout.py`: parts and classes by folders; `sidecars.py`: `.cls` and `.json` beside an image
- `listing.py`: names of many files, in a temporary file instead of memory; `zip_directory.py`
- `streams.py`: files that may be compressed

A reader checks what a header claims before it allocates. It unpickles nothing, and no member of an archive is written
where its name says.
"""
