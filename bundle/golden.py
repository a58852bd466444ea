"""Golden examples: images with the probabilities that every correctly loaded copy of the model must reproduce."""

import io
import math
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bundle.errors import InvalidBundleError
from bundle.manifest import GOLDEN_FILE, IMAGE_SIZE, Manifest
from common.errors import one_line

UNREADABLE = (
    ValueError,
    OSError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
)
"""The exceptions of `zipfile` for bytes that are not an archive, or not one that it supports."""
MAX_DIRECTORY_BYTES = 1024
"""Largest central directory; it has two entries, and `zipfile` makes an object of each before they can be counted."""

_END = struct.Struct("<4s4H2LH")  # APPNOTE.TXT of PKWARE, section 4.3.16: the end of the central directory
_ZIP64_LOCATOR = 20  # section 4.3.15: it would stand before the end record and override it
_NPY_HEAD = b"\x93NUMPY\x01\x00"  # numpy.lib.format: magic, version 1.0; the header's length has two bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenExamples:
    """Inputs and expected outputs."""

    images: npt.NDArray[np.uint8]
    """`uint8[n, 28, 28]`."""
    probabilities: npt.NDArray[np.float32]
    """`float32[n, classes]`, computed by the trained module."""

    def to_bytes(self) -> bytes:
        """Return the examples as an uncompressed npz."""
        buffer = io.BytesIO()
        np.savez(buffer, images=self.images, probabilities=self.probabilities)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, manifest: Manifest) -> "GoldenExamples":
        """Parse what `to_bytes` wrote, with the shapes in the manifest; nothing else is unpacked or parsed.

        Raises:
            InvalidBundleError: it is not an uncompressed npz, or its arrays do not have the manifest's shapes.
        """
        count, classes = manifest.golden.images, len(manifest.classes)
        try:
            arrays = _members(data)
            images: npt.NDArray[np.uint8] = _array(
                arrays, "images", (count, IMAGE_SIZE, IMAGE_SIZE), np.dtype(np.uint8)
            )
            probabilities: npt.NDArray[np.float32] = _array(
                arrays, "probabilities", (count, classes), np.dtype(np.float32)
            )
        except UNREADABLE as error:
            raise InvalidBundleError(f"{GOLDEN_FILE} cannot be read: {one_line(error)}") from None
        if not np.isfinite(probabilities).all() or np.abs(probabilities.sum(1) - 1).max() > 1e-4:
            raise InvalidBundleError(f"{GOLDEN_FILE}: the probabilities of an image do not sum to 1")
        return cls(images=images, probabilities=probabilities)

    def mismatch(self, actual: npt.NDArray[np.float32], tolerance: float) -> str | None:
        """Compare a model's outputs with the expected ones; return the difference in words, or None.

        Args:
            actual: `float32[n, classes]`, the probabilities that the model gave `images`.
            tolerance: largest allowed absolute difference.
        """
        if actual.shape != self.probabilities.shape:
            return f"the model returns {list(actual.shape)}, not {list(self.probabilities.shape)}"
        worst = float(np.abs(actual - self.probabilities).max())
        if not worst <= tolerance:  # NaN compares false, and must not pass
            return f"a golden probability is off by {worst:.3g}; {tolerance:.3g} is allowed"
        return None


def _members(data: bytes) -> dict[str, bytes]:
    """Return the two uncompressed members of a ZIP archive, by name."""
    signature, _, _, _, entries, size, _, comment = _END.unpack(data[-_END.size :])
    plain = signature == b"PK\x05\x06" and not comment
    zip64 = data[-_END.size - _ZIP64_LOCATOR :].startswith(b"PK\x06\x07")
    if not plain or zip64 or entries != 2 or size > MAX_DIRECTORY_BYTES:
        raise ValueError("it is not an archive of two arrays")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("its arrays are compressed")
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def _array(
    arrays: Mapping[str, bytes], name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """Return an array whose header states exactly this shape and dtype.

    The header is a Python expression; it is compared as text, never evaluated.
    """
    content = arrays.get(f"{name}.npy", b"")
    start = len(_NPY_HEAD) + 2
    end = start + int.from_bytes(content[len(_NPY_HEAD) : start], "little")
    header = content[start:end].decode("latin-1").rstrip()
    expected = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': {shape}, }}"
    if not content.startswith(_NPY_HEAD) or header != expected:
        raise ValueError(f"{name} has the header {one_line(header, 100)!r}; the manifest requires {expected}")
    if len(content) - end != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has {len(content) - end:,} bytes, which does not match its header")
    return np.frombuffer(content, dtype, offset=end).reshape(shape)
