"""Ways to damage finished output, and the commands that are given then."""

from collections.abc import Callable
from pathlib import Path

from bench.support.jobs import settings
from bundle.repository import Bundle
from serving.scoring.errors import IncompleteError, OutputError
from serving.scoring.observer import Observer
from serving.scoring.output.folder import OutputFolder
from serving.scoring.output.manifest import Outcome, read_manifest
from serving.scoring.run import merge, run
from tests.conftest import ROOT

COUNT = 200
PARTS = 4
FILES = ("out.csv", "out.jsonl", "out.parquet")
NAMES = ("out", *FILES)

Damage = Callable[[Path], object]


class Told(Observer):
    """Keeps the lines for the user."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        """Keep a line."""
        self.lines.append(line)


def again(bundle: Bundle, finished: Path, output: Path, **options: str) -> tuple[Outcome, list[str]]:
    """Give the command again that wrote an output; return what it came to and what it said."""
    told = Told()
    return run(settings(bundle, finished / "first.npy", output, **options), told, environment={}), told.lines


def merged(output: Path) -> Outcome:
    """Give the command `merge`."""
    return merge(OutputFolder.open_existing(output))


def tree(output: Path) -> dict[str, bytes]:
    """Return every file of an output, its records too."""
    places = [output, output.with_name(f"{output.name}.parts"), *output.parent.rglob(f"{output.name}/**/*")]
    places += output.parent.rglob(f"{output.name}.parts/**/*")
    return {str(path.relative_to(output.parent)): path.read_bytes() for path in places if path.is_file()}


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _link_to(target: Path) -> Damage:
    def damage(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return damage


DAMAGES: dict[str, Damage] = {
    "emptied": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "one bit flipped": flip,
    "appended to": lambda path: path.write_bytes(path.read_bytes() + b"1\n"),
    "removed": Path.unlink,
    "a link to another file": _link_to(ROOT / "README.md"),
    "a link to nowhere": _link_to(ROOT / "nothing"),
}
RECORDS = ("_SUCCESS", "_manifest.json", "_receipts/part-000002.json")


def mends(bundle: Bundle, finished: Path, output: Path, damage: Callable[[], object]) -> list[str]:
    """Damage an output; see that the same command ends with the same bytes, and what `merge` makes of the same damage.

    Returns what the command said.
    """
    before = tree(output)
    damage()
    assert tree(output) != before
    outcome, told = again(bundle, finished, output)
    assert outcome.complete
    assert tree(output) == before
    assert again(bundle, finished, output)[1] == [f"{output} is complete: nothing to do"]
    damage()
    try:
        merged(output)
    except (OutputError, IncompleteError):
        assert not (records_of(output) / "_SUCCESS").exists() or not read_manifest(records_of(output))
        again(bundle, finished, output)
    assert tree(output) == before
    return told


def records_of(output: Path) -> Path:
    """Return the folder of an output's records."""
    return output.with_name(f"{output.name}.parts") if output.suffix else output
