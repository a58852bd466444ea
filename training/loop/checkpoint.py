"""Checkpoint files: written atomically, verified by a hash, and loaded without executing pickles.

A file has a magic number, the SHA-256 of the rest, and a `torch.save` of tensors, numbers, strings, lists and
dictionaries. The last few are kept; a corrupt one is skipped in favour of the one before it.
"""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from common.atomic_files import write_whole
from common.progress import Progress
from training.errors import CheckpointError, writing

MAGIC = b"GLYPHCK1"
HASH_BYTES = 32
PATTERN = f"checkpoint-{'[0-9]' * 12}.pt"
LEFTOVER_PATTERN = f".{PATTERN}.{'?' * 8}"
"""The exact names that `save` and `write_whole` use, so that a user's `checkpoint-best.pt` is left alone."""
START_OVER = "remove them and start over with --restart (and without --resume)"
"""What to do about checkpoints from which no run can continue."""

Snapshot = dict[str, Any]


def save(directory: Path, step: int, snapshot: Snapshot, keep: int) -> Path:
    """Write a checkpoint durably, then remove all but the last `keep`.

    Raises:
        UnwritableError: the directory is read-only, the disk is full, or the like. Earlier checkpoints are kept.
    """
    buffer = io.BytesIO()
    torch.save(snapshot, buffer)
    payload = buffer.getbuffer()
    path = directory / f"checkpoint-{step:012d}.pt"
    with writing(path):
        write_whole(path, MAGIC + hashlib.sha256(payload).digest() + payload)
        for old in paths(directory)[:-keep]:
            old.unlink()
    return path


def paths(directory: Path) -> list[Path]:
    """Return the checkpoints in the directory, oldest first."""
    return sorted(directory.glob(PATTERN))


def load_latest(directory: Path, progress: Progress) -> Snapshot | None:
    """Return the newest valid checkpoint, or None if there are no checkpoints.

    Raises:
        CheckpointError: there are checkpoints, but all are corrupt.
    """
    found = paths(directory)
    for path in reversed(found):
        try:
            return load(path)
        except CheckpointError as error:
            progress.say(f"skipped a checkpoint: {error}")
    if found:
        raise CheckpointError(f"all {len(found)} checkpoints in {directory} are corrupt: {START_OVER}")
    return None


def load(path: Path) -> Snapshot:
    """Load a checkpoint.

    Raises:
        CheckpointError: it cannot be read, or is corrupt.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    start = len(MAGIC) + HASH_BYTES
    payload = memoryview(data)[start:]
    if data[: len(MAGIC)] != MAGIC or hashlib.sha256(payload).digest() != data[len(MAGIC) : start]:
        raise CheckpointError(f"{path} is corrupt: its SHA-256 does not match its content")
    try:
        snapshot: Snapshot = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is not a checkpoint: {error}") from None
    return snapshot


def clear(directory: Path) -> None:
    """Remove all checkpoints, and the temporary files of killed writers.

    Raises:
        UnwritableError: the directory is read-only.
    """
    with writing(directory):
        for path in (*directory.glob(PATTERN), *directory.glob(LEFTOVER_PATTERN)):
            path.unlink(missing_ok=True)
