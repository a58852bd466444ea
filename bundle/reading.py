"""Verified reads of a bundle's files. Every reader uses these functions, through `Bundle` in `repository.py`.

Hashes detect damage, not malice: whoever can write a bundle can seal a manifest over any content. With trusted keys a
signature over the hashes is verified first (`signing.py`). In any case these checks limit what a hostile bundle can do
to its reader, before anything is parsed:

- The manifest lists the known files and no others.
- Each file is a regular file in the version's directory, not a device or a FIFO, which would block for ever, and not a
  symbolic link, which could point anywhere. Directories may be links, as in volumes and image mounts. (The files of a
  ConfigMap are links and fail: it holds 1 MiB at most, which the `model.onnx` of the default network exceeds.)
- No file is larger than its limit, and the bytes that are hashed are the bytes that are returned.
- An ONNX file has no external data and only ONNX's own operators; golden examples are plain arrays of known shapes.

Error messages name the file but reveal nothing of its content, not even a hash, because clients can read them.

Whether a version loads and reproduces its golden examples is for its reader to prove. A graph that computes for hours,
crashes its process or takes all memory passes these checks, so the reader tries it in a child process first.
"""

import os
from pathlib import Path

from bundle import graph, signing
from bundle.errors import InvalidBundleError
from bundle.golden import GoldenExamples
from bundle.manifest import (
    GOLDEN_FILE,
    INTEGER_ONNX_FILE,
    MANIFEST_FILE,
    MAX_BYTES,
    ONNX_FILE,
    SIGNATURE_FILE,
    Manifest,
)
from common.atomic_files import read_regular, sha256_bytes, sha256_regular


def read_manifest(directory: Path, trusted: Path | None = None) -> Manifest:
    """Return the verified manifest of a version's directory.

    Args:
        directory: of the version.
        trusted: public keys, by one of which the version must be signed; None accepts any version.

    Raises:
        InvalidBundleError: it is missing, unreadable, too large, changed or too new, or lists unknown files; or no
            trusted key signed it.
        TrustedKeysError: the keys cannot be used.
    """
    signature = None if trusted is None else read_signature(directory)
    return parse_manifest(_read(directory, MANIFEST_FILE), signature, trusted)


def read_signature(directory: Path) -> bytes | None:
    """Return the content of `model.sig`, which is not verified yet; None if there is none.

    Raises:
        InvalidBundleError: it cannot be read, or is too large.
    """
    if not os.path.lexists(directory / SIGNATURE_FILE):
        return None
    return _read(directory, SIGNATURE_FILE)


def parse_manifest(data: bytes, signature: bytes | None, trusted: Path | None) -> Manifest:
    """Return the manifest whose bytes are `data`. With trusted keys, nothing is parsed that they did not sign.

    The manifest has the hashes that are signed, and every file is verified by the manifest's when it is read. So what
    is loaded later is what was signed, whoever exchanges files in between.

    Raises:
        InvalidBundleError, TrustedKeysError: as `read_manifest`.
    """
    if trusted is None:
        return Manifest.from_bytes(data)
    files = signing.signed_files(signature, trusted)
    if files.get(MANIFEST_FILE) != sha256_bytes(data):
        raise InvalidBundleError(
            f"{MANIFEST_FILE} was changed after it was signed: restore the file, or publish and sign again"
        )
    manifest = Manifest.from_bytes(data)
    signing.check_signed(files, manifest, data)
    return manifest


def read(directory: Path, manifest: Manifest, name: str) -> bytes:
    """Return the content of the file `name`, verified by its SHA-256 and safe to parse.

    Raises:
        InvalidBundleError: the file is missing, unreadable, not a regular file, too large, changed, or not in the
            manifest; or it is a graph or golden examples that are unsafe to parse.
    """
    published = _published(manifest, name)
    data = _read(directory, name)
    if sha256_bytes(data) != published:
        raise _changed(name)
    if name in (ONNX_FILE, INTEGER_ONNX_FILE) and (reason := graph.unsafe_reason(data)):
        raise InvalidBundleError(f"{name} is unsafe to load: {reason}")
    if name == GOLDEN_FILE:
        GoldenExamples.from_bytes(data, manifest)
    return data


def check(directory: Path, manifest: Manifest, name: str) -> None:
    """Verify what `read` would, without holding files in memory that nobody parses.

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
    """Return the SHA-256 of a file in the manifest."""
    if name not in manifest.files:
        raise InvalidBundleError(f"{name} is not in the manifest, so it does not belong to the bundle")
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
        f"{name} was changed after it was published: its SHA-256 differs from the manifest's; "
        "restore the file, or publish again"
    )
