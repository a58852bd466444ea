"""Records that are what was written, or none; and runs that are killed while they mend."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from bench.support.jobs import digits, rows_of, score
from bundle.repository import Bundle
from serving.scoring.output.integrity import read_record, record
from tests.dying import die_everywhere
from tests.serving.scoring.damages import Damage, again, flip, records_of, tree


def test_a_record_is_what_was_written_or_none(tmp_path: Path) -> None:
    """Every bit of it counts, and nothing else is one."""
    document = {"job": "a", "numbers": [1, 2.5, None], "text": "é"}
    content = record(document)
    path = tmp_path / "record.json"
    assert read_record(path) is None
    path.write_bytes(content)
    assert read_record(path) == document
    for place in range(len(content) * 8):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        assert read_record(path) is None
    for other in (b"[]", b"1", b"{}", b"null", b'{"checksum": 1}', content + b"\n", b"[" * 2000):
        path.write_bytes(other)
        assert read_record(path) is None


def _break_folder(output: Path) -> None:
    flip(output / "part-000001.parquet")
    (output / "_manifest.json").write_bytes(b"")


def _break_file(output: Path) -> None:
    output.write_bytes(b"mine")
    (records_of(output) / "_receipts" / "file.json").unlink()


@pytest.mark.parametrize(
    ("output", "damage"), [("out", _break_folder), ("out.csv", _break_file)], indirect=["output"]
)
def test_a_death_at_any_call_while_it_mends(
    damage: Damage, bundle: Bundle, finished: Path, output: Path
) -> None:
    """Killed before each call that touches the output, one life after another, it ends with the same bytes."""
    whole = tree(output)
    damage(output)

    def survived(_: int) -> None:
        if (records_of(output) / "_SUCCESS").exists() and output.is_file() and output.read_bytes() != b"mine":
            assert output.read_bytes() == whole["out.csv"]

    deaths = die_everywhere(lambda: again(bundle, finished, output), output.parent, survived)
    assert deaths > 10
    assert tree(output) == whole
    if output.suffix:
        assert output.with_name("out.csv.changed").read_bytes() == b"mine"
    assert not [path for path in output.parent.rglob(".*") if path.is_file()]


@pytest.mark.parametrize("death", [0, 1])
def test_a_killed_joining_leaves_nothing_beside_the_file(
    death: int, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that becomes the output is written among the parts, where the next life finds what is left of it."""
    np.save(tmp_path / "in.npy", digits(130))
    output = tmp_path / "there" / "out.parquet"
    child = os.fork()
    if child == 0:
        replace, left = Path.replace, death

        def dying(self: Path, target: Path) -> Path:
            nonlocal left
            if "joined" in self.name or "out" in self.name:
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", dying)
        try:
            score(bundle, tmp_path / "in.npy", output)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert [path.name for path in output.parent.iterdir()] == ["out.parquet.parts"]
    score(bundle, tmp_path / "in.npy", output)
    assert len(rows_of(output)) == 130
    assert [path.name for path in records_of(output).iterdir() if path.name[0] != "_"] == []
