"""The document of an answer, which is written from pieces: the same bytes as a JSON library writes of all of it."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest

from bench.support.models import Linear
from bench.support.pictures import Pixels
from bundle.repository import Bundle
from serving.model.engine import Outputs
from serving.predict.exchange import Response
from serving.predict.query import parse
from serving.predict.response_json import encode

NASTY = ('a "b"', "50%", "%b%%d", "\\", "é\u2028", " ", "1,2],[3", "}", "null", "\t")
"""Names of classes that mean something to JSON or to a template."""
BLACK = np.zeros((1, 28, 28), np.uint8)
WARNINGS = ((), ('a "warning"',), ("one", "50% of two"))


@pytest.fixture(scope="module", name="nasty")
def fixture_nasty(bundle: Bundle) -> Bundle:
    """Return a bundle whose classes have such names."""
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"classes": NASTY}))


def rows(*probabilities: float) -> Outputs:
    """Return outputs of an image for each probability, which its last but one class has."""
    images = np.full((len(probabilities), 10), 1e-9, np.float32)
    images[:, 8] = probabilities
    return Outputs(np.log(images), images)


def expected(bundle: Bundle, outputs: Outputs, filenames: list[str | None] | None, top: int | None) -> bytes:
    """Return the document as orjson writes it whole."""
    predictions: list[dict[str, Any]] = []
    for place, row in enumerate(outputs.probabilities):
        order = range(10) if top is None else np.argsort(-row, kind="stable")[:top]
        index = int(row.argmax())
        prediction = {
            "label": NASTY[index],
            "index": index,
            "probability": row[index],
            "probabilities": {NASTY[one]: row[one] for one in order},
            "warnings": WARNINGS[place % 3],
        }
        if filenames is not None and filenames[place % 3] is not None:
            prediction["filename"] = filenames[place % 3]
        predictions.append(prediction)
    model = {"name": bundle.manifest.name, "version": bundle.version, "digest": bundle.manifest.digest}
    return orjson.dumps({"model": model, "predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)


@pytest.mark.parametrize("times", [1, 2, 3, 22])
@pytest.mark.parametrize("top", [None, 1, 3, 10])
@pytest.mark.parametrize("filenames", [None, [None, 'x"},{"', "%s%"]])
def test_it_is_what_a_library_writes_of_the_whole(
    nasty: Bundle,
    linear: Linear,
    digit: Pixels,
    filenames: list[str | None] | None,
    top: int | None,
    times: int,
) -> None:
    """Byte for byte, whatever classes, files and warnings are called, of few images and of many."""
    images = np.concatenate([np.stack([digit, 255 - digit, digit // 2])] * times)
    outputs = Outputs(linear.logits(images).astype("f4"), linear.probabilities(images))
    query = parse("" if top is None else f"top={top}")
    names = None if filenames is None else filenames * times
    answer = encode(nasty, query, names, WARNINGS * times, images, outputs, 0)
    assert answer.body == expected(nasty, outputs, filenames, top)


def test_requests_of_one_batch_are_written_each_for_itself(
    nasty: Bundle, linear: Linear, digit: Pixels
) -> None:
    """Whichever is first, an image's answer is what it is alone."""
    images = np.stack([digit, 255 - digit, digit // 2])
    outputs = Outputs(linear.logits(images).astype("f4"), linear.probabilities(images))
    alone = [
        encode(nasty, parse(query), None, [()], images, outputs[place : place + 1], 0).body
        for place in range(3)
        for query in ("", "top=2")
    ]
    together = [
        encode(nasty, parse(query), None, [()], images, outputs, place).body
        for place in range(3)
        for query in ("", "top=2")
    ]
    assert together == alone
    assert len(set(alone)) == 6
    last = encode(nasty, parse(""), None, [(), ()], images, outputs, 1)
    assert json.loads(last.body)["predictions"] == [json.loads(one)["predictions"][0] for one in alone[2::2]]


def test_numbers_are_read_back_exactly(bundle: Bundle) -> None:
    """The smallest and the largest float32 too: 0, 1, a denormal one."""
    numbers = np.zeros((1, 10), np.float32)
    numbers[0, :6] = np.array([1, 1e-45, 2**-126, 0.1, 1 / 3, 1 - 2**-24], np.float32)
    body = json.loads(encode(bundle, parse(""), None, [()], BLACK, Outputs(numbers, numbers), 0).body)
    read = np.array(list(body["predictions"][0]["probabilities"].values()), np.float64).astype(np.float32)
    assert read.tobytes() == numbers.tobytes()


def test_a_threshold_is_compared_as_the_probabilities_are_written(bundle: Bundle) -> None:
    """0.9 in an answer is enough for a threshold of 0.9, though the nearest float32 is a little less than 0.9."""

    def label(answer: Response) -> Any:
        return json.loads(answer.body)["predictions"][0]["label"]

    just = rows(0.9)
    below = rows(float(np.nextafter(np.float32(0.9), np.float32(0))))
    assert float(just.probabilities.max()) < 0.9
    assert label(encode(bundle, parse("threshold=0.9"), None, [()], BLACK, just, 0)) == "8"
    assert label(encode(bundle, parse("threshold=0.9"), None, [()], BLACK, below, 0)) is None
    assert label(encode(bundle, parse("threshold=0"), None, [()], BLACK, below, 0)) == "8"


def test_a_threshold_leaves_the_same_names_out_of_many_as_of_one(bundle: Bundle) -> None:
    """Twenty images from 0.05 to 1: those below the threshold have no name."""
    outputs, query = rows(*np.linspace(0.05, 1, 20).tolist()), parse("threshold=0.6")
    images = np.repeat(BLACK, 20, axis=0)
    whole = orjson.loads(encode(bundle, query, None, [()] * 20, images, outputs, 0).body)["predictions"]
    alone = [
        orjson.loads(encode(bundle, query, None, [()], images, outputs, place).body)["predictions"][0]
        for place in range(20)
    ]
    assert whole == alone
    assert {one["label"] is None for one in whole} == {True, False}


def test_of_two_equals_the_first_is_named(bundle: Bundle) -> None:
    """As NumPy's argmax has it."""
    half = np.zeros((1, 10), np.float32)
    half[0, [3, 7]] = 0.5
    body = json.loads(encode(bundle, parse(""), None, [()], BLACK, Outputs(half, half), 0).body)
    assert body["predictions"][0]["index"] == int(half.argmax()) == 3
