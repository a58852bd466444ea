"""The bench of counting in shared memory: both sides expose what was recorded, and it notices where one does not."""

from pathlib import Path

import pytest
from prometheus_client.multiprocess import MultiProcessCollector

import bench.serving.metrics
from bench.support.management import Samples, parsed
from bench.support.models import publish_synthetic
from serving.management.workers import Worker

pytestmark = pytest.mark.service  # it starts processes


def run(directory: Path) -> int:
    """Run the smallest of all: two workers, of which one is killed, and a third that comes and goes."""
    model = publish_synthetic(directory).path.parent
    return bench.serving.metrics.main(
        ["--model", str(model), "--rounds", "1", "--workers", "2", "--gone", "2"]
    )


def test_both_sides_expose_the_same_and_each_stage_has_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker has two files of ours and all the dead have one; the library has three for each, and keeps two."""
    assert run(tmp_path) == 0
    told = capsys.readouterr()
    assert told.err == ""
    lines = told.out.splitlines()
    assert [line[:46].rstrip() for line in lines[1:4]] == [*bench.serving.metrics.TASKS]
    assert [line[:30].rstrip() for line in lines[6:]] == [
        "1 alive",
        "2 alive",
        "1 alive, 1 killed",
        "1 alive, 2 gone",
    ]
    files = [[int(word.split()[-1]) for word in line.split(" files")[:2]] for line in lines[6:]]
    assert files == [[2, 3], [4, 6], [3, 5], [3, 7]]


def test_a_file_that_the_library_does_not_read_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sums lack a worker's numbers then."""
    merge = MultiProcessCollector.merge

    def less(files: list[str], accumulate: bool) -> object:
        return merge(sorted(files)[1:], accumulate)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(MultiProcessCollector, "merge", staticmethod(less))
    assert run(tmp_path) == 1
    told = capsys.readouterr().err
    assert "glyph_drift_psi{" in told
    assert "requests were recorded, and" not in told


def test_a_worker_that_glyph_does_not_count_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The living have nothing to say, and only the dead are summed."""
    monkeypatch.setattr(Worker, "numbers", lambda _: {})
    assert run(tmp_path) == 1
    assert "requests were recorded, and" in capsys.readouterr().err


def test_requests_that_both_sides_have_lost_are_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two wrong numbers that are equal are not the number that was recorded."""

    def less(text: str) -> Samples:
        return {key: value - 1 if "status" in dict(key[1]) else value for key, value in parsed(text).items()}

    monkeypatch.setattr(bench.serving.metrics, "parsed", less)
    assert run(tmp_path) == 1
    told = capsys.readouterr().err
    assert "requests were recorded, and" in told
    assert "the library's" not in told
