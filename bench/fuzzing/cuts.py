"""One input cut into packets in several ways, always the same ones: whole, byte by byte, and as its checksum says."""

import itertools
import zlib
from collections.abc import Iterator
from random import Random

CUTS = 4
"""In the third way; packets may be empty."""


def cuttings(data: bytes) -> Iterator[list[bytes]]:
    """Yield lists of pieces that are the data together."""
    yield [data]
    yield [data[place : place + 1] for place in range(len(data))]
    random = Random(zlib.crc32(data))  # noqa: S311  no secret
    places = [0, *sorted(random.randint(0, len(data)) for _ in range(CUTS)), len(data)]
    yield [data[start:stop] for start, stop in itertools.pairwise(places)]
