"""Golden examples: images, and the probabilities that any correct loading of the model gives them."""

import io
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bundle.errors import InvalidBundleError
from bundle.manifest import GOLDEN_FILE, IMAGE_SIZE, Manifest

UNREADABLE = (
    ValueError,
    KeyError,
    OSError,
    EOFError,
    TypeError,  # a single array is no archive, and no context manager
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What `numpy.load` and `zipfile` raise for bytes that are no npz."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenExamples:
    """Inputs and the outputs they must give."""

    images: npt.NDArray[np.uint8]
    """`uint8[n, 28, 28]`."""
    probabilities: npt.NDArray[np.float32]
    """`float32[n, classes]`, from the trained module itself."""

    def to_bytes(self) -> bytes:
        """Return the examples as an uncompressed npz."""
        buffer = io.BytesIO()
        np.savez(buffer, images=self.images, probabilities=self.probabilities)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, manifest: Manifest) -> "GoldenExamples":
        """Read an npz, without pickle, and check it against the manifest.

        Raises:
            InvalidBundleError: it is no npz, or its arrays are not what the manifest says.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                images: npt.NDArray[Any] = archive["images"]
                probabilities: npt.NDArray[Any] = archive["probabilities"]
        except UNREADABLE as error:
            raise InvalidBundleError(f"{GOLDEN_FILE} cannot be read: {error}") from None
        count, classes = manifest.golden.images, len(manifest.classes)
        for name, array, shape, dtype in (
            ("images", images, (count, IMAGE_SIZE, IMAGE_SIZE), np.uint8),
            ("probabilities", probabilities, (count, classes), np.float32),
        ):
            if array.shape != shape or array.dtype != dtype:
                raise InvalidBundleError(
                    f"{GOLDEN_FILE}: {name} is {array.dtype}{list(array.shape)}, "
                    f"the manifest asks for {np.dtype(dtype)}{list(shape)}"
                )
        if not np.isfinite(probabilities).all() or np.abs(probabilities.sum(1) - 1).max() > 1e-4:
            raise InvalidBundleError(f"{GOLDEN_FILE}: the probabilities do not sum to 1")
        return cls(images=images, probabilities=probabilities)

    def mismatch(self, answered: npt.NDArray[np.float32], tolerance: float) -> str | None:
        """Compare what a server answered; return what is wrong, or None if nothing is.

        Args:
            answered: `float32[n, classes]`, the probabilities a server gave `images`.
            tolerance: largest allowed absolute difference.
        """
        if answered.shape != self.probabilities.shape:
            return f"the model answers {list(answered.shape)}, not {list(self.probabilities.shape)}"
        worst = float(np.abs(answered - self.probabilities).max())
        if not worst <= tolerance:  # NaN compares false, and must not pass
            return f"a golden probability is off by {worst:.3g}; {tolerance:.3g} is allowed"
        return None
