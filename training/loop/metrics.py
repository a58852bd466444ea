"""The metrics file of a run, `metrics.jsonl`: a JSON object a line for each epoch, with the fields of `Epoch`."""

import json
from dataclasses import asdict
from pathlib import Path

from training.errors import UnwritableError, writing
from training.loop.state import Epoch

METRICS_FILE = "metrics.jsonl"
MAX_LINE_BYTES = 1 << 16
_START, _FIELD = b'{"epoch": ', b'"images_per_second": '
"""The start of each line, and a field that a foreign file is unlikely to have."""


def begin(directory: Path, length: int) -> None:
    """Create the directory, and truncate its metrics to `length` bytes, where the run continues, or 0.

    Raises:
        UnwritableError: the directory cannot be written, or its metrics file is not one of Glyph's.
    """
    path = directory / METRICS_FILE
    with writing(path):
        directory.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            size = file.tell()
            file.seek(0)
            if not _is_own(file.readline(MAX_LINE_BYTES)):
                raise UnwritableError(
                    f"{path} is not a metrics file of a training run and would be overwritten: move it, or give "
                    "another --runs or --name"
                )
            file.truncate(min(length, size))


def append(directory: Path, epoch: Epoch) -> int:
    """Append an epoch's line, and return the new length of the file in bytes.

    Raises:
        UnwritableError: the directory cannot be written.
    """
    path = directory / METRICS_FILE
    with writing(path), path.open("ab") as file:
        file.write(json.dumps(asdict(epoch)).encode() + b"\n")
        return file.tell()


def _is_own(line: bytes) -> bool:
    """Return whether the first line of a file is one of Glyph's, complete or truncated by a crash."""
    is_whole = line.rstrip().endswith(b"}")
    return _START.startswith(line[: len(_START)]) and (_FIELD in line or not is_whole)
