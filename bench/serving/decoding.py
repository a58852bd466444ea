"""Microseconds per 28x28 PNG of alternative decoders; all must give the same pixels.

    python -m bench decoding
    uv run --with opencv-python-headless python -m bench decoding        with OpenCV beside them

Decoders that are not installed are skipped.
"""

import io
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from bench.serving.budget import fastest
from bench.support.options import bench_parser

MANY = 64


def main(arguments: list[str]) -> int:
    """Print the table; return 1 if a decoder gives other pixels."""
    from bench.support.pictures import a_digit, png
    from bundle.images import decoding, plain_png

    parser = bench_parser("decoding", __doc__)
    parser.parse_args(arguments)
    data = png(a_digit())
    start = data.index(b"IDAT") + 4
    pixels = data[start : start + int.from_bytes(data[start - 8 : start - 4], "big")]
    scanlines = zlib.decompress(pixels)
    ways: dict[str, Callable[[], object]] = {
        "the service's way (bundle.images.decoding.decode)": lambda: decoding.decode(data),
        "of it the filters, by Pillow's C objects": lambda: plain_png.unfiltered([scanlines])[0],
        "Image.frombytes(..., 'zip'), nothing checked": lambda: np.frombuffer(
            Image.frombytes("L", (28, 28), pixels, "zip", "L").tobytes(), np.uint8
        ).reshape(28, 28),
        "Image.open, nothing checked": lambda: np.asarray(Image.open(io.BytesIO(data))),
        "the service's way for what is not plain": lambda: decoding.decode_any(data),
    }
    try:
        import cv2  # type: ignore[import-not-found]  # not a dependency, only compared with
    except ImportError:
        print("OpenCV is not installed: skipped")
    else:
        ways["OpenCV (cv2.imdecode)"] = lambda: cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED
        )
    same = True
    for name, way in ways.items():
        good = np.array_equal(np.asarray(way()), a_digit())
        print(f"{name:46} {fastest(way) * 1e6:7.2f} us{'' if good else '   OTHER PIXELS'}", flush=True)
        same = same and good
    many = [data] * MANY
    each = fastest(lambda: decoding.decode_all(many)) / MANY
    print(
        f"{f'{MANY} files at once (bundle.images.decoding.decode_all), each':46} {each * 1e6:7.2f} us",
        flush=True,
    )
    return 0 if same else 1
