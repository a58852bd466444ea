"""The input contract and the image decoder, shared by training, the service and the batch scorer.

- `decoding.py`: decodes any supported file with Pillow's parsers, after the checks below
- `resizing.py`: makes 28x28 of an image of another size, where the caller asks for it
- `plain_png.py`: fast path for the most common file, a grayscale PNG of 28x28 and 8 bits
- `hardening.py`, `tiff_directories.py`: protection against decompression bombs and the like, before a parser runs
- `tiff_kinds.py`, `bmp_palettes.py`: files of which Pillow misreads some, refused by name or rewritten as it reads them
- `orientation.py`: which way up an image is, by its metadata
- `numbers.py`: arrays of numbers to images: which shapes, types and ranges of values are read, and which are in doubt
- `brightness.py`: the mean of an image's pixels and of its border
- `contract.py`, `errors.py`: image size, polarity and ways to resize; the ways in which a file can be unusable

Nothing here imports pydantic, so that decoder processes start fast.
"""
