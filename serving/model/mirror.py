"""The copy of a model in an object store, in a scratch directory, from which the processes of a service load it.

One process fetches, whichever holds the lock; when it ends, the kernel gives the lock to another. The others read from
the directory what there is, and from `status.json` why there is nothing. A version appears in the directory by a
rename, whole and verified, and is loaded and proven from there like any other.
"""

import contextlib
import fcntl
import logging
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from bundle.errors import BundleError, InvalidBundleError, NoBundleError, PublishError
from bundle.fetch import FetchError
from bundle.remote import RemoteVersion, fetch_version, numbers, open_version, total_bytes
from bundle.repository import STAGING_PREFIX, Bundle, versions
from common.atomic_files import write_whole
from common.errors import one_line, unwritable_reason
from common.object_store import ObjectStore, StoreError
from common.store_urls import shown_store_url
from serving.settings import ServiceSettings
from serving.system.private_directory import make_private
from serving.telemetry.metrics import Metrics

log = logging.getLogger("glyph.serving")

LOCK, STATUS = "lock", "status.json"
MAX_BACKOFF_SECONDS = 60.0
"""Longest pause between two attempts, if polling has none."""
REFUSED_SECONDS = 300.0
"""How long a version that failed verification is not fetched again; it may be repaired in the store."""
MAX_REASON = 1000
LEAST_KEPT = 2
"""Versions that are kept at least, so that one is there to go back to if the newest cannot be proven."""
_random = random.SystemRandom()


class Mirror:
    """The copy as one process sees it. Only the reloader's thread calls `poll`."""

    def __init__(self, settings: ServiceSettings, metrics: Metrics) -> None:
        """Take the settings, whose model is a URL; nothing is asked or written yet."""
        self._settings, self._metrics = settings, metrics
        self._url = str(settings.model)
        self._directory = settings.model_directory
        self._place = self._directory.parent
        self._lock: int | None = None
        self._failures, self._next = 0, 0.0
        self._refused: dict[int, tuple[str, float]] = {}
        """Version to the reason, and the time from which it is tried again."""
        self._reason = f"the model is being fetched from {shown_store_url(self._url)}"

    @property
    def reason(self) -> str:
        """Return why there is no version, or the last failure."""
        return self._reason if self._lock is not None else str(self._status().get("reason") or self._reason)

    def refused(self) -> list[dict[str, Any]]:
        """Return the versions in the store that could not be fetched whole, with the reasons."""
        if self._lock is None:
            return [*self._status().get("refused", ())]
        return [{"version": version, "reason": reason} for version, (reason, _) in self._refused.items()]

    def poll(self) -> None:
        """Fetch what is new, if this is the process that fetches and a failure is not too recent."""
        if time.monotonic() < self._next:
            return
        try:
            if not self._leads():
                return
            self._refresh()
        except (StoreError, BundleError) as error:
            self._failed(error)
        except OSError as error:
            where = error.filename or self._place
            self._failed(
                PublishError(
                    f"{where} cannot be used: {unwritable_reason(error)}; make room, or set GLYPH_SCRATCH to a "
                    "directory of the service's own"
                )
            )
        else:
            self._metrics.model_store(reachable=True)
            if self._failures:
                log.info("%s answers again", shown_store_url(self._url))
            self._failures, self._next = 0, 0.0
            self._reason = self._refused[max(self._refused)][0] if self._refused else ""
            self._write_status()

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        pause = min(2.0 ** min(self._failures, 10), MAX_BACKOFF_SECONDS) / 2
        self._next = time.monotonic() + pause * _random.uniform(1, 2)
        self._metrics.model_store(reachable=not isinstance(error, StoreError))
        if (reason := one_line(error, MAX_REASON)) != self._reason or self._failures == 1:
            log.error("looking for new versions: %s", reason)
        self._reason = reason
        self._write_status()

    def _leads(self) -> bool:
        """Return whether this process fetches: it holds the lock, now or since an earlier call."""
        if self._lock is not None:
            return True
        if self._settings.scratch is None:
            make_private(self._place.parent)
        make_private(self._place)
        descriptor = os.open(self._place / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._lock = descriptor
        for left in self._directory.glob(
            f"{STAGING_PREFIX}*"
        ):  # of a process that was killed while it fetched
            shutil.rmtree(left, ignore_errors=True)
        return True

    def close(self) -> None:
        """Let another process fetch."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _refresh(self) -> None:
        """Fetch the newest versions that are whole, newest first, and remove the others.

        Raises:
            NoBundleError: none is published.
            PublishError: the newest has no room.
            StoreError: the store cannot be read, so nothing is removed.
        """
        model, wanted = ObjectStore.open(self._url), list[int]()
        most = max(LEAST_KEPT, 1 + self._settings.kept_versions)
        refused: dict[int, tuple[str, float]] = {}
        for found in self._published(model, refused):
            if len(wanted) == most:
                break
            known = self._refused.get(found.version)
            if known and time.monotonic() < known[1]:
                refused[found.version] = known
                continue
            try:
                self._fetch(found, wanted)
            except (FetchError, InvalidBundleError) as error:
                self._refuse(refused, found.version, error)
            except PublishError:
                if not wanted:
                    raise
                break  # an older one that has no room is no loss
            else:
                wanted.append(found.version)
        self._refused = refused
        if not wanted and not refused:
            raise NoBundleError(self._nothing())
        if wanted:
            self._remove(set(versions(self._directory)) - {*wanted})

    def _published(
        self, model: ObjectStore, refused: dict[int, tuple[str, float]]
    ) -> Iterator[RemoteVersion]:
        """Yield the versions that may be served, the newest first; note those whose manifest is invalid."""
        pinned, digest = self._settings.version, self._settings.model_digest
        for number in reversed(numbers(model)) if pinned is None else (pinned,):
            try:
                found = open_version(model, number, self._settings.trusted_keys)
            except NoBundleError:  # its push goes on, or was killed
                continue
            except InvalidBundleError as error:
                self._refuse(refused, number, error)
                continue
            if digest in (None, found.manifest.digest):
                yield found

    def _nothing(self) -> str:
        version, digest = self._settings.version, self._settings.model_digest
        what = "no version" if version is None else f"no version {version}"
        return f"{what}{f' with the digest {digest}' if digest else ''} is published in {shown_store_url(self._url)}"

    def _refuse(self, refused: dict[int, tuple[str, float]], version: int, error: BundleError) -> None:
        reason = one_line(error, MAX_REASON)
        refused[version] = reason, time.monotonic() + REFUSED_SECONDS
        if self._refused.get(version, ("",))[0] != reason:
            log.error("version %d failed verification: %s", version, reason)
        self._metrics.fetched(ok=False)

    def _fetch(self, found: RemoteVersion, newer: list[int]) -> None:
        """Fetch a version unless it is there.

        Args:
            found: the version.
            newer: versions that stay.

        Raises:
            FetchError, InvalidBundleError: it is not whole.
            PublishError: it has no room.
        """
        path = self._directory / str(found.version)
        if path.exists():
            with contextlib.suppress(BundleError):
                if Bundle.open(path, self._settings.trusted_keys).manifest.digest == found.manifest.digest:
                    return
            self._remove({found.version})  # it was damaged here, or exchanged there
        self._make_room(found, newer)
        fetch_version(found, self._place, trusted=self._settings.trusted_keys)
        self._metrics.fetched(ok=True)
        log.info("fetched %s, digest %s", found.store.url, found.manifest.digest[:12])

    def _make_room(self, found: RemoteVersion, newer: list[int]) -> None:
        """Remove older versions until there is room; the newest one that is here stays until the other is whole."""
        size, limit = total_bytes(found), self._settings.scratch_bytes
        there = versions(self._directory)
        stay = {*newer, *there[-1:]}
        removable = [version for version in there if version not in stay]
        while (used := _bytes_in(self._directory)) + size > limit and removable:
            self._remove({removable.pop(0)})
        if used + size > limit:
            raise PublishError(
                f"{found.store.url} has {size:,} bytes, and {self._directory} has {used:,} of the {limit:,} that "
                "GLYPH_SCRATCH_BYTES allows: raise it"
            )
        if (free := shutil.disk_usage(self._place).free) < size:
            raise PublishError(
                f"{found.store.url} has {size:,} bytes, and the disk of {self._place} has {free:,} free: make room, or "
                "set GLYPH_SCRATCH to another directory"
            )

    def _remove(self, numbers: set[int]) -> None:
        for number in numbers:
            path = self._directory / str(number)
            path.chmod(0o700)
            shutil.rmtree(path, ignore_errors=True)

    def _status(self) -> dict[str, Any]:
        """Return what the process that fetches has written."""
        try:
            found = orjson.loads((self._place / STATUS).read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write_status(self) -> None:
        with contextlib.suppress(OSError):  # of a full disk; this process itself knows the reason
            write_whole(
                self._place / STATUS, orjson.dumps({"reason": self._reason, "refused": self.refused()})
            )


def _bytes_in(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*") if not path.is_dir())
