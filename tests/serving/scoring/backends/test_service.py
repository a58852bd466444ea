"""What is scored here and what the service answers are the same, bit for bit in the same arithmetic."""

import http.client
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.support.jobs import digits, folder, rows_of, score
from bench.support.pictures import EVERY_MODE, png
from bench.support.processes import Service
from bundle.manifest import BLACK_ON_WHITE, WHITE_ON_BLACK, Polarity
from bundle.repository import Bundle
from serving.model.engine import BUCKETS
from serving.predict.bodies.image_files import decode
from serving.predict.bodies.image_warnings import warnings_of
from serving.scoring.inputs.decoding import decode_files, from_pixels

BATCH = BUCKETS[-1]


def posted(service: Service, body: bytes, content_type: str) -> list[dict[str, Any]]:
    """Return the predictions for a body."""
    answer = service.ask("POST", "/predict", body, Content_Type=content_type)
    assert answer.status == http.client.OK, answer.body
    predictions: list[dict[str, Any]] = answer.json()["predictions"]
    return predictions


def same(row: dict[str, Any], prediction: dict[str, Any]) -> None:
    """Compare a row of a JSON output with a prediction, number by number."""
    assert row["probabilities"] == prediction["probabilities"]
    assert row["probability"] == prediction["probability"]
    assert (row["label"], row["index"]) == (prediction["label"], prediction["index"])
    assert row["warning"] == ("; ".join(prediction["warnings"]) or None)


def test_one_image_gets_the_same_result_from_scorer_and_service(
    service: Service, bundle: Bundle, tmp_path: Path
) -> None:
    """Files of every mode, each a batch of its own in both: decoding, session and warnings are the same."""
    (tmp_path / "in").mkdir()
    inverted = 255 - digits(1)[0]
    inverted[0] = inverted[-1] = 255
    files = [*EVERY_MODE, png(inverted), png(np.minimum(digits(1)[0], 1))]
    for place, data in enumerate(files):
        (tmp_path / "in" / f"{place:03}").write_bytes(data)
    score(bundle, tmp_path / "in", tmp_path / "out.jsonl", part_rows=1)
    rows = rows_of(tmp_path / "out.jsonl")
    assert any(row["warning"] for row in rows)
    for row, data in zip(rows, files, strict=True):
        (prediction,) = posted(service, data, _media_type(data))
        same(row, prediction)


@pytest.mark.parametrize("count", [BATCH, 100])
def test_a_batch_gets_the_same_results_from_scorer_and_service(
    count: int, service: Service, bundle: Bundle, tmp_path: Path
) -> None:
    """Pixels, posted as the batches that the scorer cuts; those scaled to 0..1 are warned of in both."""
    images = digits(count)
    images[3] = np.minimum(images[3], 1)
    np.save(tmp_path / "in.npy", images)
    score(bundle, tmp_path / "in.npy", tmp_path / "out.jsonl", part_rows=16384)
    rows = rows_of(tmp_path / "out.jsonl")
    predictions = posted(service, images.tobytes(), "application/octet-stream")
    assert len(rows) == len(predictions) == count
    assert rows[3]["warning"]
    for row, prediction in zip(rows, predictions, strict=True):
        same(row, prediction)


@pytest.mark.parametrize("polarity", [WHITE_ON_BLACK, BLACK_ON_WHITE])
def test_the_warnings_are_the_services(polarity: Polarity) -> None:
    """Which images can be warned of at all is found out in a cheaper way here, and misses none."""
    random = np.random.default_rng(9)
    images = np.concatenate([digits(20), 255 - digits(20), np.zeros((1, 28, 28), np.uint8)])
    levels = random.integers(0, 256, (200, 1, 1))
    images = np.concatenate([images, np.minimum(digits(200, seed=8), levels).astype(np.uint8)])
    framed = digits(200, seed=7)
    framed[:, 0] = framed[:, -1] = framed[:, :, 0] = framed[:, :, -1] = random.integers(96, 160, (200, 1))
    images = np.concatenate([images, framed, np.minimum(framed, 1)])
    for bare in (
        np.s_[:, 0],
        np.s_[:, -1],
        np.s_[:, :, 0],
        np.s_[:, [0, -1]],
    ):  # sides of paper, the others are ink
        for paper in (0, 255):
            sided = np.full((1, 28, 28), 255 - paper, np.uint8)
            sided[0, 1:-1, 1:-1] = 128
            sided[bare] = paper
            images = np.concatenate([images, sided])
    files = decode_files([png(image) for image in images], polarity).warnings
    numbers = from_pixels(images, {}, polarity).warnings
    expected = warnings_of(images, polarity)
    assert 100 < sum(map(bool, expected)) < len(images)
    for at, image in enumerate(images):
        assert numbers.get(at, "") == "; ".join(expected[at])
        assert files.get(at, "") == "; ".join(decode(png(image), None, polarity).warnings)


def test_files_and_arrays_get_the_same_results(bundle: Bundle, tmp_path: Path) -> None:
    """How an image came makes no difference to what is said of it."""
    images = digits(300)
    folder(tmp_path / "in", images)
    np.save(tmp_path / "in.npy", images)
    answers = []
    for given in ("in", "in.npy"):
        score(bundle, tmp_path / given, tmp_path / f"{given}.jsonl", part_rows=300, workers=2)
        answers.append(
            [json.dumps([row["label"], row["probabilities"]]) for row in rows_of(tmp_path / f"{given}.jsonl")]
        )
    assert answers[0] == answers[1]


def test_top_is_what_the_service_lists(service: Service, bundle: Bundle, tmp_path: Path) -> None:
    """`--top 3` has the classes of `?top=3`, in its order."""
    images = digits(20)
    np.save(tmp_path / "in.npy", images)
    score(bundle, tmp_path / "in.npy", tmp_path / "out.jsonl", top=3)
    answer = service.ask("POST", "/predict?top=3", images.tobytes(), Content_Type="application/octet-stream")
    asked = answer.json()["predictions"]
    for row, prediction in zip(rows_of(tmp_path / "out.jsonl"), asked, strict=True):
        assert list(row["probabilities"].items()) == list(prediction["probabilities"].items())


def _media_type(data: bytes) -> str:
    from bundle.images.decoding import sniff

    found = sniff(data)
    assert found is not None
    return found
