"""Large JSON is parsed in pieces, and comes out as if it had been parsed whole."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest

from bench.support.pictures import a_digit
from serving.errors import MalformedBodyError, TooManyImagesError
from serving.predict.bodies import json_documents, json_images, json_pieces
from serving.predict.bodies.json_pieces import PIECE_BYTES, ScatteredError

IMAGES = 256


def rows() -> Any:
    """Return images as rows."""
    return {"instances": [a_digit().tolist()] * IMAGES}


def flat() -> Any:
    """Return images of 784 numbers."""
    return {"instances": [a_digit().ravel().tolist()] * IMAGES}


def tensor() -> Any:
    """Return one flat tensor, as in the Open Inference Protocol."""
    data = a_digit().ravel().tolist() * IMAGES
    return {"id": "a", "inputs": [{"name": "images", "data": data, "datatype": "UINT8"}], "outputs": []}


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list of how many bytes each call of the parser was given."""
    sizes: list[int] = []
    whole = orjson.loads

    def loads(data: bytes) -> Any:
        sizes.append(len(data))
        return whole(data)

    monkeypatch.setattr(orjson, "loads", loads)
    return sizes


@pytest.mark.parametrize("document", [rows, flat, tensor, lambda: tensor()["inputs"][0]["data"]])
@pytest.mark.parametrize("option", [0, orjson.OPT_INDENT_2])
def test_no_call_of_the_parser_gets_more_than_a_few_pieces(
    document: Callable[[], Any], option: int, parsed: list[int]
) -> None:
    """The parser holds the interpreter's lock, and megabytes of it stop the event loop."""
    body = orjson.dumps(document(), option=option)
    assert json_documents.read(body, IMAGES) == document()
    assert len(body) > 7 * PIECE_BYTES
    assert max(parsed) <= 2 * PIECE_BYTES


def test_a_small_body_is_parsed_in_a_single_pass(parsed: list[int]) -> None:
    """What takes a millisecond is not cut."""
    body = orjson.dumps({"instances": rows()["instances"][:32]})
    assert json_documents.read(body, IMAGES) == orjson.loads(body)
    assert parsed[0] == len(body) < json_documents.SINGLE_PASS_BYTES


def test_images_of_a_large_body_are_those_that_were_sent() -> None:
    """The last of them as well as the first."""
    pixels = np.random.default_rng(4).integers(0, 256, (IMAGES, 28, 28), np.uint8)
    read = json_images.read(orjson.dumps({"instances": pixels.tolist()}), "white-on-black", IMAGES)
    assert np.array_equal(np.stack([image.pixels for image in read]), pixels)


def a_value(chance: random.Random, depth: int = 0) -> Any:
    """Return a JSON value made of chance."""
    kind = chance.random()
    if depth < 4 and kind < 0.5:
        return [a_value(chance, depth + 1) for _ in range(chance.randint(0, 6))]
    if depth < 4 and kind < 0.6:
        return {chance.choice(("a", 'b"', "\\", 'x\\"y')): a_value(chance, depth + 1) for _ in range(3)}
    return chance.choice((0, 255, -3.5, "", "a,b", ']"[', "\\", '\\"', '\\\\"', "ü", True, None))


def broken(chance: random.Random, body: bytes) -> bytes:
    """Return a body of which a byte was taken away or added."""
    at = chance.randrange(len(body))
    added = bytes((chance.choice(b',[]{}"\\ 0:'),)) if chance.random() < 0.5 else b""
    return body[:at] + added + body[at + (not added) :]


@pytest.mark.parametrize("piece", [20, 64, 300])
@pytest.mark.parametrize("is_broken", [False, True])
def test_pieces_are_the_whole(piece: int, is_broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is JSON is the same value, and what is none is refused, wherever it is cut."""
    monkeypatch.setattr(json_pieces, "PIECE_BYTES", piece)
    chance, taken = random.Random(piece), 0  # noqa: S311  no secret
    for _ in range(500):
        body = orjson.dumps({"instances": [a_value(chance) for _ in range(12)]})
        body = broken(chance, body) if is_broken else body
        found = json_pieces.structure(body, len(body))
        assert found is not None
        try:
            expected = orjson.loads(body)
        except orjson.JSONDecodeError:
            with pytest.raises((orjson.JSONDecodeError, ScatteredError)):
                json_pieces.loads(body, found)
            continue
        try:
            assert json_pieces.loads(body, found) == expected
        except ScatteredError:
            continue
        taken += 1
    assert taken > 100


def test_of_members_with_one_name_the_last_counts() -> None:
    """As it does where a body is parsed in one go."""
    large = orjson.dumps(flat()["instances"])
    assert json_documents.read(b'{"instances":%b,"instances":[1]}' % large, IMAGES) == {"instances": [1]}


@pytest.mark.parametrize("extra", [b",", b",,0", b"]", b"[", b'"'])
def test_a_large_body_that_is_no_json_is_refused(extra: bytes) -> None:
    """It is the client's fault, wherever it lies."""
    large = orjson.dumps(flat())
    with pytest.raises(MalformedBodyError):
        json_documents.read(large[:-2] + extra + large[-2:], IMAGES)
    with pytest.raises(MalformedBodyError):
        json_documents.read(large[: large.index(b",") + 1] + extra + large[large.index(b",") + 1 :], IMAGES)


def test_a_large_body_of_two_arrays_is_refused() -> None:
    """It cannot be cut, and no request has two."""
    half = orjson.dumps(flat()["instances"])
    with pytest.raises(MalformedBodyError, match="outside its largest array") as caught:
        json_documents.read(b'{"instances":%b,"more":%b}' % (half, half), 2 * IMAGES)
    assert "as one list" in caught.value.remedy


def test_too_many_values_are_refused_before_they_are_parsed(parsed: list[int]) -> None:
    """Each takes up to 64 bytes where two stood."""
    with pytest.raises(TooManyImagesError):
        json_documents.read(b'{"instances":[' + b'"",' * 1_000_000 + b'""]}', IMAGES)
    assert not parsed
