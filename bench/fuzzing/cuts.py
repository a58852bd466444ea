"""Deterministic segmentations of an input: whole, byte by byte, and random with its checksum as seed."""

import itertools
import zlib
from collections.abc import Iterator
from random import Random

CUTS = 4
"""Number of random segmentations; segments may be empty."""


def cuttings(data: bytes) -> Iterator[list[bytes]]:
    """Yield segmentations of the data."""
    yield [data]
    yield [data[place : place + 1] for place in range(len(data))]
    random = Random(zlib.crc32(data))  # noqa: S311  no secret
    places = [0, *sorted(random.randint(0, len(data)) for _ in range(CUTS)), len(data)]
    yield [data[start:stop] for start, stop in itertools.pairwise(places)]
