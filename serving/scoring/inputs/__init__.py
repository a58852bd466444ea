"""Input formats: image files, archives, arrays and Parquet, listed in a deterministic order.

- `sources.py`: opens folders, files and glob patterns as a list of sources; read it first
- `archives.py`, `zip_directory.py`: tar and zip, by member offsets; `tables.py`: Parquet
- `arrays.py`: IDX, `.npy` and `.npz`
- `decoding.py`: decodes image files to `uint8[n, 28, 28]`, in a pool of processes
- `listing.py`: names of many rows, in a temporary file instead of memory
"""
