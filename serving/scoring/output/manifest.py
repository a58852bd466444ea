"""`_manifest.json`: the identity of a job. A run with another identity is rejected."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from common.atomic_files import fsync_path, sha256_bytes
from serving.scoring import own_output
from serving.scoring.errors import NothingScoredError, OutputError
from serving.scoring.output.integrity import CHECKSUM, read_record, record
from serving.scoring.records import Receipt

MANIFEST = own_output.MANIFEST
SCHEMA_VERSION = 2
"""Version 1 had no checksums."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobManifest:
    """The content of `_manifest.json`."""

    rows: int
    parts: int
    part_rows: int
    format: str
    model: str
    """The bundle's digest."""
    classes: Sequence[str]
    fingerprint: Mapping[str, str]
    """Everything that affects the bytes of the parts."""
    schema_version: int = SCHEMA_VERSION

    @property
    def sha256(self) -> str:
        """The SHA-256 of all fields; every record of the job has it, so that records of other jobs are recognized."""
        return sha256_bytes(orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS))

    def content(self) -> bytes:
        """Return the manifest as JSON with its checksum."""
        return record(asdict(self))


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The result of a run."""

    receipts: list[Receipt]
    """Of this shard's parts; of all parts if the job is complete."""
    complete: bool
    """Whether `_SUCCESS` is written."""
    manifest: JobManifest

    @property
    def errors(self) -> int:
        """Return the number of rows with an error."""
        return sum(receipt.errors for receipt in self.receipts)

    def check(self, output: Path) -> None:
        """Raise NothingScoredError if there are rows, and each of them has an error."""
        if not self.errors or self.errors < sum(receipt.rows for receipt in self.receipts):
            return
        first = next((fault for receipt in self.receipts for fault in receipt.tally.get("faults", ())), None)
        reason = "" if first is None else f" (the first, {first[1]}: {first[2]})"
        raise NothingScoredError(
            f"nothing was scored: {self.errors:,} of {self.errors:,} rows have an error{reason}; "
            f"correct the input, and score it into another output than {output}"
        )


def read_manifest(folder: Path) -> JobManifest | None:
    """Return a folder's manifest; None if it is missing or damaged.

    Raises:
        OutputError: another version of Glyph wrote it, or it is not a regular file, or cannot be read.
    """
    path = folder / MANIFEST
    document = read_record(path)
    try:
        version = _version_without_checksum(path) if document is None else document["schema_version"]
        if version not in (None, SCHEMA_VERSION):
            raise OutputError(
                f"{path} was written by another version of Glyph: resume with that version, or give another output"
            )
        return None if document is None else JobManifest(**document)
    except (KeyError, TypeError):  # another record was copied here
        return None


def _version_without_checksum(path: Path) -> int | None:
    """Return 1 for a manifest of version 1, which had no checksum, else None."""
    try:
        document = orjson.loads(path.read_bytes())
        return 1 if document["schema_version"] == 1 and CHECKSUM not in document else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def create_exclusively(path: Path, content: bytes) -> None:
    """Write a file atomically unless it exists; of concurrent writers one succeeds."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.link(name, path)  # unlike a rename, it fails if the file exists
    except FileExistsError:
        pass
    finally:
        Path(name).unlink(missing_ok=True)
    fsync_path(path.parent)


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the differences between two fingerprints, a sentence each."""
    lines = []
    for name in dict.fromkeys([*then, *now]):
        before, after = then.get(name), now.get(name)
        if before is None:
            lines.append(f"{name} is new: {after}")
        elif after is None:
            lines.append(f"{name} is gone: it was {before}")
        elif before != after:
            lines.append(f"{name} was {before} and is {after}")
    return lines
