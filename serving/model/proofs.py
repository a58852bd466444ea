"""What the workers know together of versions that they try: proven, refused, or deadly.

The table is made when the arbiter imports this module, and its workers inherit it by fork. Where a process imports
it for itself (a WSGI server without our arbiter, `--check`, a test) its table is its own. It is as old as the service:
a start, or SIGUSR2, begins with an empty one.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import orjson

LOAD_SECONDS = 120
"""See `load_seconds`. The first start on a GPU reads gigabytes of CUDA's libraries, and captures its graphs."""
MOST_DEATHS = 2
"""Workers in a row that may die of a version that was proven: one may have been killed for another reason."""
MOST_PROOFS = 64
"""Versions that are remembered, the newest. Each worker remembers besides what it has refused itself."""
_TABLE, _TURNS, _PROCESSES = 0, 1, 1 << 48
"""Bytes that are locked: one for the table, one for each version's turn, and one for each process that loads."""

Kind = Literal["unknown", "proven", "bundle", "golden", "provider"]
"""What came of a proof: nothing yet, or that the version is proven, or what refuses it."""


@dataclass(slots=True)
class Proof:
    """What is known of a version, on a provider."""

    kind: Kind = "unknown"
    reason: str = ""
    """Of the refusal."""
    apart: bool = False
    """Whether the process that tries it, or was the last to, does so in a child."""
    loading: list[int] = field(default_factory=list)
    """Processes that load it into themselves."""
    deaths: int = 0
    """How many of those have died of it since it was loaded last."""


def load_seconds(silent: float) -> float:
    """Return in how many seconds a version has to be loaded and proven, of a worker that may be silent for `silent`."""
    return max(LOAD_SECONDS, silent)


def key(*facts: Any) -> str:
    """Return the name of a proof: of a version's path and files, and of all settings that it depends on."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()


class Proofs:
    """A table of proofs in memory that forked processes share, and locks that their end releases.

    The locks are POSIX record locks: the kernel drops them with the process, whatever ends it, and they do not keep
    threads of one process apart.
    """

    def __init__(self) -> None:
        self._file = os.memfd_create("glyph-proofs")

    def look(self, name: str) -> Proof:
        """Return what is known, those counted who have died of it since the last look."""
        with self._changing() as proofs:
            proof = proofs.get(name, Proof())
            alive = [pid for pid in proof.loading if self._loads(pid)]
            proof.deaths += len(proof.loading) - len(alive)
            proof.loading = alive
            if proof.kind == "proven" and proof.deaths >= MOST_DEATHS:
                proof.kind = "bundle"
                proof.reason = f"{proof.deaths} workers were killed, or crashed, while they loaded it"
            return proof

    def settle(self, name: str, kind: Kind, reason: str = "") -> None:
        """Let all workers know what came of a proof."""
        with self._changing() as proofs:
            proofs[name] = Proof(kind, reason)

    @contextlib.contextmanager
    def turn(self, name: str) -> Iterator[bool]:
        """Try to be the one process that tries a version which is not proven; tell whether it is this one."""
        place = _TURNS + int(name[:11], 16)
        if not self._lock(place):
            yield False
            return
        try:
            yield True
        finally:
            self._unlock(place)

    def apart(self, name: str) -> None:
        """Let others know that this process, whose turn it is, tries the version in a child."""
        with self._changing() as proofs:
            proofs.setdefault(name, Proof()).apart = True

    @contextlib.contextmanager
    def loading(self, name: str) -> Iterator[None]:
        """Remember that this process loads the version; if it is not heard of again, it has died of it.

        An exception is no death. SystemExit is one with a code that is not 0: the arbiter's, for a worker that was
        silent for too long.
        """
        pid = os.getpid()
        self._lock(_PROCESSES + pid)
        with self._changing() as proofs:
            proof = proofs.setdefault(name, Proof())
            proof.apart = False
            proof.loading.append(pid)
        try:
            yield
        except (Exception, SystemExit) as end:
            if not isinstance(end, SystemExit) or not end.code:
                with self._changing() as proofs:
                    self._leave(proofs, name, pid)
            raise
        with self._changing() as proofs:
            proof = self._leave(proofs, name, pid)
            if proof.kind in ("unknown", "proven"):
                proof.kind, proof.deaths = "proven", 0

    def withdraw(self) -> None:
        """Forget what this process loads: it was told to end meanwhile."""
        with self._changing() as proofs:
            for name in proofs:
                self._leave(proofs, name, os.getpid())

    def _leave(self, proofs: dict[str, Proof], name: str, pid: int) -> Proof:
        proof = proofs.setdefault(name, Proof())
        proof.loading = [other for other in proof.loading if other != pid]
        self._unlock(_PROCESSES + pid)
        return proof

    def _loads(self, pid: int) -> bool:
        """Tell whether a process that said it would load something is still there."""
        if pid == os.getpid():
            return True
        if not self._lock(_PROCESSES + pid):
            return True
        self._unlock(_PROCESSES + pid)
        return False

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Proof]]:
        """Give the table to be changed by this process alone. One that was killed while it wrote leaves none."""
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, _TABLE)
        try:
            before = os.pread(self._file, os.fstat(self._file).st_size, 0)
            try:
                proofs = {name: Proof(**facts) for name, facts in orjson.loads(before or b"{}").items()}
            except orjson.JSONDecodeError:
                proofs = {}
            yield proofs
            after = orjson.dumps({name: asdict(proofs[name]) for name in list(proofs)[-MOST_PROOFS:]})
            if after != before:
                os.ftruncate(self._file, 0)
                os.pwrite(self._file, after, 0)
        finally:
            self._unlock(_TABLE)

    def _lock(self, place: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except OSError:
            return False
        return True

    def _unlock(self, place: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)


PROOFS = Proofs()
