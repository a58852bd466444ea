"""What is scored: image files, archives of them, files of numbers and Parquet, in an order that is always the same.

- `sources.py`: folders, files and patterns, as a list of sources; read it first
- `archives.py`, `zip_directory.py`: tar and zip, by the places of their members; `tables.py`: Parquet
- `arrays.py`: IDX, `.npy` and `.npz`
- `decoding.py`: from rows to `uint8[n, 28, 28]`, in processes of their own
- `listing.py`: names of many rows in a file, not in memory
"""
