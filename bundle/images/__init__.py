"""The input contract and the image decoder, shared by training, the service and the batch scorer.

- `decoding.py`: decodes any supported file with Pillow's parsers, after the checks below
- `plain_png.py`: fast path for the most common file, a grayscale PNG of 28x28 and 8 bits
- `hardening.py`, `tiff_directories.py`: protection against decompression bombs and the like, before a parser runs
- `contract.py`, `errors.py`: image size and polarity; the ways in which a file can be unusable

Nothing here imports pydantic, so that decoder processes start fast.
"""
