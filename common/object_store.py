"""Objects below a URL of fsspec: `s3://`, `gs://`, `az://`, `abfs://`, and `memory://` and `file://` for tests.

A thin layer: what Glyph needs of a store, with one kind of error. fsspec and its backends are imported when a store is
opened. Credentials are the backend's own affair (workload identity, or its environment variables), and no message has
them.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from common.atomic_files import CHUNK_BYTES, write_whole
from common.download import without_secrets
from common.errors import one_line
from common.store_urls import check_store_url, shown_store_url

READ_BYTES = 8 * CHUNK_BYTES
"""Bytes that one request reads."""
EXTRAS: Mapping[str, str] = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "azure"),
}
"""Scheme of a URL to the extra of Glyph that has its backend."""
STAMPS = ("ETag", "etag", "mtime", "created")
"""Keys of a backend's entries, by one of which a changed object is recognised."""

T = TypeVar("T")


class StoreError(Exception):
    """A store refused, or cannot be reached. The message is one line, without credentials."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a listing says of an object."""

    size: int
    """Bytes."""
    stamp: str
    """Changes when the object does: its ETag, or its time."""


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """The objects below one URL. Names are relative to it, with slashes."""

    url: str
    """As messages show it."""
    _files: Any
    """fsspec's file system."""
    _root: str

    @classmethod
    def open(cls, url: str) -> "ObjectStore":
        """Open a store; that asks it nothing yet, with most backends.

        Raises:
            StoreError: the backend is not installed or unknown, or cannot be used.
            ValueError: see `check_store_url`.
        """
        url = check_store_url(url)
        scheme, shown = url.partition("://")[0].lower(), shown_store_url(url)
        extra = EXTRAS.get(scheme)
        remedy = f"install glyph[{extra}]" if extra else "install fsspec and its backend for this scheme"
        try:
            from fsspec.core import url_to_fs
        except ImportError:
            raise StoreError(f"{shown} needs the package fsspec: {remedy}") from None
        local = {"auto_mkdir": True} if scheme in ("file", "local") else {}
        try:
            files, root = url_to_fs(url, use_listings_cache=False, **local)
        except ImportError:
            raise StoreError(f"{shown} needs a package that is not installed: {remedy}") from None
        except Exception as error:  # noqa: BLE001 - backends raise what their clients do
            raise StoreError(f"{shown} cannot be opened: {_reason(error)}") from None
        return cls(shown, files, str(root).rstrip("/"))

    def below(self, name: str) -> "ObjectStore":
        """Return the store of the objects below a folder of this one."""
        return replace(self, url=f"{self.url}/{name}", _root=f"{self._root}/{name}")

    def folders(self, folder: str = "") -> list[str]:
        """Return the names of the folders directly in a folder; of one that does not exist, none."""
        return [name for name, kind in self._entries(folder) if kind == "directory"]

    def names(self, folder: str = "") -> list[str]:
        """Return the names of the objects directly in a folder; of one that does not exist, none."""
        return [name for name, kind in self._entries(folder) if kind == "file"]

    def _entries(self, folder: str) -> Iterator[tuple[str, str]]:
        path = self._path(folder)

        def entries() -> list[dict[str, Any]]:
            self._files.invalidate_cache()
            found: list[dict[str, Any]] = self._files.ls(path, detail=True)
            return found

        for entry in self._found("listed", folder, entries) or ():
            name = str(entry["name"]).rstrip("/")
            if name.startswith(f"{path}/") and "/" not in name[len(path) + 1 :]:
                yield name[len(path) + 1 :], str(entry.get("type"))

    def tree(self) -> dict[str, StoredObject]:
        """Return every object below this URL by its name; if the URL is an object's, that by the name ''."""

        def found() -> dict[str, dict[str, Any]]:
            self._files.invalidate_cache()
            objects: dict[str, dict[str, Any]] = self._files.find(self._root, detail=True)
            return objects

        objects = {}
        for path, entry in (self._found("listed", "", found) or {}).items():
            if path != self._root and (not path.startswith(f"{self._root}/") or path.endswith("/")):
                continue
            stamp = next((str(entry[key]) for key in STAMPS if entry.get(key)), "")
            objects[path[len(self._root) + 1 :]] = StoredObject(int(entry["size"]), stamp)
        return objects

    def size(self, name: str) -> int | None:
        """Return the bytes of an object; None if there is none."""
        entry = self._found("read", name, lambda: self._files.info(self._path(name)))
        return None if entry is None or entry.get("type") != "file" else int(entry["size"])

    def read(self, name: str, limit: int) -> bytes | None:
        """Return an object's content, of `limit` bytes at most; None if there is none.

        Raises:
            StoreError: it cannot be read, or is larger.
        """
        try:
            return b"".join(self.chunks(name, limit))
        except _MissingError:
            return None

    def chunks(self, name: str, limit: int, deadline: float = float("inf")) -> Iterator[bytes]:
        """Yield an object's content, of `limit` bytes at most, which is known before a byte of it is read.

        Args:
            name: of the object.
            limit: the largest size.
            deadline: by `time.monotonic()`; it is looked at before each request.

        Raises:
            StoreError: it is missing, larger, changed meanwhile, or did not arrive in time.
        """
        size, path = self.size(name), self._path(name)
        if size is None:
            raise _MissingError(f"{self._shown(name)} is missing")
        if size > limit:
            raise StoreError(f"{self._shown(name)} has {size:,} bytes; at most {limit:,} are read")
        for start in range(0, size, READ_BYTES):
            end = min(size, start + READ_BYTES)
            if time.monotonic() > deadline:
                raise StoreError(f"{self._shown(name)} did not arrive in time")
            data = self._call("read", name, partial(self._files.cat_file, path, start=start, end=end))
            if len(data) != end - start:
                raise StoreError(f"{self._shown(name)} changed while it was being read")
            yield data

    def upload(self, path: Path, name: str) -> None:
        """Write a local file as an object, or in place of it."""
        self._call("written", name, lambda: self._files.put_file(str(path), self._path(name)))

    def write(self, name: str, data: bytes) -> None:
        """Write an object, or in place of it."""
        self._call("written", name, lambda: self._files.pipe_file(self._path(name), data))

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless it exists; return whether it was written.

        Of several writers at once one succeeds: S3 and Azure are sent `If-None-Match: *`, Google Cloud Storage
        `ifGenerationMatch=0`, and a local file is linked to its name. A backend that has no such condition, and an
        S3-compatible server that ignores it, let the last writer win, so callers read the object again.
        """

        def write() -> bool:
            if "file" in self._protocols():
                write_whole(Path(self._path(name)), data, overwrite=False)
            else:
                self._files.pipe_file(self._path(name), data, mode="create")
            return True

        try:
            return self._call("written", name, write)
        except _ExistsError:
            return False

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        self._found("removed", name, lambda: self._files.rm_file(self._path(name)))

    def _protocols(self) -> tuple[str, ...]:
        protocol = self._files.protocol
        return (protocol,) if isinstance(protocol, str) else tuple(protocol)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _shown(self, name: str) -> str:
        return f"{self.url}/{one_line(name)}" if name else self.url

    def _found(self, done: str, name: str, call: Callable[[], T]) -> T | None:
        """Return what a call of the backend does; None where nothing is there.

        Raises:
            StoreError: as `_call`.
        """
        try:
            return self._call(done, name, call)
        except _MissingError:
            return None

    def _call(self, done: str, name: str, call: Callable[[], T]) -> T:
        """Return what a call of the backend does.

        Raises:
            StoreError: the backend failed, with whatever exception of its client.
        """
        try:
            return call()
        except FileExistsError as error:
            raise _ExistsError(f"{self._shown(name)} cannot be {done}: {_reason(error)}") from None
        except FileNotFoundError as error:
            raise _MissingError(f"{self._shown(name)} cannot be {done}: {_reason(error)}") from None
        except Exception as error:  # noqa: BLE001 - of any client
            raise StoreError(f"{self._shown(name)} cannot be {done}: {_reason(error)}") from None


class _ExistsError(StoreError):
    """An object is there already."""


class _MissingError(StoreError):
    """An object is not there."""


def unsafe_name(name: str) -> bool:
    """Tell whether a name from a listing has a component or a character by which it could leave its directory."""
    return "\0" in name or "\\" in name or not {"", ".", ".."}.isdisjoint(name.split("/"))


def _reason(error: Exception) -> str:
    """Return an error of a backend in a line, without the addresses' credentials."""
    return one_line(without_secrets(error)) or type(error).__name__
