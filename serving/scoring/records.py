"""What the stages pass to each other: decoded images, predictions, receipts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bundle.images.contract import Polarity, Resize
from imagesets.lazy_strings import LazyStrings

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Decoded:
    """Images, with errors and warnings by index."""

    images: Images
    """`uint8[n, 28, 28]`; zeros where there is an error."""
    errors: Mapping[int, str]
    warnings: Mapping[int, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Consecutive rows of the input, decoded. Row `i` of each field belongs to the same image."""

    first: int
    """Number of the first row in the whole input, from 0."""
    sources: LazyStrings | Sequence[str]
    rows: LazyStrings | Sequence[str]
    images: Images
    """`uint8[n, 28, 28]`; zeros where there is an error."""
    errors: Mapping[int, str]
    """Index in this chunk to the reason why there is no prediction."""
    warnings: Mapping[int, str]
    """Index in this chunk to the warnings that `/predict` would give, joined by `; `."""
    columns: Sequence[Any] = ()
    """`(count, pyarrow.Table or None)` for consecutive runs of rows: the columns that are passed through."""

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """The model's predictions for a chunk's n images. Values of rows with an error are meaningless."""

    probabilities: npt.NDArray[np.float32]
    """`float32[n, classes]`, classes in the manifest's order; rows sum to 1."""
    indices: npt.NDArray[np.int64]
    """`int64[n]`: the most probable class of each."""
    labels: Sequence[str]
    """Its name."""
    confidences: npt.NDArray[np.float32]
    """`float32[n]`: its probability."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """Size, hash and statistics of a written part; stored beside it, so that a resumed run has them too."""

    part: int
    rows: int
    errors: int
    sha256: str
    bytes: int
    tally: dict[str, Any]
    """The part's statistics, as `Observer.tally` returned them."""


class Backend(Protocol):
    """Computes probabilities. `score` is called by `concurrency` threads at once."""

    @property
    def digest(self) -> str:
        """Return the digest of the bundle that is served."""
        ...

    @property
    def classes(self) -> Sequence[str]:
        """Return the names of the classes, in the order of the probabilities."""
        ...

    @property
    def polarity(self) -> Polarity:
        """Return the polarity that the model expects, for the warnings."""
        ...

    @property
    def resize(self) -> Resize | None:
        """Return how the model's training images were resized, and image files may be; None if not at all."""
        ...

    @property
    def identity(self) -> Mapping[str, str]:
        """Return whatever else affects the bits of the results, by name; part of the fingerprint."""
        ...

    @property
    def batch(self) -> int:
        """Return how many images one call of `score` takes; the last call of a part may have fewer."""
        ...

    @property
    def concurrency(self) -> int:
        """Return how many concurrent calls keep it busy."""
        ...

    def score(self, images: Images) -> npt.NDArray[np.float32]:
        """Return `float32[n, classes]` for `uint8[n, 28, 28]`, n from 1 to `batch`.

        Raises:
            BackendError: the backend is not available.
            BackendLostError: the backend failed while computing; another run may succeed.
        """
        ...

    def close(self) -> None:
        """Release resources; a call of `score` that still waits raises BackendError."""
        ...


def predictions_of(probabilities: npt.NDArray[np.float32], classes: Sequence[str]) -> Predictions:
    """Return predictions from `float32[n, classes]`; of equal probabilities the first wins, as in `/predict`."""
    indices = probabilities.argmax(axis=1)
    return Predictions(
        probabilities=probabilities,
        indices=indices,
        labels=[classes[index] for index in indices.tolist()],
        confidences=probabilities[np.arange(len(indices)), indices],
    )


def concatenate(chunks: Sequence[Chunk]) -> Chunk:
    """Return consecutive chunks as one."""
    if len(chunks) == 1:
        return chunks[0]
    starts = [chunk.first - chunks[0].first for chunk in chunks]
    return Chunk(
        first=chunks[0].first,
        sources=LazyStrings.concatenate([chunk.sources for chunk in chunks]),
        rows=LazyStrings.concatenate([chunk.rows for chunk in chunks]),
        images=np.concatenate([chunk.images for chunk in chunks]),
        errors=_shifted(starts, [chunk.errors for chunk in chunks]),
        warnings=_shifted(starts, [chunk.warnings for chunk in chunks]),
        columns=[stretch for chunk in chunks for stretch in chunk.columns],
    )


def _shifted(starts: Sequence[int], by_row: Sequence[Mapping[int, str]]) -> dict[int, str]:
    return {
        start + at: text for start, texts in zip(starts, by_row, strict=True) for at, text in texts.items()
    }
