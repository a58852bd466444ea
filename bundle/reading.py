"""The one way in which a bundle's files are read, by whoever reads one; `Bundle` in `repository.py` is its face.

Hashes find damage, not malice: who can write a bundle can seal a manifest over anything. So what a prepared bundle
can make its reader do is bounded here, before anything is parsed:

- Its manifest names the known files, and no others.
- Each is a regular file of the version's own directory: no device and no FIFO, which would never end, and no symbolic
  link, which is how a file points elsewhere. Directories may be links, as volumes and image mounts have them. (A
  ConfigMap's files are links, and are refused: it holds 1 MiB, which the default network's `model.onnx` exceeds.)
- None is larger than its limit, and what is hashed is what is returned.
- An ONNX file names no other file, and no operators but ONNX's own; golden examples are plain arrays of known shapes.

A refusal names the file and never tells what was found in it, not even a hash: clients can read refusals.

That a version is loaded and answers its golden examples, its reader proves: a graph that computes for hours, crashes
its process or takes all memory is not refused here, so its reader has a child process try it first.
"""

from pathlib import Path

from bundle import graph
from bundle.errors import InvalidBundleError
from bundle.golden import GoldenExamples
from bundle.manifest import GOLDEN_FILE, INTEGER_ONNX_FILE, MANIFEST_FILE, MAX_BYTES, ONNX_FILE, Manifest
from common.atomic_files import read_regular, sha256_bytes, sha256_regular


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest of a version's directory, proven unchanged.

    Raises:
        InvalidBundleError: it is missing, unreadable, too large, changed or too new, or lists other files than
            a bundle has.
    """
    return Manifest.from_bytes(_read(directory, MANIFEST_FILE))


def read(directory: Path, manifest: Manifest, name: str) -> bytes:
    """Return the content of the file `name`, proven to be what was published, and safe to parse.

    Raises:
        InvalidBundleError: the file is missing, unreadable, no regular file, too large, changed, or not in the
            manifest; or it is a graph or golden examples that no reader must parse.
    """
    published = _published(manifest, name)
    data = _read(directory, name)
    if sha256_bytes(data) != published:
        raise _changed(name)
    if name in (ONNX_FILE, INTEGER_ONNX_FILE) and (unsafe_reason := graph.unsafe_reason(data)):
        raise InvalidBundleError(f"{name} is refused: {unsafe_reason}")
    if name == GOLDEN_FILE:
        GoldenExamples.from_bytes(data, manifest)
    return data


def check(directory: Path, manifest: Manifest, name: str) -> None:
    """Prove what `read` would, without holding the files that nobody parses.

    Raises:
        InvalidBundleError: as `read`.
    """
    if name in (ONNX_FILE, INTEGER_ONNX_FILE, GOLDEN_FILE):
        read(directory, manifest, name)
        return
    published = _published(manifest, name)
    try:
        found = sha256_regular(directory / name, MAX_BYTES[name])
    except OSError as error:
        raise _unreadable(name, error) from None
    if found != published:
        raise _changed(name)


def _published(manifest: Manifest, name: str) -> str:
    """Return the SHA-256 that a file was published with."""
    if name not in manifest.files:
        raise InvalidBundleError(f"{name} is not in the manifest: it does not belong to the bundle")
    return manifest.files[name]


def _read(directory: Path, name: str) -> bytes:
    try:
        return read_regular(directory / name, MAX_BYTES[name])
    except OSError as error:
        raise _unreadable(name, error) from None


def _unreadable(name: str, error: OSError) -> InvalidBundleError:
    return InvalidBundleError(f"{name} cannot be read: {error.strerror}")


def _changed(name: str) -> InvalidBundleError:
    return InvalidBundleError(
        f"{name} was changed after it was published: its SHA-256 is not the manifest's; "
        "restore the file or publish again"
    )
