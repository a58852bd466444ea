"""Hostile inputs: damaged image files and invalid requests, from a random generator.

What is damaged was whole before, so that the damage lies deep: a PNG's checksums are put right again after
its chunks were changed, its pixels are packed again after they were, a form has its boundaries.
"""

import base64
import gzip
import io
import struct
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import orjson

from bench.support import handmade
from bench.support.handmade import GRAY, PALETTE, RGBA, a_png, chunk
from bench.support.pictures import EVERY_MODE, SAMPLES, odd_tiff, webp_bomb
from bench.support.processes import Part, form
from serving.predict.exchange import Request

MODEL = "synthetic"
"""The model's name in `bench.support.models`."""
NUMBERS = (0, 1, 27, 28, 29, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
MOST_CHANGES = 6

_SHADES = np.random.default_rng(0).integers(0, 256, (28, 28, 4))
FILES: list[bytes] = [
    *EVERY_MODE,
    *SAMPLES.values(),
    odd_tiff(),
    webp_bomb(),
    *[
        a_png(_SHADES[..., 0] >> 4, GRAY, 4, interlaced=odd, extra=chunk(b"tRNS", b"\0\3"))
        for odd in (False, True)
    ],
    a_png(_SHADES, RGBA, interlaced=True),
    a_png(_SHADES[..., 0] >> 6, PALETTE, 2, extra=chunk(b"PLTE", bytes(12)) + chunk(b"tRNS", b"\0\5")),
    a_png(_SHADES[..., 0], GRAY, extra=chunk(b"eXIf", handmade.a_tiff({0x0112: (3, 1, 6)}, b""))),
    a_png(_SHADES[..., 0], GRAY, extra=chunk(b"acTL", struct.pack(">II", 2, 0))),
    handmade.raw_tiff(_SHADES.astype(np.uint8), 5),
    handmade.raw_tiff(_SHADES[..., :3].astype(np.uint16) * 257, 2, order=">"),
]
"""Valid files to start from."""


def file(random: Random) -> bytes:
    """Return a file: valid, damaged, two concatenated, or noise."""
    kind = random.random()
    data = random.choice(FILES)
    if kind < 0.03:
        return data
    if kind < 0.06:
        return data[: random.randrange(32)] + random.randbytes(random.randrange(400))
    if kind < 0.1:
        return data + random.choice(FILES)
    if data.startswith(handmade.SIGNATURE) and kind < 0.7:
        return _png(random, data)
    return damaged(random, data)


def damaged(random: Random, data: bytes) -> bytes:
    """Return the bytes with a few random changes."""
    for _ in range(random.randint(1, MOST_CHANGES)):
        if data:
            data = random.choice(_CHANGES)(random, data)
    return data


def _flip(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def _overwrite(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data))
    noise = random.randbytes(random.randint(1, 12))
    return data[:at] + noise + data[at + len(noise) :]


def _number(random: Random, data: bytes) -> bytes:
    at, form_ = random.randrange(len(data)), random.choice(("<H", ">H", "<I", ">I", "B"))
    size = struct.calcsize(form_)
    number = struct.pack(form_, random.choice(NUMBERS) & ((1 << 8 * size) - 1))
    return data[:at] + number + data[at + size :]


def _drop(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data))
    return data[:at] + data[at + random.randint(1, 40) :]


def _repeat(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data))
    piece = data[at : at + random.randint(1, 60)]
    return data[:at] + piece * random.randint(2, 5) + data[at:]


def _cut(random: Random, data: bytes) -> bytes:
    return data[: random.randrange(len(data))]


def _splice(random: Random, data: bytes) -> bytes:
    other = random.choice(FILES)
    at = random.randrange(len(data))
    return data[:at] + other[random.randrange(len(other)) :]


_CHANGES: tuple[Callable[[Random, bytes], bytes], ...] = (
    _flip, _flip, _overwrite, _overwrite, _number, _number, _drop, _repeat, _cut, _splice,
)  # fmt: skip


def _png(random: Random, data: bytes) -> bytes:
    """Return a PNG with damaged, reordered or additional chunks, and correct checksums."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    for _ in range(random.randint(1, 3)):
        place = random.randrange(len(chunks))
        kind, content = chunks[place]
        match random.randrange(6):
            case 0 | 1:
                chunks[place] = kind, damaged(random, content)
            case 2 if kind == b"IDAT":
                chunks[place] = kind, zlib.compress(damaged(random, _unpacked(content)), 1)
            case 2 | 3:
                chunks.insert(
                    place, (random.choice((kind, b"tRNS", b"PLTE", b"iCCP", b"zTXt", b"fcTL")), content)
                )
            case 4:
                chunks.append(chunks.pop(place))
            case _:
                chunks[place] = random.randbytes(4), content
    return handmade.SIGNATURE + b"".join(chunk(kind, content) for kind, content in chunks)


def _unpacked(data: bytes) -> bytes:
    try:
        return zlib.decompress(data)
    except zlib.error:
        return data


# Requests

TYPES = (
    *SAMPLES, "image/jpg", "image/svg+xml", "application/json", "application/octet-stream", "application/x-npy",
    "application/x-www-form-urlencoded", "multipart/form-data", "multipart/form-data; boundary=frontier",
    "multipart/mixed; boundary=frontier", "text/plain", "", ";", "image/png; charset=x", "IMAGE/PNG", "\xff/\xfe",
)  # fmt: skip
HOSTILE_NUMBERS = (
    "0", "255", "256", "-1", "0.5", "1e400", "-1e400", "NaN", "Infinity", "-Infinity", "1e-400", "9" * 400, "-0",
    "2147483648", "9223372036854775808", "1E5", "01", "+1", ".5", "0x10", "null", "true", '"7"', "[]", "{}",
)  # fmt: skip
QUERIES = (
    "", "top=3", "top=0", "top=-1", "top=99999999999999999999", "threshold=0.5", "threshold=nan", "threshold=inf",
    "threshold=1e999", "top=3&top=4", "topp=3", "top", "&&&", "top=%zz", "top=%ff", "a=" + "b" * 3000, "%00", "top=3;x",
)  # fmt: skip
HOSTILE_VERSIONS = (
    "/versions/0",
    "/versions/99999999999999999999",
    "/versions/x",
    "/versions/-1",
    "/versions/2",
)
BOMB = gzip.compress(bytes(20 << 20), 9)
"""20 KiB that decompress to 20 MiB, more than the limit of a body."""


def request(random: Random) -> Request:
    """Return a request for a prediction route with valid framing; anything else may be invalid."""
    protocol = random.random() < 0.3
    path = "/predict"
    headers: dict[str, str] = {}
    if protocol:
        version = random.choice(("", "", "", "/versions/1", random.choice(HOSTILE_VERSIONS)))
        path = f"/v2/models/{random.choice((*[MODEL] * 8, 'other', 'é'))}{version}/infer"
        headers, body = _infer(random)
    else:
        headers, body = _predict(random)
    if random.random() < 0.1:
        body = _coded(random, body, headers)
    if random.random() < 0.15:
        headers |= _fields(random)
    query = random.choice(QUERIES) if random.random() < 0.15 else ""
    return Request(method="POST", path=path, query=query, headers=headers, body=body)


def _predict(random: Random) -> tuple[dict[str, str], bytes]:
    kind = random.random()
    if kind < 0.3:
        media_type, body = random.choice(TYPES), file(random)
        return {"content-type": media_type}, body
    if kind < 0.4:
        data = file(random) if random.random() < 0.5 else random.choice(list(SAMPLES.values()))
        media_type = next((name for name, whole in SAMPLES.items() if data[:4] == whole[:4]), "image/png")
        return {"content-type": media_type}, data
    if kind < 0.65:
        parts = [
            Part(
                file(random),
                filename=random.choice(("a.png", "", "\u00e9.png", 'a"b', None, "x" * 300)),
                content_type=random.choice((None, *TYPES)),
            )
            for _ in range(random.randrange(5))
        ]
        body, media_type = form(*parts)
        return {"content-type": media_type}, damaged(random, body) if random.random() < 0.5 else body
    if kind < 0.9:
        text = _json(random)
        body = damaged(random, text) if random.random() < 0.4 else text
        return {"content-type": "application/json"}, body
    return _arrays(random)


def _arrays(random: Random) -> tuple[dict[str, str], bytes]:
    count = random.choice((0, 1, 1, 1, 2, 7, random.choice((7, 300))))
    pixels = random.randbytes(784 * count)
    if random.random() < 0.4:
        return {"content-type": "application/octet-stream"}, damaged(random, pixels or b"x")
    buffer = io.BytesIO()
    shape = random.choice(((count, 28, 28), (count, 784), (28, 28, count), (count * 784,)))
    array = np.frombuffer(pixels, np.uint8).reshape(shape)
    np.save(buffer, array.astype(random.choice(("u1", "u1", "u1", "f4", "i8", "S1", "c16"))))
    body = buffer.getvalue()
    return {"content-type": "application/x-npy"}, damaged(random, body) if random.random() < 0.6 else body


def _json(random: Random) -> bytes:
    instances = ", ".join(_instance(random) for _ in range(random.choice((0, 1, 1, 2, 5))))
    match random.randrange(12):
        case 0:
            depth = random.choice((10, 100, 5000))
            return b'{"instances": ' + b"[" * depth + b"]" * depth + b"}"
        case 1:
            return f'{{"instances": {random.choice(HOSTILE_NUMBERS)}}}'.encode()
        case 2:
            return f'{{"instances": [{instances}], "more": {random.choice(HOSTILE_NUMBERS)}}}'.encode()
        case _:
            return f'{{"instances": [{instances}]}}'.encode()


def _instance(random: Random) -> str:
    kind = random.random()
    if kind < 0.3:
        text = base64.b64encode(file(random)).decode()
        text = random.choice((text, f"data:image/png;base64,{text}", text[:-1], "data:,", text + "\0"))
        return orjson.dumps({"b64": text} if kind < 0.1 else text).decode()
    numbers = [str(number) for number in random.randbytes(random.choice((784, 784, 784, 783, 28)))]
    for _ in range(random.randrange(3)):
        numbers[random.randrange(len(numbers))] = random.choice(HOSTILE_NUMBERS)
    if kind < 0.6:
        return f"[{','.join(numbers)}]"
    rows = [f"[{','.join(numbers[at : at + 28])}]" for at in range(0, len(numbers), 28)]
    return f"[{','.join(rows)}]"


def _infer(random: Random) -> tuple[dict[str, str], bytes]:
    """Return an Open Inference Protocol request, in JSON or with a binary tensor."""
    count = random.choice((1, 1, 1, 1, 1, 2, 0, -1, random.choice((7, 300)), 1 << 40))
    pixels = random.randbytes(784 * max(0, min(count, 300)))
    tensor: dict[str, Any] = {
        "name": random.choice(("images", "images", "images", "image", 7, None)),
        "shape": random.choice(
            ([count, 28, 28], [count, 28, 28], [count, 784], [], [28], "x", [1.5, 28, 28])
        ),
        "datatype": random.choice(("UINT8", "UINT8", "UINT8", "FP32", "BYTES", "uint8", 3)),
    }
    binary = random.random() < 0.5
    if binary:
        size = random.choice((len(pixels), len(pixels), len(pixels), 0, -1, 1 << 60, "784", None))
        tensor["parameters"] = {"binary_data_size": size}
    else:
        tensor["data"] = random.choice((list(pixels), [list(pixels)], "x", [256], [None], [-1] * 784))
    document: dict[str, Any] = {
        "inputs": random.choice(([tensor], [tensor], [tensor], [tensor, tensor], [], tensor))
    }
    if random.random() < 0.3:
        document["outputs"] = [{"name": random.choice(("logits", "probabilities", "x", 1))}]
    if random.random() < 0.3:
        document["parameters"] = {
            random.choice(("binary_data_output", "x")): random.choice((True, "x", None, 1e9))
        }
    if random.random() < 0.3:
        document["id"] = random.choice(("a", "", 7, "\u0000", "x" * 5000))
    header = orjson.dumps(document)
    if random.random() < 0.2:
        header = damaged(random, header)
    if not binary:
        return {"content-type": "application/json"}, header
    length = random.choice(
        (len(header), len(header), len(header), 0, len(header) + 1, -1, 1 << 40, "", "x", "0x1")
    )
    fields = {"inference-header-content-length": str(length), "content-type": "application/octet-stream"}
    return fields, header + (damaged(random, pixels) if pixels and random.random() < 0.2 else pixels)


def _coded(random: Random, body: bytes, headers: dict[str, str]) -> bytes:
    """Compress the body, validly or not, and set a Content-Encoding, correctly or not."""
    headers["content-encoding"] = random.choice(
        ("gzip", "gzip", "deflate", "br", "identity", "gzip, gzip", "", "GZIP")
    )
    match random.randrange(5):
        case 0:
            return body
        case 1:
            return BOMB if random.random() < 0.1 else gzip.compress(body, 1)[:-5]
        case 2:
            return damaged(random, gzip.compress(body, 1))
        case 3:
            return zlib.compress(body, 1)
        case _:
            return gzip.compress(body, 1)


def _fields(random: Random) -> dict[str, str]:
    """Return irrelevant header fields, some invalid; none sets a deadline that could expire."""
    fields = {
        "accept-encoding": random.choice(
            ("gzip", "gzip;q=0", "*", "identity;q=0", "x" * 200, ";;;", "gzip;q=nan")
        ),
        "accept": random.choice(("*/*", "application/json", "text/html", "x/y;q=2")),
        "x-request-id": random.choice(("a-b", "x" * 500, "a b", "\xe9", "")),
        "x-request-timeout-ms": random.choice(("60000", "-1", "x", "1e3", "9" * 30, "")),
        "traceparent": random.choice(
            (f"00-{'a' * 32}-{'b' * 16}-01", "00-x", f"00-{'0' * 32}-{'b' * 16}-01")
        ),
        "tracestate": random.choice(("a=b", "=" * 600, "a=b," * 50)),
        "authorization": random.choice(("Bearer x", "Basic x", "\xff")),
        "origin": random.choice(("null", "https://x.example.org", "x" * 500)),
    }
    names = random.sample(sorted(fields), random.randint(1, 4))
    return {name: fields[name] for name in names}
