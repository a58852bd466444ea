"""Recognises what the scorer itself has written, so that the output in an input folder is not scored the next time.

    is_output_folder(path)   a job's folder: parts, or the records of a single file
    is_result_file(path)     a single file of predictions, or a report, wherever it is

Paths are bytes, as the listing has them. Nothing here raises: what cannot be read is not the scorer's.
"""

# ruff: noqa: PTH112, PTH113, PTH118

import os
import re

from serving.scoring.settings import ENDINGS, Format

MANIFEST = "_manifest.json"
RECEIPTS = "_receipts"
PARTS = ".parts"
"""What the folder of a single file's records adds to its name."""
COLUMNS = ("source", "row", "label", "index", "probability")
"""The first columns of every format, in this order."""

_KEPT = re.compile(rb"\.changed\d*$")
"""A result that was changed after it was written is kept under a name that ends so."""
_CSV = ",".join(COLUMNS).encode()
_JSON = re.compile(
    rb'\{"source":".*?","row":".*?","label":(?:".*?"|null),"index":(?:\d+|null),"probability":'
)
REPORT = ".html"
_PAGE = re.compile(rb"<!doctype html>.{,400}<title>Scored: ", re.DOTALL)
"""How a report begins (`reporting/console.py`)."""
_HEAD = 1 << 16
"""Bytes in which a JSON line has its first members: a path and a name have a few KiB at most."""


def is_output_folder(path: bytes) -> bool:
    """Tell whether a folder has the manifest and the receipts of a job."""
    try:
        manifest, receipts = (os.path.join(path, os.fsencode(name)) for name in (MANIFEST, RECEIPTS))
        return os.path.isfile(manifest) and os.path.isdir(receipts)
    except ValueError:  # a NUL byte
        return False


def is_result_file(path: bytes) -> bool:
    """Tell whether a file has predictions of a job, by the records beside it or by its first columns, or a report."""
    path_of_job = _KEPT.sub(b"", path)
    ending = os.fsdecode(os.path.splitext(path_of_job)[1]).lower()  # noqa: PTH122
    written = ENDINGS.get(ending)
    if written is None and ending != REPORT:
        return False
    if written and is_output_folder(path_of_job + os.fsencode(PARTS)):
        return True
    try:
        if not os.path.isfile(path):  # opening a named pipe would block
            return False
        if written == "parquet":
            return _is_parquet(path)
        with open(path, "rb") as file:  # noqa: PTH123
            return _is_text(file.read(_HEAD), written)
    except (OSError, ValueError):
        return False


def _is_text(head: bytes, written: Format | None) -> bool:
    """Tell whether a file begins as a result in CSV or JSON lines does, or else as a report."""
    if written == "csv":
        return head.replace(b'"', b"").startswith(_CSV)
    return (_JSON if written == "jsonl" else _PAGE).match(head) is not None


def _is_parquet(path: bytes) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(os.fsdecode(path))
    except pa.ArrowException:
        return False
    return schema.names[: len(COLUMNS)] == [*COLUMNS] and b"classes" in (schema.metadata or {})
