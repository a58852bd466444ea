"""Readers of data set formats: `--data idx:DIR`, `npz:FILE` and `folder:DIR`.

- `idx_sets` (MNIST and its siblings), over `idx_files` (their names and hashes), `known_sets`, `idx`
- `npz`: NumPy archives
- `folder`, over `problems`: image files by class
"""
