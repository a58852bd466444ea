"""Where a job's files are, and which of them are as they were written.

    _manifest.json               what the job is; whoever comes with another one is refused
    part-000000.parquet ...      the rows, whole or not there
    _receipts/part-000000.json   what is known of a part; written before the part, so a part has one
    _receipts/file.json          the same of the one file, where the output is one
    _SUCCESS                     every part with its rows and its SHA-256; written when all are there

Nothing counts because its name is there. `intact` hashes it and compares with the receipt, and whoever says
that a part or the job is done asks `intact` first.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from common.atomic_files import sha256_bytes, write_whole
from serving.scoring.errors import OutputError
from serving.scoring.output.integrity import is_intact, read_record, record, size_of
from serving.scoring.output.manifest import JobManifest
from serving.scoring.records import Receipt
from serving.scoring.settings import ENDINGS

RECEIPTS = "_receipts"
FILE_RECEIPT = "file.json"
SUCCESS = "_SUCCESS"

_TEMPORARY = re.compile(
    r"\.(?:part-(?P<part>\d+)\.\w+|file\.json|joined\.\w+|_manifest\.json|_SUCCESS)\.[a-z0-9_]{8}"
)
"""What `mkstemp` calls the files that become those above."""


@dataclass(frozen=True, slots=True)
class Intact:
    """What of an output is there as it was written."""

    receipts: dict[int, Receipt]
    """Of the parts that are, by their numbers."""
    file: bool
    """Whether the one file is; true where the output is none."""


@dataclass(frozen=True)
class JobFiles:
    """One job's files."""

    output: Path
    """As it was asked for: a folder, or a file."""
    manifest: JobManifest

    @cached_property
    def folder(self) -> Path:
        """Where the parts are."""
        return folder_of(self.output)

    @property
    def is_single_file(self) -> bool:
        """Tell whether the output is one file."""
        return self.folder != self.output

    @cached_property
    def job_id(self) -> str:
        """What every record of this job names."""
        return self.manifest.sha256

    @property
    def part_numbers(self) -> range:
        """The numbers of all parts."""
        return range(self.manifest.parts)

    def part_path(self, part: int) -> Path:
        """Return a part's place."""
        return self.folder / f"part-{part:06d}.{self.manifest.format}"

    def write(self, part: int, content: bytes, *, rows: int, errors: int, tally: dict[str, Any]) -> Receipt:
        """Write a part, its receipt first."""
        receipt = Receipt(
            part=part,
            rows=rows,
            errors=errors,
            sha256=sha256_bytes(content),
            bytes=len(content),
            tally=tally,
        )
        write_whole(self._receipt_path(part), record({"job": self.job_id, **asdict(receipt)}))
        write_whole(self.part_path(part), content)
        return receipt

    def intact(self, parts: Iterable[int]) -> Intact:
        """Hash what is there of some parts, and the one file. In that, the rows of all parts are.

        Raises:
            OutputError: a file's place has something else, or cannot be read.
        """
        file = self.file_is_intact()
        receipts: dict[int, Receipt] = {}
        for part in parts:
            receipt = self.receipt(part)
            if receipt is not None and (
                (self.is_single_file and file)
                or is_intact(self.part_path(part), receipt.bytes, receipt.sha256)
            ):
                receipts[part] = receipt
        return Intact(receipts, file)

    def file_is_intact(self) -> bool:
        """Hash the one file; true where the output is none."""
        if not self.is_single_file:
            return True
        known = self.file_receipt()
        return known is not None and is_intact(self.output, known["bytes"], known["sha256"])

    def complete(self) -> list[Receipt] | None:
        """Return all receipts if the job is complete and all of it as it was written, else None.

        Raises:
            OutputError: something else is in its place, or there is a part that is none of the job's.
        """
        if size_of(self.folder / SUCCESS) is None:
            return None
        self.check_unknown_files()
        found = self.intact(self.part_numbers)
        receipts = [*found.receipts.values()]
        if not found.file or len(receipts) < self.manifest.parts:
            return None
        if read_record(self.folder / SUCCESS) != self.success(receipts):
            return None
        if self.is_single_file and self._file_entry(self._file_receipt_path) is None:
            return None
        self.remove_parts()
        return receipts

    def success(self, receipts: Sequence[Receipt]) -> dict[str, Any]:
        """Return what `_SUCCESS` says."""
        success: dict[str, Any] = {
            "job": self.job_id,
            "rows": sum(receipt.rows for receipt in receipts),
            "errors": sum(receipt.errors for receipt in receipts),
            "model": self.manifest.model,
            "parts": [
                {
                    "name": self.part_path(receipt.part).name,
                    "rows": receipt.rows,
                    "errors": receipt.errors,
                    "bytes": receipt.bytes,
                    "sha256": receipt.sha256,
                }
                for receipt in receipts
            ],
        }
        if self.is_single_file:
            success["file"] = self.file_receipt()
        return success

    def check_unknown_files(self) -> None:
        """Refuse a file that who reads the folder would take for one of its parts.

        Raises:
            OutputError: there is one.
        """
        if self.is_single_file:
            return
        known = {self.part_path(part).name for part in self.part_numbers}
        for name in sorted(os.listdir(self.folder)):  # noqa: PTH208  only names are needed
            if (
                name not in known
                and name[0] not in "._"
                and (name.startswith("part-") or name.endswith(f".{self.manifest.format}"))
            ):
                raise OutputError(f"{self.folder / name} is no part of this job: move it away, and run again")

    def remove_temporary_files(self, parts: Iterable[int] | None) -> None:
        """Remove the temporary files that a killed run left of these parts; None is everything."""
        own = None if parts is None else {*parts}
        for folder in (self.folder, self.folder / RECEIPTS):
            for path in folder.iterdir():
                found = _TEMPORARY.fullmatch(path.name)
                if found and (own is None or (found["part"] and int(found["part"]) in own)):
                    path.unlink(missing_ok=True)

    def remove_parts(self) -> None:
        """Remove the parts of what is one file now."""
        if not self.is_single_file:
            return
        own = {f"joined.{self.manifest.format}", *(self.part_path(part).name for part in self.part_numbers)}
        for path in self.folder.iterdir():
            if path.name in own:
                path.unlink(missing_ok=True)

    def _receipt_path(self, part: int) -> Path:
        return self.folder / RECEIPTS / f"part-{part:06d}.json"

    def receipt(self, part: int) -> Receipt | None:
        """Return a part's receipt; None where there is none of this job, or not as it was written."""
        found = read_record(self._receipt_path(part))
        if found is None or (found.pop("job", None), found.get("part")) != (self.job_id, part):
            return None
        return Receipt(**found)

    def file_receipt(self) -> dict[str, Any] | None:
        """Return name, size and SHA-256 of the one file; None where the job has never written it."""
        return self._file_entry(self._file_receipt_path) or self._file_entry(self.folder / SUCCESS)

    def _file_entry(self, path: Path) -> dict[str, Any] | None:
        """Return what a record says of the one file."""
        found = read_record(path)
        known: dict[str, Any] | None = (
            found.get("file") if found and found.get("job") == self.job_id else None
        )
        return known

    def write_file_receipt(self, known: dict[str, Any]) -> None:
        """Write what is known of the one file, before it is there."""
        write_whole(self._file_receipt_path, record({"job": self.job_id, "file": known}))

    @property
    def _file_receipt_path(self) -> Path:
        return self.folder / RECEIPTS / FILE_RECEIPT


def folder_of(output: Path) -> Path:
    """Return where the parts of an output are: itself, or beside it if it is one file."""
    return output.with_name(output.name + ".parts") if output.suffix.lower() in ENDINGS else output
