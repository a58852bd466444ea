"""Image files: plain PNGs decode as by Pillow, hardening changes no pixel, and memory is bounded."""

import io
import resource
import struct
import zlib
from random import Random

import numpy as np

from bench.fuzzing import hostile
from bench.support.handmade import RAW, SIGNATURE, UNSOUND, filtered, plain
from bench.support.pictures import Pixels, a_digit, png
from bundle.images import decoding, hardening, plain_png
from bundle.images.errors import ImageError
from bundle.images.hardening import MAX_FILE_BYTES, SERVED

SEEDS = [
    png(a_digit()),
    *[plain(zlib.compress(filtered(a_digit(), kind))) for kind in range(5)],
    *[plain(zlib.compress(RAW, level)) for level in (0, 1, 9)],
    *[plain(stream) for stream in UNSOUND.values()],
    *hostile.FILES,
]
REWRITTEN = ("image/tiff", "image/bmp")
"""Formats of which Pillow misreads some files, so that another file is put before it."""
MOST_KIB = 32 << 10
"""Maximum growth of peak memory for a file of at most 1 MiB."""


def feed(data: bytes) -> None:
    """Decode a file with every decoder."""
    before = peak_kib()
    found, small = decoded(data), resized(data)
    assert small is None or small.shape == (28, 28)
    grown = peak_kib() - before
    assert grown <= MOST_KIB, f"to decode it took {grown} KiB"
    short = plain_png.decode(data)
    if short is not None:
        assert found is not None, "the short way accepts what Pillow refuses"
        assert np.array_equal(short, found), "the short way and Pillow see different pixels"
        assert np.array_equal(decoding.decode(data), found)
        assert np.array_equal(plain_png.unfiltered([RAW, plain_png.scanlines(data) or b""])[1], found)
    if found is not None:
        assert found.shape == (28, 28)
        assert found.dtype == np.uint8
        assert len(data) <= MAX_FILE_BYTES
        unhardened = None if decoding.sniff(data) in REWRITTEN else by_pillow(data)
        assert unhardened is None or np.array_equal(unhardened, found), "hardening has changed a pixel"


def decoded(data: bytes) -> Pixels | None:
    """Return the pixels by Pillow's parsers; None if the file is rejected."""
    try:
        return decoding.decode_any(data)
    except ImageError:
        return None


def resized(data: bytes) -> Pixels | None:
    """Return the pixels as the service resizes them; None if the file is rejected."""
    try:
        return decoding.decode(data, "mnist", limits=SERVED)
    except ImageError:
        return None


def by_pillow(data: bytes) -> Pixels | None:
    """Return the pixels of the unmodified file; None if Pillow rejects it."""
    try:
        with decoding.PARSERS[str(decoding.sniff(data))](io.BytesIO(data)) as image:
            return decoding._pixels(image, hardening.sanitise(data, str(decoding.sniff(data))))  # noqa: SLF001
    except Exception:  # noqa: BLE001  its errors share no base
        return None


def peak_kib() -> int:
    """Return this process's peak memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """Return a mutated file, by libFuzzer or `bench.fuzzing.hostile`; a PNG's checksums are mostly correct."""
    import atheris

    random = Random(seed)  # noqa: S311  no secret
    kind = random.random()
    if kind < 0.4 and data.startswith(SIGNATURE) and len(data) > 20:
        changed = hostile._png(random, data)  # noqa: SLF001
    elif kind < 0.5:
        changed = hostile.damaged(random, data)
    else:
        changed = mended(atheris.Mutate(data, len(data) + 64)) if kind < 0.9 else atheris.Mutate(data, most)
    return changed[:most]


def mended(data: bytes) -> bytes:
    """Return a PNG with corrected chunk checksums; any other file unchanged."""
    if not data.startswith(SIGNATURE):
        return data
    at, pieces = len(SIGNATURE), [SIGNATURE]
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        pieces += [data[at:end], struct.pack(">I", zlib.crc32(data[at + 4 : end]))]
        at = end + 4
    return b"".join([*pieces, data[at:]])
