"""Safety checks of an ONNX file, made on its bytes before ONNX Runtime or onnx parses them.

A graph can refer to other files (external data, whose path ONNX Runtime resolves against the working directory) and
to operators of other domains than ONNX's own, some of which load libraries and files. Graphs that Glyph publishes have
neither. The checks walk protobuf's wire format (protobuf.dev, "Encoding") by the field numbers of onnx.proto3, because
this package does not import onnx and the serving image does not contain it.
"""

from collections.abc import Iterator

from common.errors import one_line

MAX_FIELDS = 100_000
"""Most fields that are visited; a graph of 64 hidden layers has a few thousand, as each tensor's data is one field."""
MAX_DEPTH = 20
"""Deepest nesting of messages. A tensor in an attribute of a node is at depth 4; a subgraph adds three levels."""
MAX_FIELD_NUMBER = (1 << 29) - 1
DOMAINS = (b"", b"ai.onnx")
"""The two names of ONNX's own operator domain."""
ORT_FORMAT = b"ORTM"
"""Identifier of ONNX Runtime's own FlatBuffers format, at offset 4; the runtime parses such a file instead of ONNX."""

_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse tensor",
        23: "sparse tensor",
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Message to its fields that are messages themselves and can contain a tensor or a node."""
_NO_ONNX = "it is not an ONNX file"
_ELSEWHERE = "it has external data, that is weights in another file"
_FORBIDDEN_FIELDS = {
    ("model", 20): "it has graphs for training",
    ("model", 25): "it has functions of its own",
    ("tensor", 13): _ELSEWHERE,
}
_DOMAIN = ("node", 7)
_DATA_LOCATION = ("tensor", 14)

_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5


def unsafe_reason(data: bytes) -> str | None:
    """Return why an ONNX file is unsafe to parse, in a few words, or None if it is safe.

    Whether the file is a valid model is not checked here.
    """
    if data[4:8] == ORT_FORMAT:
        return "it has ONNX Runtime's own format, not ONNX"
    try:
        _walk(data)
    except ValueError as error:
        return str(error)
    return None


def _walk(data: bytes) -> None:
    """Visit every field of every message that can contain a tensor or a node.

    Where parsers differ (an overlong number, a field of the wrong wire type), the file is rejected, or the field is
    read in the more dangerous way.

    Raises:
        ValueError: a field is forbidden, or the bytes are not protobuf.
    """
    waiting = [("model", 0, len(data), 1)]
    fields = 0
    while waiting:
        message, start, end, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"its messages are nested more than {MAX_DEPTH} deep")
        for number, wire, value, content in _fields(data, start, end):
            fields += 1
            if fields > MAX_FIELDS:
                raise ValueError(f"it has more than {MAX_FIELDS} fields")
            where = (message, number)
            if where in _FORBIDDEN_FIELDS or (where == _DATA_LOCATION and (wire != _VARINT or value)):
                raise ValueError(_FORBIDDEN_FIELDS.get(where, _ELSEWHERE))
            if where == _DOMAIN and data[content] not in DOMAINS:
                domain = one_line(data[content][:60].decode("utf-8", "replace"))
                raise ValueError(f"it has an operator of the domain {domain!r}, which is not ONNX's own")
            if wire == _LEN and number in _MESSAGES[message]:
                waiting.append((_MESSAGES[message][number], content.start, content.stop, depth + 1))


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, slice]]:
    """Yield each field of the message between `at` and `end`: number, wire type, value of a varint, and its slice.

    Raises:
        ValueError: it is not a message.
    """
    while at < end:
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        start, value = at, 0
        if wire == _VARINT:
            value, at = _varint(data, at, end)
        elif wire == _LEN:
            size, start = _varint(data, at, end)
            at = start + size
        elif wire in (_I64, _I32):
            at += 8 if wire == _I64 else 4
        else:
            raise ValueError(_NO_ONNX)
        if at > end or not 0 < number <= MAX_FIELD_NUMBER:
            raise ValueError(_NO_ONNX)
        yield number, wire, value, slice(start, at)


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the varint that starts at `at`, of at most ten bytes, and the offset of its end."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError(_NO_ONNX)
