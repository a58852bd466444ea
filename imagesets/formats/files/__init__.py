"""Image files: in folders, in archives, with their labels.

Imports go down only, in this order:

- `folder.py`: on the disk; `archives.py`: in tar and zip files
- `sidecars.py`: labels in `.cls` and `.json` files beside an image; `zip_directory.py`
- `listing.py`: names of many files, in a temporary file instead of memory
- `layout.py`: parts and classes by folders
"""
