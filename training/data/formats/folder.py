"""`folder:DIR`: a folder with a subfolder of 28x28 images for each class, or with `train/` and `test/` that have them.

The subfolders' names, sorted, are the class names. Without `test/` a share of each class is held out, by the files'
relative paths and a seed (`splits.py`). Hidden files (with a leading dot, Thumbs.db, desktop.ini) and files beside the
class folders are skipped with a log line; anything else that is not a 28x28 image is an error.

Every file is read and hashed once. Training images are decoded at the same time; of test images only the header is
checked until `DataSet.test()`. Several threads read ahead while one decodes: decoding takes 50 us an image, mostly
holding the GIL, so several decoding threads were up to twice as slow as one (20,000 PNG files of MNIST, two cores). On
a disk with a latency of 0.5 ms, eight readers are five times as fast as one. There is no cache, which would save 4 s
for all of MNIST.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from bundle.images.decoding import check_header, decode
from bundle.images.errors import ImageError
from bundle.images.hardening import MAX_FILE_BYTES
from bundle.manifest import IMAGE_SIZE
from common.progress import Progress
from training.data.class_names import LEAST_TO_TRAIN, check_counts, checked_names, say_untested
from training.data.dataset import DataSet, Images
from training.data.formats.problems import Problems
from training.data.splits import hold_out, say_held_out
from training.errors import DataError

SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})
READERS = 8
CHUNK = 100
"""Files in a chunk, the unit of a reader's work."""
AHEAD = 16
"""Most chunks that have been read but not decoded."""
REMEDY = "correct or remove them"

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """The files of a part (training or test), sorted by path, with their labels."""

    paths: tuple[str, ...]
    """Relative to the data set's folder."""
    labels: npt.NDArray[np.int64]

    def take(self, mask: npt.NDArray[np.bool_]) -> "Listing":
        """Return the files where `mask` is true."""
        paths = tuple(path for path, chosen in zip(self.paths, mask, strict=True) if chosen)
        return Listing(paths=paths, labels=self.labels[mask])


def load_folder(root: Path, *, seed: int, test_share: float, progress: Progress) -> DataSet:
    r"""Read a folder of images.

    The data set's SHA-256, `{"folder": ...}`, is the output of this command if no file is skipped:

        cd DIR && find -L . -mindepth 2 -type f -printf '%P\0' |
            LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum

    Raises:
        DataError: there are fewer than two classes, a class is empty or too small, a class is in the test set only, or
            files are not 28x28 images: the message names up to 20 and counts all.
    """
    problems = Problems(str(root))
    train_root, test_root = _parts(root, problems)
    names, training = _list_part(root, train_root, problems, progress)
    classes = checked_names(names, str(train_root))
    if test_root is None:
        problems.raise_if_any(REMEDY)
        held_out = hold_out(
            training.paths, training.labels, classes, share=test_share, seed=seed, where=str(root)
        )
        training, test = training.take(~held_out), training.take(held_out)
        say_held_out(str(root), held_out, seed, progress)
    else:
        test = _list_test(root, test_root, classes, problems, progress)
        problems.raise_if_any(REMEDY)
        check_counts(training.labels, classes, LEAST_TO_TRAIN, str(train_root))
        say_untested(str(test_root), test.labels, classes, progress)

    images, digests = _read(root, training, decode, problems, progress, "reading images")
    _, test_digests = _read(root, test, check_header, problems, progress, "checking test images")
    problems.raise_if_any(REMEDY)

    def read_test() -> Images:
        found = Problems(str(root))
        read, now = _read(root, test, decode, found, progress, "reading test images")
        found.raise_if_any(REMEDY)
        for path, before, after in zip(test.paths, test_digests, now, strict=True):
            if before != after:
                raise DataError(f"{root / path} was changed during training: train again")
        return Images(images=read, labels=test.labels)

    return DataSet(
        name=root.resolve().name or "folder",
        classes=classes,
        sha256={"folder": listing_sha256([*training.paths, *test.paths], [*digests, *test_digests])},
        training=Images(images=images, labels=training.labels),
        read_test=read_test,
    )


def listing_sha256(paths: Sequence[str], digests: Sequence[bytes]) -> str:
    """Return the SHA-256 of the output of `sha256sum` for the files, sorted by the bytes of their paths."""
    lines = []
    for path, digest in sorted(
        (os.fsencode(path), digest) for path, digest in zip(paths, digests, strict=True)
    ):
        escaped = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
        mark = b"\\" if escaped != path else b""
        lines.append(mark + digest.hex().encode() + b"  " + escaped + b"\n")
    return hashlib.sha256(b"".join(lines)).hexdigest()


def _parts(root: Path, problems: Problems) -> tuple[Path, Path | None]:
    """Return the folder of the training classes, and that of the test classes if there is one.

    `train` and `test` are parts, not classes, if they contain folders.
    """
    folders = [entry.name for entry in _entries(root) if _is_folder(entry)]
    if not folders:
        raise DataError(f"{root} has no subfolders: create one for each class, with its images")
    parts = [name for name in ("train", "test") if name in folders and _has_folders(root / name)]
    if not parts:
        return root, None
    if "train" not in parts:
        raise DataError(f"{root} has test/ but no train/ with a subfolder for each class")
    for name in folders:
        if name not in ("train", "test"):
            problems.add(name, "folder beside train/ and test/")
    return root / "train", root / "test" if "test" in folders else None


def _list_part(root: Path, part: Path, problems: Problems, progress: Progress) -> tuple[list[str], Listing]:
    """Return the class names and the files of a part."""
    entries = [entry for entry in _entries(part) if not _hidden(entry.name)]
    names = [entry.name for entry in entries if _is_folder(entry)]
    beside = [entry for entry in entries if not _is_folder(entry)]
    for entry in beside:
        if entry.is_symlink() and (trouble := _trouble(entry)):  # it may have been a class
            problems.add(str((part / entry.name).relative_to(root)), trouble)
    if beside:
        progress.say(f"skipped {len(beside)} file(s) beside the class folders of {part}")
    paths: list[str] = []
    labels: list[int] = []
    hidden = 0
    for label, name in enumerate(names):
        count = len(paths)
        for entry in _entries(part / name):
            path = str((part / name / entry.name).relative_to(root))
            if _hidden(entry.name):
                hidden += 1
            elif trouble := _trouble(entry):
                problems.add(path, trouble)
            else:
                paths.append(path)
        labels += [label] * (len(paths) - count)
        if len(paths) == count:
            problems.add(str((part / name).relative_to(root)), "empty class")
    if hidden:
        progress.say(f"skipped {hidden} hidden file(s) in {part}")
    return names, Listing(paths=tuple(paths), labels=np.array(labels, dtype=np.int64))


def _list_test(
    root: Path, part: Path, classes: Sequence[str], problems: Problems, progress: Progress
) -> Listing:
    """Return the files of `test/`, with the labels of the training classes."""
    names, listing = _list_part(root, part, problems, progress)
    if not names:
        raise DataError(
            f"{part} has no class folders: add them, or remove {part.name}/ to have a test set held out"
        )
    index = {name: label for label, name in enumerate(classes)}
    for name in names:
        if name not in index:
            problems.add(str((part / name).relative_to(root)), "class that is not in train/")
    known = np.array([index.get(name, -1) for name in names])
    return Listing(paths=listing.paths, labels=known[listing.labels])


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}") from None


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir() and not _hidden(entry.name)
    except OSError:  # a link to itself
        return False


def _has_folders(folder: Path) -> bool:
    return any(_is_folder(entry) for entry in _entries(folder))


def _trouble(entry: os.DirEntry[str]) -> str | None:
    """Return why a directory entry cannot be read as a file, or None; reading a FIFO would block for ever."""
    try:
        if entry.is_dir():
            return "folder inside a class"
        if not entry.is_file():
            return "broken link" if entry.is_symlink() else "not a regular file"
        return "larger than 1 MiB" if entry.stat().st_size > MAX_FILE_BYTES else None
    except OSError:
        return "link to itself" if entry.is_symlink() else "cannot be read"


def _read(
    root: Path,
    listing: Listing,
    look: Callable[[bytes], npt.NDArray[np.uint8] | None],
    problems: Problems,
    progress: Progress,
    task: str,
) -> tuple[npt.NDArray[np.uint8], list[bytes]]:
    """Read every file; return `uint8[n, 28, 28]` (zeros where `look` returns no pixels) and the SHA-256s."""

    def read(paths: Sequence[str]) -> list[bytes | OSError]:
        return [_content(root / path) for path in paths]

    images = np.zeros((len(listing.paths), IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    digests: list[bytes] = []
    chunks = [listing.paths[start : start + CHUNK] for start in range(0, len(listing.paths), CHUNK)]
    with (
        progress.task(task, len(listing.paths), unit="images") as shown,
        ThreadPoolExecutor(READERS) as pool,
    ):
        for contents in _ahead(pool, read, chunks):
            for content in contents:
                path, digest = listing.paths[len(digests)], b""
                if isinstance(content, OSError):
                    problems.add(path, "cannot be read", content.strerror or str(content))
                else:
                    digest = hashlib.sha256(content).digest()
                    try:
                        if (pixels := look(content)) is not None:
                            images[len(digests)] = pixels
                    except ImageError as error:
                        problems.add(path, error.kind, error.found)
                digests.append(digest)
            shown.advance(len(contents))
    return images, digests


def _content(path: Path) -> bytes | OSError:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        return error


def _ahead(pool: Executor, function: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
    """Map in order, with at most `AHEAD` results in memory."""
    waiting: deque[Future[_R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
