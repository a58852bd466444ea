"""The lifecycle of a job's output: open, resume, finish.

Files are written atomically (`common.atomic_files`), so a killed run resumes with the parts that are missing. A
file that does not match its receipt (`JobFiles.intact`) is written again; a file that this job has never written
is an error.

For a single output file the parts are in a folder with its name and `.parts`, and are removed when the file is
written.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from common.atomic_files import fsync_path, whole_file, write_whole
from serving.scoring.errors import IncompleteError, OutputError
from serving.scoring.output import locks
from serving.scoring.output.formats import parquet_writer
from serving.scoring.output.integrity import (
    HashingWriter,
    read_intact,
    read_record,
    record,
    size_of,
)
from serving.scoring.output.job_files import RECEIPTS, SUCCESS, Intact, JobFiles, folder_of
from serving.scoring.output.manifest import (
    MANIFEST,
    JobManifest,
    create_exclusively,
    differences,
    read_manifest,
)
from serving.scoring.records import Receipt

Say = Callable[[str], None]
"""Shows the user a line."""

_REMEDY = "Run their shards again (part p belongs to shard i/n if p modulo n is i), and then this command"


class OutputFolder(JobFiles):
    """One job's output."""

    @classmethod
    def open_for(cls, output: Path, manifest: JobManifest, say: Say) -> "OutputFolder":
        """Create the job's folder, or check that an existing one is the job's.

        Raises:
            OutputError: the folder belongs to another job (the message has the differences), or to none and is not
                empty.
            LockedError: the manifest is damaged, and another run is writing.
            OSError: the folder cannot be written.
        """
        job = cls(output, manifest)
        found = _read_manifest_in(job.folder)
        if found is None or (found.sha256 != manifest.sha256 and job._has_records()):
            job._write_manifest(say)
            found = read_manifest(job.folder) or manifest
        if different := differences(found.fingerprint, manifest.fingerprint):
            more = f"; and {len(different) - 5} more" if len(different) > 5 else ""
            raise OutputError(
                f"{job.folder} belongs to another job: {'; '.join(different[:5])}{more}. Give the same input, model "
                "and options to resume it, or give another output"
            )
        return cls(output, found)

    @classmethod
    def open_existing(cls, output: Path) -> "OutputFolder":
        """Open an existing output.

        Raises:
            OutputError: there is no output, or its manifest is damaged.
        """
        folder = folder_of(output)
        if (found := _read_manifest_in(folder)) is not None:
            return cls(output, found)
        if size_of(folder / MANIFEST) is None and not (folder / RECEIPTS).exists():
            raise OutputError(f"{folder} has no output of a job: give the --output of the shards")
        raise OutputError(
            f"{folder / MANIFEST} was changed or removed after it was written: run the scoring command again, "
            "which restores it, and then this one"
        )

    def _write_manifest(self, say: Say) -> None:
        """Write the manifest if it is missing or damaged, and the folder is empty or has this job's records.

        Raises:
            OutputError: the folder is not empty, and none of its records is this job's.
            LockedError: another run is writing.
        """
        path = self.folder / MANIFEST
        damaged = size_of(path) is not None
        if self._has_records():
            say(f"{path} was changed or removed after it was written: restored")
        elif damaged:
            if read_manifest(self.folder) is not None:
                return  # another run has created it since this one looked
            raise OutputError(
                f"{path} was changed after it was written, and no record in its folder is this job's: give "
                "another output"
            )
        else:
            try:
                _check_unoccupied(self.output, self.folder)
            except OutputError:
                if not path.exists():  # otherwise another run of this job has just created it
                    raise
        (self.folder / RECEIPTS).mkdir(parents=True, exist_ok=True)
        if not damaged:
            if path.is_symlink():  # a broken link
                path.unlink()
            create_exclusively(path, self.manifest.content())
            return
        with self.lock(range(self.manifest.parts)):
            if read_manifest(self.folder) != self.manifest:
                write_whole(path, self.manifest.content())

    def _has_records(self) -> bool:
        """Return whether the folder has records of this job and of no other."""
        paths = (self.folder / SUCCESS, *(self.folder / RECEIPTS).glob("*.json"))
        return {found.get("job") for path in paths if (found := read_record(path))} == {self.manifest.sha256}

    def lock(self, parts: range) -> contextlib.AbstractContextManager[None]:
        """Lock these parts until the block or the process ends.

        Raises:
            LockedError: another run holds one of the locks.
        """
        return locks.lock_parts(self.folder / MANIFEST, parts)

    def resume(self, parts: range, say: Say) -> dict[int, Receipt]:
        """Return the receipts of the parts that are intact, and prepare the folder for the others.

        Removes `_SUCCESS`, as the job is not complete. The caller holds the lock of these parts.

        Args:
            parts: this shard's.
            say: receives a line about damaged files.

        Raises:
            OutputError: the folder or the file's path has something that this job has not written.
        """
        self.check_unknown_files()
        found = self.intact(parts)
        (self.folder / RECEIPTS).mkdir(exist_ok=True)
        was_complete = size_of(self.folder / SUCCESS) is not None
        damaged = self._damaged(parts, found, was_complete=was_complete)
        if damaged:
            say(f"{self._damage_message(damaged)}: computed again")
        if was_complete and not found.file and not os.path.lexists(self.output):
            say(f"{self.output} was removed after it was written: computed again")
        if was_complete and not damaged and found.file:
            say(f"{self.folder} does not match {SUCCESS}, which is written again when every part is complete")
        if not found.file:
            self._set_aside(say)
        self._remove_success()
        self.remove_temporary_files(parts)
        return found.receipts

    def finish(self, say: Say) -> list[Receipt]:
        """Verify every part, write the single file if the output is one, and `_SUCCESS`.

        The caller holds the lock of all parts.

        Raises:
            IncompleteError: parts are missing; the message lists them.
            OutputError: a part was changed after it was written.
        """
        self.check_unknown_files()
        self._remove_success()
        if self.file_is_intact():
            found = self.intact(self.part_numbers)
            if len(found.receipts) < self.manifest.parts:
                raise self._incomplete_error(found)
            receipts = [*found.receipts.values()]
        else:
            receipts = self._concatenate_parts(say)
        self.remove_temporary_files(None)
        write_whole(self.folder / SUCCESS, record(self.success(receipts)))
        self.remove_parts()
        return receipts

    def _incomplete_error(self, found: Intact) -> OutputError | IncompleteError:
        """Return the error for a job whose parts are not all intact."""
        damaged = self._damaged(self.part_numbers, found)
        missing = [part for part in self.part_numbers if part not in found.receipts and part not in damaged]
        messages = [self._damage_message(damaged)] if damaged else []
        if not found.file and self.file_receipt() is not None:
            messages.append(f"{self.output} was changed or removed after it was written")
        error = OutputError if messages else IncompleteError
        if missing:
            messages.append(
                f"{len(missing)} of {self.manifest.parts} parts are missing in {self.folder}: {_ranges(missing)}"
            )
        return error(f"{'; '.join(messages)}. {_REMEDY}")

    def _damaged(self, parts: Sequence[int], found: Intact, *, was_complete: bool = False) -> list[int]:
        """Return the parts that were written and are not intact; a missing part may never have been written."""
        return [
            part
            for part in parts
            if part not in found.receipts
            and (
                (found.file if self.is_single_file else was_complete)
                or size_of(self.part_path(part)) is not None
            )
        ]

    def _damage_message(self, parts: Sequence[int]) -> str:
        """Return a sentence about damaged parts."""
        if len(parts) == 1:
            return f"{self.part_path(parts[0])} or its receipt was changed or removed after it was written"
        return (
            f"{len(parts)} parts in {self.folder} or their receipts were changed or removed after they were written "
            f"({_ranges(parts)})"
        )

    def _concatenate_parts(self, say: Say) -> list[Receipt]:
        """Concatenate the parts into the single file, whose receipt is written before it is renamed into place.

        Raises:
            IncompleteError: parts are missing.
            OutputError: a part was changed, or the file's path has a file that this job has not written.
        """
        receipts = [receipt for part in self.part_numbers if (receipt := self.receipt(part)) is not None]
        there = [receipt for receipt in receipts if size_of(self.part_path(receipt.part)) == receipt.bytes]
        if len(there) < self.manifest.parts:  # cheap check before any content is read
            raise self._incomplete_error(self.intact(self.part_numbers))
        self._set_aside(say)  # before the receipt, which would claim an existing file
        joined = self.folder / f"joined.{self.manifest.format}"
        with whole_file(joined) as file, contextlib.ExitStack() as stack:
            sink = HashingWriter(file)
            writer: Any = None
            for receipt in receipts:
                content = read_intact(self.part_path(receipt.part), receipt.bytes, receipt.sha256)
                if content is None:
                    raise self._incomplete_error(self.intact(self.part_numbers))
                if self.manifest.format == "parquet":
                    table = pq.read_table(pa.BufferReader(content))
                    writer = writer or stack.enter_context(parquet_writer(sink, table.schema))
                    writer.write_table(table)
                    continue
                if self.manifest.format == "csv" and receipt is not receipts[0]:
                    content = content[content.index(b"\n") + 1 :]  # one header row
                sink.write(content)
        self.write_file_receipt({"name": self.output.name, "bytes": sink.size, "sha256": sink.sha256})
        self._set_aside(say)
        joined.replace(self.output)
        fsync_path(self.output.parent)
        return receipts

    def _set_aside(self, say: Say) -> None:
        """Rename an existing file at the output's path, so that writing the single file loses nothing.

        Raises:
            OutputError: this job has never written the file.
        """
        if not os.path.lexists(self.output):
            return
        if self.file_receipt() is None:
            raise OutputError(
                f"{self.output} exists, and this job has not written it: move it away, and run again"
            )
        if not self.output.is_symlink() and size_of(self.output) == 0:
            say(f"{self.output} was emptied after it was written: computed again")
            self.output.unlink(missing_ok=True)
            return
        names = (f"{self.output.name}.changed{more}" for more in itertools.chain([""], itertools.count(2)))
        kept = next(path for path in map(self.output.with_name, names) if not os.path.lexists(path))
        with contextlib.suppress(FileNotFoundError):  # another shard has just renamed it
            self.output.rename(kept)
            say(
                f"{self.output} was changed after it was written: computed again; the changed file is kept as {kept}"
            )

    def _remove_success(self) -> None:
        """Remove the outdated `_SUCCESS`; its entry about the single file moves to the file's receipt."""
        if size_of(self.folder / SUCCESS) is None:
            return
        if (known := self.file_receipt()) is not None:
            self.write_file_receipt(known)
        (self.folder / SUCCESS).unlink(missing_ok=True)


def _read_manifest_in(folder: Path) -> JobManifest | None:
    """Return the folder's manifest; None if it is missing or damaged."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(
            f"{folder} is not a folder: give another output, or one that ends in .parquet, .csv or .jsonl"
        )
    return read_manifest(folder)


def _check_unoccupied(output: Path, folder: Path) -> None:
    """Raise OutputError if the output's path is in use."""
    if folder != output and os.path.lexists(output):
        raise OutputError(
            f"{output} exists, and no scoring job wrote it: give another output, or move it away"
        )
    if folder.exists() and any(path.name != RECEIPTS and path.name[0] != "." for path in folder.iterdir()):
        raise OutputError(f"{folder} is not empty and belongs to no job: give an empty or a new folder")


def _ranges(numbers: Sequence[int]) -> str:
    """Return numbers as ranges, `0-3, 7`, at most ten."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [f"{low}" if low == high else f"{low}-{high}" for low, high in runs[:10]]
    return ", ".join(shown) + (", ..." if len(runs) > 10 else "")


def versions() -> dict[str, str]:
    """Return the versions of libraries that affect the bytes of the output."""
    return {"pyarrow": pa.__version__}
