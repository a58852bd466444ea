"""A job whose model, input or output is in object stores: scored from and to a scratch directory.

The scorer itself knows only paths. What is read is fetched before the run, the files of an earlier run of the job too,
so that it resumes; each part is uploaded when it is written, its receipt first, and `_SUCCESS` last, when the job is
complete. Receipts decide what counts, here as there: a part that was not uploaded whole is computed again.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from bundle.errors import BundleError
from bundle.remote import fetch_version, resolve
from bundle.repository import versions
from bundle.version_paths import with_version
from common.configuration import Layer, none_where_said
from common.errors import ConfigurationError, one_line, unwritable_reason
from common.object_store import ObjectStore, StoredObject, StoreError, unsafe_name
from common.store_urls import check_store_url, is_store_url
from imagesets.errors import DataError
from imagesets.source import Source
from serving.scoring.errors import LockedError, ModelError, OutputError, StoreLostError, WriteError
from serving.scoring.observer import Observer, Totals
from serving.scoring.output.job_files import RECEIPTS, SUCCESS, folder_of
from serving.scoring.output.manifest import MANIFEST
from serving.scoring.records import Backend, Chunk, Predictions, Receipt
from serving.scoring.settings import ScoreSettings, shard_of
from serving.system.private_directory import make_private

FETCHING = 8
"""Objects that are fetched at a time."""
UPLOADING = 4
"""Parts that may wait for their upload, before the run waits for them."""
MAX_RECORD_BYTES = 64 << 20
"""Of a receipt, the manifest, or `_SUCCESS`, which has all receipts."""
FILE_RECEIPT = f"{RECEIPTS}/file.json"
_PART = re.compile(r"part-(\d{6,})\.(parquet|csv|jsonl)")
_RECORD = re.compile(rf"{MANIFEST}|{SUCCESS}|{RECEIPTS}/(part-\d{{6,}}|file)\.json")


@dataclass
class StoredJob:
    """The URLs of a job, and the paths in scratch that stand for them."""

    layers: list[Layer]
    """The settings, with paths in the place of URLs."""
    model: str | None = None
    output: str | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    """Path to URL."""
    _held: int | None = None
    _uploads: ThreadPoolExecutor | None = None
    _pending: list[Future[None]] = field(default_factory=list)

    @classmethod
    def of(cls, layers: Sequence[Layer]) -> "StoredJob":
        """Return the job that the layers of settings describe. Nothing is asked or written yet.

        Raises:
            ConfigurationError: a URL has credentials, or is none.
        """
        job = cls([*layers])
        merged = {name: value for layer in layers for name, value in layer.values.items()}
        given = none_where_said(merged.get("scratch"))
        scratch = Path(given) if given else Path(tempfile.gettempdir()) / f"glyph-score-{os.geteuid()}"
        for number, layer in enumerate(job.layers):
            try:
                job.layers[number] = Layer(job._localised(layer.values, scratch), layer.origin)
            except ValueError as error:
                raise ConfigurationError(str(error)) from None
        return job

    def _localised(self, values: Mapping[str, Any], scratch: Path) -> dict[str, Any]:
        local = dict(values)
        if is_store_url(url := str(values.get("model"))):
            split = with_version({"model": check_store_url(url)})
            self.model = split["model"]
            local |= {"model": _place(scratch, split["model"])}
            if "version" in split:
                local |= {"version": split["version"]}
        if is_store_url(url := str(values.get("output"))):
            self.output = check_store_url(url)
            local["output"] = str(_place(scratch, self.output)) + ("/" if url.endswith("/") else "")
        if "input" in values:
            given = values["input"]
            places = [part.strip() for part in given.split(",")] if isinstance(given, str) else [*given]
            for number, place in enumerate(places):
                if is_store_url(place):
                    url = check_store_url(place)
                    places[number] = str(_place(scratch, url))
                    self.inputs[places[number]] = url
            local["input"] = [place for place in places if place]
        return local

    def fetch(self, settings: ScoreSettings, *, all_parts: bool = False) -> None:
        """Fetch the model, the input, and what earlier runs of the job have written.

        Args:
            settings: with the paths of `layers`.
            all_parts: whether those of other shards are needed, too.

        Raises:
            DataError: an input has nothing, or unusable names, or is too large.
            ModelError: the model is not published, or fails verification.
            OutputError: the output has something else.
            StoreLostError: a store refused, or cannot be reached.
            WriteError: scratch cannot be written.
        """
        if settings.engine == "ray" and (self.inputs or self.output or self.model):
            raise ConfigurationError(
                "engine: with --engine ray the paths are those of a file system that all nodes share, and no URLs"
            )
        with _errors():
            for path in (settings.model, settings.output, *map(Path, self.inputs)):
                self._make_place(path, settings)
            if self.model is not None:
                _fetch_model(self.model, settings)
            for place, url in self.inputs.items():
                _fetch_input(url, Path(place), settings.scratch_bytes)
            if self.output is not None:
                self._fetch_output(settings, all_parts=all_parts)

    def _make_place(self, path: Path, settings: ScoreSettings) -> None:
        """Create the directory of a path in scratch, for this user alone; other paths are the user's affair."""
        is_local = (path == settings.model and self.model is None) or (
            path == settings.output and self.output is None
        )
        if not is_local:
            if settings.scratch is None:
                make_private(path.parent.parent)
            make_private(path.parent)

    def observer(self, console: Observer, settings: ScoreSettings) -> Observer:
        """Return an observer that tells another and uploads what is written."""
        return _Uploading(self, console, settings) if self.inputs or self.output else console

    def _fetch_output(self, settings: ScoreSettings, *, all_parts: bool) -> None:
        folder = folder_of(settings.output)
        self._lock(settings.output.parent)
        shutil.rmtree(folder, ignore_errors=True)
        if folder != settings.output:
            settings.output.unlink(missing_ok=True)
        store = self._folder_store(settings)
        there = store.tree()
        unknown = [name for name in there if not (_PART.fullmatch(name) or _RECORD.fullmatch(name))]
        if unknown and folder == settings.output:
            raise OutputError(
                f"{store.url} is not empty and has what no job writes ({one_line(min(unknown))}): give an empty or a "
                "new prefix"
            )
        index, count = shard_of(settings, os.environ)
        all_parts = all_parts or SUCCESS in there

        def is_wanted(name: str) -> bool:
            part = _PART.fullmatch(name)
            return all_parts or part is None or int(part[1]) % count == index

        wanted = {name: one for name, one in there.items() if name not in unknown and is_wanted(name)}
        _fetch_objects(store, wanted, folder, settings.scratch_bytes)
        if folder != settings.output:
            single = ObjectStore.open(str(self.output))
            if (found := single.tree()).keys() == {""}:
                _fetch_objects(single, found, settings.output, settings.scratch_bytes)

    def _lock(self, place: Path) -> None:
        """Hold a place in scratch until the process ends: it is emptied, and filled again.

        Raises:
            LockedError: another run holds it.
        """
        self._held = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(
                f"another run with this output works in {place.parent}: wait for it, or give another --scratch"
            ) from None

    def _folder_store(self, settings: ScoreSettings) -> ObjectStore:
        """Return the store of the parts: the output's, or, beside a single file, that of `OUTPUT.parts`."""
        return ObjectStore.open(
            f"{self.output}{folder_of(settings.output).name[len(settings.output.name) :]}"
        )

    def upload(self, settings: ScoreSettings, names: Sequence[str]) -> None:
        """Upload files of the job's folder in this order, behind the run."""
        if self.output is None:
            return
        store, folder = self._folder_store(settings), folder_of(settings.output)
        self._uploads = self._uploads or ThreadPoolExecutor(1, thread_name_prefix="upload")
        self._pending.append(self._uploads.submit(_upload, store, folder, names))
        while len(self._pending) > UPLOADING or (self._pending and self._pending[0].done()):
            self._settle()

    def _settle(self) -> None:
        with _errors():
            self._pending.pop(0).result()

    def start_upload(self, settings: ScoreSettings) -> None:
        """Write the job's manifest to the store, unless it is there, and remove an outdated `_SUCCESS`.

        Raises:
            OutputError: another job has begun to write there meanwhile.
        """
        if self.output is None:
            return
        with _errors():
            store, folder = self._folder_store(settings), folder_of(settings.output)
            content = (folder / MANIFEST).read_bytes()
            if not store.create(MANIFEST, content) and store.read(MANIFEST, MAX_RECORD_BYTES) != content:
                raise OutputError(
                    f"{store.url} belongs to another job: give the same input, model and options to resume it, or give "
                    "another output"
                )
            if not (folder / SUCCESS).exists():
                store.remove(SUCCESS)

    def finish(self, settings: ScoreSettings, *, complete: bool) -> None:
        """Upload what is left, and `_SUCCESS` last, if the job is complete."""
        while self._pending:
            self._settle()
        if self.output is None or not complete:
            return
        with _errors():
            store, folder = self._folder_store(settings), folder_of(settings.output)
            there = store.tree()
            if store.read(SUCCESS, MAX_RECORD_BYTES) != (folder / SUCCESS).read_bytes():
                names = sorted(f"{RECEIPTS}/{path.name}" for path in (folder / RECEIPTS).glob("*.json"))
                _upload(store, folder, [name for name in names if name not in there or name == FILE_RECEIPT])
                if folder != settings.output:
                    above = ObjectStore.open(str(self.output).rpartition("/")[0])
                    _upload(above, settings.output.parent, [settings.output.name])
                _upload(store, folder, [SUCCESS])
            for name in there if folder != settings.output else ():
                if _PART.fullmatch(name):
                    store.remove(name)

    def close(self) -> None:
        """End the thread that uploads, and release scratch; parts that are not uploaded yet are by the next run."""
        if self._uploads is not None:
            self._uploads.shutdown(cancel_futures=True)
        if self._held is not None:
            os.close(self._held)


class _Uploading(Observer):
    """Uploads each part, and shows the input's URLs instead of paths in scratch."""

    def __init__(self, job: StoredJob, console: Observer, settings: ScoreSettings) -> None:
        self._job, self._console, self._settings = job, console, settings

    def on_backend(self, backend: Backend, sources: Sequence[Source]) -> None:
        for source in sources:
            for path, url in self._job.inputs.items():
                if source.name == path or source.name.startswith(f"{path}/"):
                    cast("Any", source).name = url + source.name[len(path) :]
        self._console.on_backend(backend, sources)

    def on_start(self, totals: Totals, done: Sequence[Receipt]) -> None:
        self._job.start_upload(self._settings)
        self._console.on_start(totals, done)

    def say(self, line: str) -> None:
        self._console.say(line)

    def tally(self, chunk: Chunk, predictions: Predictions) -> dict[str, Any]:
        return self._console.tally(chunk, predictions)

    def on_part(self, receipt: Receipt, seconds: float) -> None:
        name = f"part-{receipt.part:06d}"
        self._job.upload(
            self._settings, [f"{RECEIPTS}/{name}.json", f"{name}.{self._settings.written_format}"]
        )
        self._console.on_part(receipt, seconds)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Turn the errors of stores and disks into the scorer's."""
    try:
        yield
    except StoreError as error:
        raise StoreLostError(f"{error}; the same command resumes the run") from None
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise WriteError(
            f"scratch{where} cannot be written: {unwritable_reason(error)}; make room, or give another --scratch"
        ) from None


def _place(scratch: Path, url: str) -> Path:
    """Return the path in scratch that stands for a URL; it has the URL's last name."""
    return scratch / hashlib.sha256(url.encode()).hexdigest()[:16] / url.rpartition("/")[2]


def _fetch_model(url: str, settings: ScoreSettings) -> None:
    try:
        found = resolve(url, version=settings.version, trusted=settings.trusted_keys)
        fetch_version(found, settings.model.parent, trusted=settings.trusted_keys)
        for other in {*versions(settings.model)} - {
            found.version
        }:  # an older run's, or one that was taken back
            shutil.rmtree(settings.model / str(other), ignore_errors=True)
    except BundleError as error:
        raise ModelError(str(error)) from error


def _fetch_input(url: str, path: Path, limit: int) -> None:
    store = ObjectStore.open(url)
    found = store.tree()
    if not found:
        raise DataError(f"{store.url} has no objects: give an object, or a prefix that has some")
    if bad := [name for name in found if name and unsafe_name(name)]:
        raise DataError(f"{store.url} has an object whose name no file may have: {one_line(min(bad))}")
    if (size := sum(one.size for one in found.values())) > limit:
        raise DataError(
            f"{store.url} has {len(found):,} objects of {size:,} bytes, and --scratch-bytes is {limit:,}: raise it "
            "where the disk has that room, or score a prefix of it at a time"
        )
    for left in path.rglob("*") if path.is_dir() else ():  # of an earlier run
        if not left.is_dir() and left.relative_to(path).as_posix() not in found:
            left.unlink()
    _fetch_objects(store, found, path, limit)


def _fetch_objects(store: ObjectStore, found: Mapping[str, StoredObject], path: Path, limit: int) -> None:
    """Fetch objects below a directory, or the one of the name '' as the file; those that are there stay."""

    def fetch(name: str) -> None:
        _fetch_object(store, name, found[name], path / name if name else path, limit)

    with ThreadPoolExecutor(FETCHING, thread_name_prefix="fetch") as fetching:
        results = [fetching.submit(fetch, name) for name in found]
        try:
            for result in results:
                result.result()
        except BaseException:
            fetching.shutdown(wait=False, cancel_futures=True)
            raise


def _fetch_object(store: ObjectStore, name: str, one: StoredObject, path: Path, limit: int) -> None:
    """Fetch an object. The file's time is made of the object's stamp, so that every machine sees the same job."""
    stamp = int.from_bytes(hashlib.sha256(one.stamp.encode()).digest()[:4]) // 2
    with contextlib.suppress(OSError):
        if (there := path.stat()).st_size == one.size and int(there.st_mtime) == stamp:
            return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("wb") as file:
        for chunk in store.chunks(name, limit):
            file.write(chunk)
        if file.tell() != one.size:
            raise StoreError(f"{store.url}/{one_line(name)} changed while it was being read")
    os.utime(path, (stamp, stamp))


def _upload(store: ObjectStore, folder: Path, names: Sequence[str]) -> None:
    """Upload files in this order. A part that is gone has its rows in the single file, which is uploaded later."""
    for name in names:
        try:
            size = (folder / name).stat().st_size
        except FileNotFoundError:
            if _PART.fullmatch(name):
                continue
            raise
        store.upload(folder / name, name)
        if (there := store.size(name)) != size:
            raise StoreError(f"{store.url}/{name} has {there} bytes, and {size} were written")
