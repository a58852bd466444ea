"""A job has one arithmetic: the same bytes however it is shared out, and no job goes on in another one."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.support.jobs import digits, parts, rows_of, score, settings
from bench.support.models import publish_synthetic
from bench.support.processes import running
from bundle.repository import Bundle
from serving.scoring.backends.local import open_local
from serving.scoring.backends.remote import open_remote
from serving.scoring.errors import ModelError, OutputError
from serving.scoring.ray_backend import _pinned
from serving.scoring.settings import ScoreSettings
from serving.system import cpus

COUNT = 700
"""Not a multiple of a batch, of a part or of both: last batches of 188, 44 and fewer than 16 images."""


@pytest.fixture(params=["with VNNI", "without"])
def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Have a processor with VNNI, or one without; return the precision that `auto` means there."""
    path = tmp_path / "cpuinfo"
    path.write_text("flags : fpu avx512_vnni\n" if request.param == "with VNNI" else "flags : fpu avx512f\n")
    monkeypatch.setattr(cpus, "CPUINFO", path)
    return "integer" if request.param == "with VNNI" else "float32"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return a file of images."""
    np.save(tmp_path / "in.npy", digits(COUNT))
    return tmp_path / "in.npy"


def probabilities(output: Path) -> list[Any]:
    """Return those of every row, in the order of the input."""
    return [[row["probability"], row["label"]] for row in rows_of(output)]


def test_auto_is_one_precision_for_every_batch(bundle: Bundle, processor: str, images: Path) -> None:
    """A single image has the bits that it has among 256."""
    chosen = open_local(settings(bundle, images, images.parent / "out"))
    assert chosen.identity["arithmetic"] == chosen.session.precision == processor
    batch = digits(256)
    whole = chosen.score(batch)
    for count in (1, 8, 9, 100):
        assert chosen.score(batch[:count]).tobytes() == whole[:count].tobytes()


@pytest.mark.parametrize("arithmetic", ["float32", "integer"])
def test_shards_workers_and_parts_change_no_bit(
    bundle: Bundle, images: Path, tmp_path: Path, arithmetic: str
) -> None:
    """One run, two shards and two decoding processes write the same parts; parts of another size the same numbers."""
    score(bundle, images, tmp_path / "one", arithmetic=arithmetic)
    for shard in ("0/2", "1/2"):
        score(bundle, images, tmp_path / "two", arithmetic=arithmetic, shard=shard, workers=2)
    assert parts(tmp_path / "two") == parts(tmp_path / "one")
    for rows in (7, 300, 16384):
        score(bundle, images, tmp_path / f"{rows}.jsonl", arithmetic=arithmetic, part_rows=rows)
    expected = probabilities(tmp_path / "7.jsonl")
    assert len(expected) == COUNT
    assert probabilities(tmp_path / "300.jsonl") == probabilities(tmp_path / "16384.jsonl") == expected


def test_float32_and_integers_write_different_bytes(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    """So a job must not mix them, and the fingerprint has to tell them apart."""
    for arithmetic in ("float32", "integer"):
        score(bundle, images, tmp_path / arithmetic, arithmetic=arithmetic)
    assert parts(tmp_path / "float32") != parts(tmp_path / "integer")


def test_a_job_is_not_resumed_in_another_precision(
    bundle: Bundle, processor: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine of another kind the error says what differs; the option makes it the same job again."""
    output = tmp_path / "out"
    score(bundle, images, output, shard="0/2")
    other = "float32" if processor == "integer" else "integer"
    monkeypatch.setattr("serving.model.engine.multiplies_bytes", lambda: other == "integer")
    with pytest.raises(OutputError, match=f"arithmetic was {processor} and is {other}"):
        score(bundle, images, output, shard="1/2")
    score(bundle, images, output, shard="1/2", arithmetic=processor)
    monkeypatch.undo()
    score(bundle, images, tmp_path / "whole", arithmetic=processor)
    assert parts(output) == parts(tmp_path / "whole")


def test_integers_require_an_integer_graph(images: Path, tmp_path: Path) -> None:
    """An old bundle is scored in float32, and refused where integers were asked for."""
    old = publish_synthetic(tmp_path / "models", integer=None)
    assert open_local(settings(old, images, tmp_path / "out")).session.precision == "float32"
    with pytest.raises(ModelError, match=r"no model\.integer\.onnx"):
        open_local(settings(old, images, tmp_path / "out", arithmetic="integer"))


def test_ray_actors_get_the_precision(bundle: Bundle, processor: str, tmp_path: Path) -> None:
    """What `auto` means on the machine that starts a job is what it means on every node."""
    asked = ScoreSettings(
        input=("in",), output=tmp_path, model=bundle.path.parent, engine="ray", provider="cpu"
    )
    assert _pinned(asked, open_local(asked)).arithmetic == processor


@pytest.mark.parametrize("worker", ["inference", "gthread"])
@pytest.mark.parametrize("arithmetic", ["float32", "integer"])
def test_a_service_gives_the_bits_of_this_process(
    bundle: Bundle, tmp_path: Path, worker: str, arithmetic: str
) -> None:
    """By --url, whoever else asks, and the few images of a last batch too."""
    local = open_local(settings(bundle, "in", tmp_path / "out", arithmetic=arithmetic))
    asked = {"input": ("in",), "output": tmp_path / "out", "patience_seconds": 5.0}
    with running(
        tmp_path, until="/readyz", model=bundle.path.parent, worker=worker, arithmetic=arithmetic
    ) as service:
        url = f"http://127.0.0.1:{service.port}"
        with contextlib.closing(open_remote(ScoreSettings(url=url, **asked))) as far:
            assert far.identity["arithmetic"] == local.identity["arithmetic"] == arithmetic

            def posted() -> int:
                body = digits(1).tobytes()
                return service.ask("POST", "/predict", body, Content_Type="application/octet-stream").status

            batches = [digits(count) for count in (1, 8, 9, 256)] * 4
            with ThreadPoolExecutor(8) as threads:
                others = [threads.submit(posted) for _ in range(64)]
                answers = list(threads.map(far.score, batches))
            assert {other.result() for other in others} == {200}
    for batch, answered in zip(batches, answers, strict=True):
        assert answered.tobytes() == local.score(batch).tobytes()
