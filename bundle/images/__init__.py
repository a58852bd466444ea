"""The decoder of image files, and the input contract: the same for training, the service and the scorer.

- `decoding.py`: any file, by Pillow's parsers, after what is below has let it pass
- `plain_png.py`: the most common file, a gray PNG of 28x28 and 8 bits, without a parser
- `hardening.py`, `tiff_directories.py`: decompression bombs and their like, told before a parser runs
- `contract.py`, `errors.py`: size and polarity; what can be wrong with a file

Processes that decode start without pydantic: nothing here imports it.
"""
