"""The metrics of a run on disk: `metrics.jsonl`, one JSON line per epoch, with `Epoch`'s fields."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from training.errors import UnwritableError
from training.loop.state import Epoch

METRICS_FILE = "metrics.jsonl"
MAX_LINE_BYTES = 1 << 16
_START, _FIELD = b'{"epoch": ', b'"images_per_second": '
"""How each line begins, and a field that the logs of others hardly have."""


def begin(directory: Path, length: int) -> None:
    """Make the directory, and cut its metrics after `length` bytes: where the run goes on, or 0.

    Raises:
        UnwritableError: the directory cannot be written, or the file there was written by something else.
    """
    path = directory / METRICS_FILE
    with _saying_where(directory):
        directory.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            size = file.tell()
            file.seek(0)
            if not _is_own(file.readline(MAX_LINE_BYTES)):
                raise UnwritableError(
                    f"{path} holds no metrics of a training run: move it, or give another place with --runs or "
                    "--name, for it would be overwritten"
                )
            file.truncate(min(length, size))


def append(directory: Path, epoch: Epoch) -> int:
    """Write an epoch's line, and return how long the file is then, in bytes.

    Raises:
        UnwritableError: the directory cannot be written.
    """
    with _saying_where(directory), (directory / METRICS_FILE).open("ab") as file:
        file.write(json.dumps(asdict(epoch)).encode() + b"\n")
        return file.tell()


def _is_own(line: bytes) -> bool:
    """Tell whether the first line of a file is one of ours, whole or, by a crash, cut off."""
    is_whole = line.rstrip().endswith(b"}")
    return _START.startswith(line[: len(_START)]) and (_FIELD in line or not is_whole)


@contextmanager
def _saying_where(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnwritableError(f"cannot write in {directory}: {error.strerror}") from None
