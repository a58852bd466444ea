"""`--resize`: image files of other sizes are scored as the service answers them, where the model was trained so."""

from pathlib import Path

import numpy as np
import pytest

from bench.support.jobs import parts, rows_of, score
from bench.support.models import publish_synthetic
from bench.support.pictures import Pixels, a_digit, png
from bench.support.processes import running
from bundle.images.contract import RESIZES, Resize
from bundle.images.decoding import decode
from bundle.images.resizing import resize
from bundle.repository import Bundle
from serving.scoring.errors import OutputError
from serving.scoring.observer import Observer
from serving.scoring.run import run
from serving.scoring.settings import ScoreSettings

COUNT = 40


def pictures() -> list[Pixels]:
    """Return pictures of many sizes, one of which is 28x28."""
    random = np.random.default_rng(2)
    made = [a_digit()]
    for _ in range(COUNT - 1):
        height, width = random.integers(20, 160, 2)
        picture = np.zeros((height, width), np.uint8)
        picture[4:16, 5:15] = random.integers(0, 256, (12, 10))
        made.append(picture)
    return made


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return a folder of the pictures, and a file that is none."""
    (tmp_path / "in").mkdir()
    for place, picture in enumerate(pictures()):
        (tmp_path / "in" / f"{place:03}.png").write_bytes(png(picture))
    (tmp_path / "in" / f"{COUNT:03}.png").write_bytes(b"no image")
    return tmp_path / "in"


def published(directory: Path, how: Resize | None) -> Bundle:
    """Publish a model that was trained on images that were resized."""
    return publish_synthetic(directory / f"models-{how}", resize=how)


@pytest.mark.parametrize("how", RESIZES)
def test_files_are_scored_as_their_28x28_images(how: Resize, files: Path, tmp_path: Path) -> None:
    """By any number of processes, and the same as arrays that were resized before."""
    bundle = published(tmp_path, how)
    score(bundle, files, tmp_path / "out", workers=2, resize=how, part_rows=16)
    score(bundle, files, tmp_path / "again", workers=1, resize=how, part_rows=16)
    assert parts(tmp_path / "out") == parts(tmp_path / "again")
    small = np.stack([resize(picture, how, "white-on-black") for picture in pictures()])
    np.save(tmp_path / "small.npy", small)
    score(bundle, tmp_path / "small.npy", tmp_path / "small.jsonl", part_rows=16)
    score(bundle, files, tmp_path / "files.jsonl", resize=how, part_rows=16)
    expected, found = rows_of(tmp_path / "small.jsonl"), rows_of(tmp_path / "files.jsonl")
    assert "not a" in found[-1]["error"] or "no supported image" in found[-1]["error"]
    assert [row["probabilities"] for row in found[:-1]] == [row["probabilities"] for row in expected]


def test_without_it_other_sizes_are_errors_and_the_way_is_said(files: Path, tmp_path: Path) -> None:
    """The rows say what is wrong; the run says once what would help."""
    said: list[str] = []

    class Listening(Observer):
        def say(self, text: str) -> None:
            said.append(text)

    bundle = published(tmp_path, "pad")
    settings = ScoreSettings(
        input=(str(files),), output=tmp_path / "out.jsonl", model=bundle.path.parent, provider="cpu"
    )
    outcome = run(settings, Listening(), environment={})
    assert outcome.errors == COUNT  # all but the one of 28x28, and the file that is no image
    assert "the model takes 28x28" in rows_of(tmp_path / "out.jsonl")[1]["error"]
    assert [text for text in said if "--resize pad" in text]


def test_a_model_that_was_not_trained_so_is_refused(files: Path, tmp_path: Path) -> None:
    """The right way is named, if there is one, and nothing is written."""
    cases: list[tuple[Resize | None, str]] = [
        (None, "as they are: omit --resize"),
        ("mnist", "by 'mnist'.*--resize mnist"),
    ]
    for offered, words in cases:
        with pytest.raises(ValueError, match=words):
            score(published(tmp_path, offered), files, tmp_path / "out", resize="pad")
        assert not (tmp_path / "out").exists()


def test_a_job_has_one_way(files: Path, tmp_path: Path) -> None:
    """A folder that was begun without it is another job's, because its rows would differ."""
    bundle = published(tmp_path, "fit")
    score(bundle, files, tmp_path / "out")
    with pytest.raises(OutputError, match="resize"):
        score(bundle, files, tmp_path / "out", resize="fit")


def test_a_services_model_says_how_it_was_trained(files: Path, tmp_path: Path) -> None:
    """With `--url` the files are decoded and resized here, and the results are the local ones."""
    bundle = published(tmp_path, "mnist")
    with running(tmp_path, until="/readyz", model=bundle.path.parent) as service:
        url = f"http://127.0.0.1:{service.port}"
        score(bundle, files, tmp_path / "remote.jsonl", url=url, resize="mnist")
        with pytest.raises(ValueError, match="--resize mnist"):
            score(bundle, files, tmp_path / "other.jsonl", url=url, resize="fit")
        for row, picture in zip(rows_of(tmp_path / "remote.jsonl"), pictures(), strict=False):
            answer = service.ask("POST", "/predict?resize=mnist", png(picture), Content_Type="image/png")
            (prediction,) = answer.json()["predictions"]
            assert row["label"] == prediction["label"]
            assert row["probability"] == pytest.approx(prediction["probability"], abs=1e-5)
    score(bundle, files, tmp_path / "local.jsonl", resize="mnist", batch=256)
    local = rows_of(tmp_path / "local.jsonl")
    assert [row["label"] for row in rows_of(tmp_path / "remote.jsonl")] == [row["label"] for row in local]


def test_large_files_are_scored_that_the_service_refuses(tmp_path: Path) -> None:
    """A file of one's own may have more pixels than a stranger's."""
    bundle = published(tmp_path, "fit")
    (tmp_path / "in").mkdir()
    large = np.kron(a_digit(), np.ones((40, 40), np.uint8))
    (tmp_path / "in" / "large.png").write_bytes(png(large))
    score(bundle, tmp_path / "in", tmp_path / "out.jsonl", resize="fit")
    (row,) = rows_of(tmp_path / "out.jsonl")
    assert row["error"] is None
    assert np.array_equal(decode(png(large), "fit"), a_digit())
