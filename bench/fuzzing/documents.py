"""JSON: incremental parsing gives the result of parsing the whole, within the limits."""

from typing import Any

import orjson

from bench.fuzzing.words import by_words
from serving.errors import MalformedBodyError, TooManyImagesError
from serving.predict.bodies import json_documents, json_pieces

json_pieces.PIECE_BYTES = PIECE = 24
json_documents.SINGLE_PASS_BYTES = 16

_IMAGE = [[0, 255, 1.5] * 2] * 3
SEEDS = [
    orjson.dumps({"instances": [_IMAGE] * 4}),
    orjson.dumps(
        {"instances": [{"b64": 'a"\\'}, [None, True, -1e-9, "é,[]{}"]] * 3}, option=orjson.OPT_INDENT_2
    ),
    orjson.dumps(
        {"id": "1", "inputs": [{"name": "images", "data": [1] * 60, "shape": [1, 2]}], "outputs": []}
    ),
    b'{"a":[1,2,3,4,5,6,7,8,9,10,11,12,13],"a":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19]}',
    b"[" * 20 + b"]" * 20,
    b'["\\\\","\\"","\\u005b","\\ud800",' + b'"[",' * 12 + b"[]]",
    b'"a string of more than a piece, with [brackets], in it"',
    b"[1,,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6,7,8,9,]",
]

mutate = by_words(
    [*(b"%c" % byte for byte in b'[]{},:"\\ '), b"1", b'"a"', b"null", b'"a":[', b"\\\\", b'\\"']
)


def feed(data: bytes) -> None:
    """Parse a document incrementally and as a whole."""
    try:
        whole: Any = orjson.loads(data)
        is_json = True
    except orjson.JSONDecodeError:
        is_json = False
    try:
        document = json_documents.read(data, 1)
    except MalformedBodyError as error:
        deepest, widest = extent(data)
        beyond = deepest > json_documents.MAX_DEPTH or widest < len(data) - PIECE or len(data) < 2 * PIECE
        assert not is_json or beyond, f"JSON is refused: {error}"
    except TooManyImagesError:
        most = json_documents.PIXELS + 1024
        assert data.count(b",") + data.count(b"[") + data.count(b"{") > most
    else:
        assert is_json, "no JSON is taken"
        assert document == whole, f"{document} is {whole} whole"


def extent(data: bytes) -> tuple[int, int]:
    """Return a JSON document's nesting depth and the length in bytes of its largest array."""
    opened: list[int] = []
    deepest = widest = place = 0
    while place < len(data):
        byte = data[place : place + 1]
        if byte == b'"':
            place += 1
            while place < len(data) and data[place] != ord('"'):
                place += 2 if data[place] == ord("\\") else 1
        elif byte in b"[{":
            opened.append(place)
            deepest = max(deepest, len(opened))
        elif byte in b"]}" and opened:
            start = opened.pop()
            widest = max(widest, place - start if byte == b"]" else 0)
        place += 1
    return deepest, widest
