"""The paths of a job's files, their receipts, and their verification.

    _manifest.json               the job's identity; a run with another one is rejected
    part-000000.parquet ...      the rows; written atomically
    _receipts/part-000000.json   rows, size and hash of a part; written before the part, so every part has one
    _receipts/file.json          the same for the single file, if the output is one
    _SUCCESS                     rows and SHA-256 of every part; written when all are complete

A file's existence proves nothing: `intact` compares its hash with the receipt before a part or the job counts as
done.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from common.atomic_files import sha256_bytes, write_whole
from serving.scoring import own_output
from serving.scoring.errors import OutputError
from serving.scoring.output.integrity import is_intact, read_record, record, size_of
from serving.scoring.output.manifest import JobManifest
from serving.scoring.records import Receipt
from serving.scoring.settings import ENDINGS

RECEIPTS = own_output.RECEIPTS
FILE_RECEIPT = "file.json"
SUCCESS = "_SUCCESS"

_TEMPORARY = re.compile(
    r"\.(?:part-(?P<part>\d+)\.\w+|file\.json|joined\.\w+|_manifest\.json|_SUCCESS)\.[a-z0-9_]{8}"
)
"""Names that `mkstemp` gives to the files above before they are renamed."""


@dataclass(frozen=True, slots=True)
class Intact:
    """The verified files of an output."""

    receipts: dict[int, Receipt]
    """Receipts of the intact parts, by number."""
    file: bool
    """Whether the single file is intact; true if the output is a folder."""


@dataclass(frozen=True)
class JobFiles:
    """A job's files."""

    output: Path
    """As `--output` gives it: a folder or a file."""
    manifest: JobManifest

    @cached_property
    def folder(self) -> Path:
        """The folder of the parts."""
        return folder_of(self.output)

    @property
    def is_single_file(self) -> bool:
        """Return whether the output is a single file."""
        return self.folder != self.output

    @cached_property
    def job_id(self) -> str:
        """The manifest's SHA-256, which every record of the job has."""
        return self.manifest.sha256

    @property
    def part_numbers(self) -> range:
        """The numbers of all parts."""
        return range(self.manifest.parts)

    def part_path(self, part: int) -> Path:
        """Return a part's path."""
        return self.folder / f"part-{part:06d}.{self.manifest.format}"

    def write(self, part: int, content: bytes, *, rows: int, errors: int, tally: dict[str, Any]) -> Receipt:
        """Write a part's receipt, then the part."""
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
        """Verify some parts by hash, and the single file; an intact single file has the rows of all parts.

        Raises:
            OutputError: a file is not a regular file, or cannot be read.
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
        """Verify the single file by hash; true if the output is a folder."""
        if not self.is_single_file:
            return True
        known = self.file_receipt()
        return known is not None and is_intact(self.output, known["bytes"], known["sha256"])

    def complete(self) -> list[Receipt] | None:
        """Return all receipts if the job is complete and every file intact, else None.

        Raises:
            OutputError: a file is not a regular file, or the folder has an unknown part.
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
        """Return the content of `_SUCCESS`."""
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
        """Raise an error for a file that a reader of the folder would take for one of its parts.

        Raises:
            OutputError: there is such a file.
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
                raise OutputError(
                    f"{self.folder / name} is not a part of this job: move it away, and run again"
                )

    def remove_temporary_files(self, parts: Iterable[int] | None) -> None:
        """Remove temporary files of these parts that a killed run left; None removes all."""
        own = None if parts is None else {*parts}
        for folder in (self.folder, self.folder / RECEIPTS):
            for path in folder.iterdir():
                found = _TEMPORARY.fullmatch(path.name)
                if found and (own is None or (found["part"] and int(found["part"]) in own)):
                    path.unlink(missing_ok=True)

    def remove_parts(self) -> None:
        """Remove the parts when the single file is written."""
        if not self.is_single_file:
            return
        own = {f"joined.{self.manifest.format}", *(self.part_path(part).name for part in self.part_numbers)}
        for path in self.folder.iterdir():
            if path.name in own:
                path.unlink(missing_ok=True)

    def _receipt_path(self, part: int) -> Path:
        return self.folder / RECEIPTS / f"part-{part:06d}.json"

    def receipt(self, part: int) -> Receipt | None:
        """Return a part's receipt; None if it is missing, damaged, or of another job."""
        found = read_record(self._receipt_path(part))
        if found is None or (found.pop("job", None), found.get("part")) != (self.job_id, part):
            return None
        return Receipt(**found)

    def file_receipt(self) -> dict[str, Any] | None:
        """Return name, size and SHA-256 of the single file; None if the job has never written it."""
        return self._file_entry(self._file_receipt_path) or self._file_entry(self.folder / SUCCESS)

    def _file_entry(self, path: Path) -> dict[str, Any] | None:
        """Return a record's entry about the single file."""
        found = read_record(path)
        known: dict[str, Any] | None = (
            found.get("file") if found and found.get("job") == self.job_id else None
        )
        return known

    def write_file_receipt(self, known: dict[str, Any]) -> None:
        """Write the receipt of the single file."""
        write_whole(self._file_receipt_path, record({"job": self.job_id, "file": known}))

    @property
    def _file_receipt_path(self) -> Path:
        return self.folder / RECEIPTS / FILE_RECEIPT


def folder_of(output: Path) -> Path:
    """Return the folder of an output's parts: the output itself, or `OUTPUT.parts` for a single file."""
    return output.with_name(output.name + own_output.PARTS) if output.suffix.lower() in ENDINGS else output
