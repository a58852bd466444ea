"""The output folder of one job: its manifest, its parts, their receipts, and `_SUCCESS` at last.

    _manifest.json               what the job is; whoever comes with another one is refused
    part-000000.parquet ...      the rows, whole or not there
    _receipts/part-000000.json   what is known of a part; written before the part, so a part has one
    _SUCCESS                     every part with its rows and its SHA-256; written when all are there

A name that is there has its whole content behind it (`bundle.files`), so a run that was killed goes on
with the parts that are missing. Where the output is one file, the folder is the file's name and `.parts`;
the parts are removed when the file is written.
"""

import errno
import fcntl
import os
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from bundle.files import fsync_path, sha256_bytes, sha256_file, whole_file, write_whole
from serving.scoring.errors import IncompleteError, OccupiedError, OutputError
from serving.scoring.formats import parquet_writer
from serving.scoring.observer import Receipt
from serving.scoring.plan import differences
from serving.scoring.settings import ENDINGS

MANIFEST = "_manifest.json"
RECEIPTS = "_receipts"
SUCCESS = "_SUCCESS"
SCHEMA_VERSION = 1
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What file systems say that have no locks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobFacts:
    """What `_manifest.json` says."""

    rows: int
    parts: int
    part_rows: int
    format: str
    model: str
    """The bundle's digest."""
    classes: Sequence[str]
    fingerprint: Mapping[str, str]
    """Everything that decides the bytes of the parts."""
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """One job's output."""

    output: Path
    """As it was asked for: a folder, or a file."""
    facts: JobFacts

    @classmethod
    def claim(cls, output: Path, facts: JobFacts) -> "OutputFolder":
        """Make the folder this job's, or see that it is.

        Raises:
            OutputError: it belongs to another job (the message says what differs), or to none and is
                not empty.
            OSError: it cannot be written.
        """
        folder = folder_of(output)
        manifest = folder / MANIFEST
        if not manifest.exists():
            try:
                _refuse_strangers(output, folder)
            except OutputError:
                if not manifest.exists():  # else another run of the job, or shard, came first just now
                    raise
            (folder / RECEIPTS).mkdir(parents=True, exist_ok=True)
            _write_once(manifest, orjson.dumps(asdict(facts), option=orjson.OPT_INDENT_2) + b"\n")
        found = _read_manifest(folder)
        if different := differences(found.fingerprint, facts.fingerprint):
            more = f"; and {len(different) - 5} more" if len(different) > 5 else ""
            raise OutputError(
                f"{folder} belongs to another job: {'; '.join(different[:5])}{more}. Give the same input, model "
                "and options to go on with it, or name another output"
            )
        return cls(output, found)

    @classmethod
    def open(cls, output: Path) -> "OutputFolder":
        """Open a job's output as it is.

        Raises:
            OutputError: there is none.
        """
        folder = folder_of(output)
        if not (folder / MANIFEST).exists():
            raise OutputError(f"there is no job's output in {folder}: name what --output named")
        return cls(output, _read_manifest(folder))

    @contextmanager
    def held(self, parts: range) -> Iterator[None]:
        """Keep every other run from these parts, until the block ends or the process does, however it ends.

        A byte of the manifest stands for each part. Its locks are those of an open file (`F_OFD_SETLK`,
        fcntl(2)): no other reader of the manifest loses them, and the system frees them, over NFS too.

        Raises:
            OccupiedError: another run has one of them.
        """
        with (self.folder / MANIFEST).open("r+b") as file:
            ranges = [(parts.start, len(parts))] if parts.step == 1 else [(part, 1) for part in parts]
            for first, count in ranges:
                wanted = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, first, count, 0)
                try:
                    fcntl.fcntl(file, fcntl.F_OFD_SETLK, wanted)
                except (BlockingIOError, PermissionError) as error:
                    raise OccupiedError(
                        f"another run is at work on these parts of {self.output}: let it end, or give each run a "
                        "--shard i/n of its own, all with the same n"
                    ) from error
                except OSError as error:
                    if error.errno not in NO_LOCKS:
                        raise
                    break  # two runs write the same bytes there, and one may end with an error
            yield

    @property
    def folder(self) -> Path:
        """Return where the parts are."""
        return folder_of(self.output)

    def part_path(self, part: int) -> Path:
        """Return a part's place."""
        return self.folder / f"part-{part:06d}.{self.facts.format}"

    def receipt(self, part: int) -> Receipt | None:
        """Return what is known of a part, None if it is not written, or not as its receipt says."""
        try:
            receipt = self._receipt(part)
            return receipt if self.part_path(part).stat().st_size == receipt.bytes else None
        except FileNotFoundError:
            return None

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
        write_whole(self._receipt_path(part), orjson.dumps(asdict(receipt)) + b"\n")
        write_whole(self.part_path(part), content)
        return receipt

    def clear_leftovers(self, parts: Iterable[int]) -> None:
        """Remove the temporary files that a killed run left of these parts."""
        own = {f".part-{part:06d}" for part in parts}
        for folder in (self.folder, self.folder / RECEIPTS):
            for path in folder.iterdir():
                if path.name.partition(".")[0] == "" and "." + path.name.split(".")[1] in own:
                    path.unlink(missing_ok=True)

    def success(self) -> list[Receipt] | None:
        """Return all receipts if the job is complete, else None.

        Raises:
            OutputError: it was complete, and its file was removed since.
        """
        if not (self.folder / SUCCESS).exists():
            return None
        if self.is_file and not self.output.exists():
            raise OutputError(
                f"{self.output} was written and is gone: remove {self.folder}, too, to score anew"
            )
        self._remove_parts()
        return [self._receipt(part) for part in range(self.facts.parts)]

    @property
    def is_file(self) -> bool:
        """Tell whether the output is one file."""
        return self.folder != self.output

    def finish(self) -> list[Receipt]:
        """See that every part is there and unchanged, write the one file if it is one, and `_SUCCESS`.

        Raises:
            IncompleteError: parts are missing; the message says which.
            OutputError: a part was changed after it was written.
        """
        found = {part: self.receipt(part) for part in range(self.facts.parts)}
        if missing := [part for part, receipt in found.items() if receipt is None]:
            raise IncompleteError(
                f"{len(missing)} of {self.facts.parts} parts are missing in {self.folder}: {_ranges(missing)}. "
                "Run what has to write them (part p is of shard i/n where p modulo n is i), then again"
            )
        receipts = [receipt for receipt in found.values() if receipt is not None]
        for receipt in receipts:
            path = self.part_path(receipt.part)
            if sha256_file(path) != receipt.sha256:
                raise OutputError(f"{path} was changed after it was written: remove it and run again")
        summary: dict[str, Any] = {
            "rows": sum(receipt.rows for receipt in receipts),
            "errors": sum(receipt.errors for receipt in receipts),
            "model": self.facts.model,
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
        if self.is_file:
            self._join()
            size = self.output.stat().st_size
            summary["file"] = {"name": self.output.name, "bytes": size, "sha256": sha256_file(self.output)}
        for leftover in (*self.folder.glob(".*"), *(self.folder / RECEIPTS).glob(".*")):
            leftover.unlink(missing_ok=True)
        write_whole(self.folder / SUCCESS, orjson.dumps(summary, option=orjson.OPT_INDENT_2) + b"\n")
        self._remove_parts()
        return receipts

    def _join(self) -> None:
        """Write the one file: the parts behind each other."""
        paths = [self.part_path(part) for part in range(self.facts.parts)]
        with whole_file(self.output) as file:
            if self.facts.format == "parquet":
                with parquet_writer(file, pq.read_schema(paths[0])) as writer:
                    for path in paths:
                        writer.write_table(pq.read_table(path, partitioning=None))
                return
            for path in paths:
                content = path.read_bytes()
                if self.facts.format == "csv" and path != paths[0]:
                    content = content[content.index(b"\n") + 1 :]  # the line of names stands once
                file.write(content)

    def _remove_parts(self) -> None:
        if self.is_file:
            for path in self.folder.glob(f"part-*.{self.facts.format}"):
                path.unlink(missing_ok=True)

    def _receipt_path(self, part: int) -> Path:
        return self.folder / RECEIPTS / f"part-{part:06d}.json"

    def _receipt(self, part: int) -> Receipt:
        path = self._receipt_path(part)
        try:
            return Receipt(**orjson.loads(path.read_bytes()))
        except (ValueError, TypeError) as error:
            raise OutputError(f"{path} is damaged: remove it and run again") from error


def folder_of(output: Path) -> Path:
    """Return where the parts of an output are: itself, or beside it if it is one file."""
    return output.with_name(output.name + ".parts") if output.suffix.lower() in ENDINGS else output


def _refuse_strangers(output: Path, folder: Path) -> None:
    """Refuse to write where something else is."""
    if folder != output and output.exists():
        raise OutputError(
            f"{output} is there already, and no job of this scorer wrote it: name another output"
        )
    if folder.exists() and not folder.is_dir():
        raise OutputError(
            f"{folder} is no folder: name another output, or one that ends in .parquet, .csv or .jsonl"
        )
    if folder.exists() and any(path.name != RECEIPTS and path.name[0] != "." for path in folder.iterdir()):
        raise OutputError(f"{folder} is not empty and belongs to no job: name an empty or a new folder")


def _write_once(path: Path, content: bytes) -> None:
    """Write a file whole unless somebody else does at the same time."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.link(name, path)  # unlike a rename, it fails where there is one
    except FileExistsError:
        pass
    finally:
        Path(name).unlink(missing_ok=True)
    fsync_path(path.parent)


def _read_manifest(folder: Path) -> JobFacts:
    path = folder / MANIFEST
    try:
        document = orjson.loads(path.read_bytes())
        if document["schema_version"] > SCHEMA_VERSION:
            raise OutputError(f"{path} was written by a newer Glyph: go on with that one")
        return JobFacts(**document)
    except (ValueError, TypeError, KeyError) as error:
        raise OutputError(f"{path} is damaged: name another output") from error


def _ranges(numbers: Sequence[int]) -> str:
    """Return numbers as `0-3, 7`, the first few."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [f"{low}" if low == high else f"{low}-{high}" for low, high in runs[:10]]
    return ", ".join(shown) + (", ..." if len(runs) > 10 else "")


def versions() -> dict[str, str]:
    """Return the versions that decide the bytes of what is written."""
    return {"pyarrow": pa.__version__}
