"""The proof table: what the workers have found out about each version, in a file without a name that they share.

The table is made when the arbiter imports this module, and its workers inherit it by fork. A process that imports the
module itself (a WSGI server without Glyph's arbiter, `--check`, a test) has a table of its own. A start of the service,
and SIGUSR2, begin with an empty table.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import orjson

from serving.system.anonymous_files import anonymous_file

LOAD_SECONDS = 120
"""See `load_seconds`. The first start on a GPU reads gigabytes of CUDA libraries and captures the CUDA graphs."""
MAX_DEATHS = 2
"""Workers in a row that may die while they load a proven version: one may have been killed for another reason."""
MAX_PROOFS = 64
"""Versions that the table remembers, the newest. Each worker also remembers the failures that it has seen itself."""
_TABLE_LOCK, _CLAIM_LOCKS, _PROCESS_LOCKS = 0, 1, 1 << 48
"""Offsets of the locked bytes: one for the table, one for each version's claim, one for each process that loads."""

Status = Literal["unknown", "proven", "invalid", "golden_mismatch", "provider_error"]
"""The result of a proof. `unknown`: there is none yet. `provider_error`: CUDA failed, which says nothing about the
version, so the table never holds it."""


@dataclass(slots=True)
class Proof:
    """What is known about one version on one provider."""

    status: Status = "unknown"
    reason: str = ""
    """Why the version failed."""
    in_child: bool = False
    """Whether the process that tries the version, or tried it last, does so in a child process."""
    loading: list[int] = field(default_factory=list)
    """Ids of the processes that are loading the version into themselves."""
    deaths: int = 0
    """How many processes have died while loading it, since it was last loaded successfully."""


def load_seconds(timeout: float) -> float:
    """Return how long a version may take to load and prove, given the worker timeout in seconds."""
    return max(LOAD_SECONDS, timeout)


def proof_key(*facts: Any) -> str:
    """Return the key of a proof: a hash of the version's path and files and of every setting that matters to it."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()


class ProofTable:
    """Proofs by key, in a file that forked processes share, and locks that the kernel releases.

    The locks are POSIX record locks: the kernel drops them when a process ends, however it ends. They do not exclude
    threads of the same process.
    """

    def __init__(self) -> None:
        self._file = anonymous_file("glyph-proofs")

    def get(self, key: str) -> Proof:
        """Return what is known, after counting the processes that have died while loading since the last call."""
        with self._transaction() as proofs:
            proof = proofs.get(key, Proof())
            alive = [pid for pid in proof.loading if self._is_loading(pid)]
            proof.deaths += len(proof.loading) - len(alive)
            proof.loading = alive
            if proof.status == "proven" and proof.deaths >= MAX_DEATHS:
                proof.status = "invalid"
                proof.reason = f"{proof.deaths} workers were killed or crashed while they loaded it"
            return proof

    def record(self, key: str, status: Status, reason: str = "") -> None:
        """Store the result of a proof for all workers."""
        with self._transaction() as proofs:
            proofs[key] = Proof(status, reason)

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Try to become the one process that tries an unproven version; yield whether this process is it."""
        offset = _CLAIM_LOCKS + int(key[:11], 16)
        if not self._lock(offset):
            yield False
            return
        try:
            yield True
        finally:
            self._unlock(offset)

    def mark_in_child(self, key: str) -> None:
        """Record that this process, which holds the claim, tries the version in a child process."""
        with self._transaction() as proofs:
            proofs.setdefault(key, Proof()).in_child = True

    @contextlib.contextmanager
    def loading(self, key: str) -> Iterator[None]:
        """Record that this process loads the version. If the process ends inside the block, the version killed it.

        An exception does not count as a death. SystemExit with a code other than 0 does: the arbiter aborts a silent
        worker that way.
        """
        pid = os.getpid()
        self._lock(_PROCESS_LOCKS + pid)
        with self._transaction() as proofs:
            proof = proofs.setdefault(key, Proof())
            proof.in_child = False
            proof.loading.append(pid)
        try:
            yield
        except (Exception, SystemExit) as end:
            if not isinstance(end, SystemExit) or not end.code:
                with self._transaction() as proofs:
                    self._remove_loader(proofs, key, pid)
            raise
        with self._transaction() as proofs:
            proof = self._remove_loader(proofs, key, pid)
            if proof.status in ("unknown", "proven"):
                proof.status, proof.deaths = "proven", 0

    def forget_process(self) -> None:
        """Remove this process from every proof: it was told to end while it loaded, so its end is no death."""
        with self._transaction() as proofs:
            for key in proofs:
                self._remove_loader(proofs, key, os.getpid())

    def _remove_loader(self, proofs: dict[str, Proof], key: str, pid: int) -> Proof:
        proof = proofs.setdefault(key, Proof())
        proof.loading = [other for other in proof.loading if other != pid]
        self._unlock(_PROCESS_LOCKS + pid)
        return proof

    def _is_loading(self, pid: int) -> bool:
        """Return whether a process that recorded a load still exists."""
        if pid == os.getpid():
            return True
        if not self._lock(_PROCESS_LOCKS + pid):
            return True
        self._unlock(_PROCESS_LOCKS + pid)
        return False

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[dict[str, Proof]]:
        """Lock the table and yield it for changes. A writer that was killed midway leaves an empty table."""
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, _TABLE_LOCK)
        try:
            before = os.pread(self._file, os.fstat(self._file).st_size, 0)
            try:
                proofs = {key: Proof(**facts) for key, facts in orjson.loads(before or b"{}").items()}
            except orjson.JSONDecodeError:
                proofs = {}
            yield proofs
            after = orjson.dumps({key: asdict(proofs[key]) for key in list(proofs)[-MAX_PROOFS:]})
            if after != before:
                os.ftruncate(self._file, 0)
                os.pwrite(self._file, after, 0)
        finally:
            self._unlock(_TABLE_LOCK)

    def _lock(self, offset: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
        except OSError:
            return False
        return True

    def _unlock(self, offset: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, offset)


PROOFS = ProofTable()
