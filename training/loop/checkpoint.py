"""Checkpoints on disk: whole or not there, proven by a hash, read without pickle's powers.

A file is a magic word, the SHA-256 of what follows, and a `torch.save` of tensors, numbers, text,
lists and dictionaries. The last few are kept; a corrupt one is passed over for the one before it.
"""

import errno
import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from common.atomic_files import write_whole
from common.progress import Progress
from training.errors import CheckpointError, UnwritableError

MAGIC = b"GLYPHCK1"
HASH_BYTES = 32
PATTERN = f"checkpoint-{'[0-9]' * 12}.pt"
LEFTOVER_PATTERN = f".{PATTERN}.{'?' * 8}"
"""Exactly as `save` and `write_whole` name files: `checkpoint-best.pt` is somebody's, and stays."""

Snapshot = dict[str, Any]


def save(directory: Path, step: int, snapshot: Snapshot, keep: int) -> Path:
    """Write a checkpoint, durably, then remove all but the last `keep`.

    Raises:
        UnwritableError: the directory is read-only, the disk is full, or the like. The checkpoints
            that were there still are.
    """
    buffer = io.BytesIO()
    torch.save(snapshot, buffer)
    payload = buffer.getbuffer()
    path = directory / f"checkpoint-{step:012d}.pt"
    try:
        write_whole(path, MAGIC + hashlib.sha256(payload).digest() + payload)
        for old in sorted(directory.glob(PATTERN))[:-keep]:
            old.unlink()
    except OSError as error:
        why = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        raise UnwritableError(f"no checkpoint could be written in {directory}: {why}") from None
    return path


def load_latest(directory: Path, progress: Progress) -> Snapshot | None:
    """Return the newest checkpoint that is whole, or None if there is none at all.

    Raises:
        CheckpointError: there are checkpoints and not one of them is whole.
    """
    paths = sorted(directory.glob(PATTERN), reverse=True)
    for path in paths:
        try:
            return load(path)
        except CheckpointError as error:
            progress.say(f"passed over: {error}")
    if paths:
        raise CheckpointError(
            f"none of the {len(paths)} checkpoints in {directory} is whole: "
            "remove them, or start afresh with --no-resume"
        )
    return None


def load(path: Path) -> Snapshot:
    """Read one checkpoint.

    Raises:
        CheckpointError: it cannot be read, or was changed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    start = len(MAGIC) + HASH_BYTES
    payload = memoryview(data)[start:]
    if data[: len(MAGIC)] != MAGIC or hashlib.sha256(payload).digest() != data[len(MAGIC) : start]:
        raise CheckpointError(f"{path} is not a whole checkpoint: its SHA-256 does not fit its content")
    try:
        snapshot: Snapshot = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is not a checkpoint: {error}") from None
    return snapshot


def clear(directory: Path) -> None:
    """Remove every checkpoint, and what a killed writer left behind.

    Raises:
        UnwritableError: the directory is read-only.
    """
    try:
        for path in (*directory.glob(PATTERN), *directory.glob(LEFTOVER_PATTERN)):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UnwritableError(f"cannot remove checkpoints in {directory}: {error.strerror}") from None
