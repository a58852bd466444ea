"""What the stages hand to each other: rows as they were read, rows as they were decoded, answers, receipts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bundle.images.contract import Polarity
from serving.scoring.lazy_strings import LazyStrings

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRows:
    """Some rows of one source, read and not decoded."""

    source: str
    rows: LazyStrings
    """The rows' ids, unique in the source: a file's path, a member's name, or a number from 0."""
    files: Sequence[bytes | str] | None = None
    """Image files, whole; a string is why one cannot be had. None where the rows came as `pixels`."""
    pixels: Images | None = None
    """`uint8[n, 28, 28]`."""
    errors: Mapping[int, str] = field(default_factory=dict)
    """Rows of `pixels`, counted from 0 here, that are no image, and why."""
    columns: Any = None
    """A `pyarrow.Table` of n rows, passed through; None if there are no other columns."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """Images, and what is to be said of some of them, by their places."""

    images: Images
    """`uint8[n, 28, 28]`; zeros where there is an error."""
    errors: Mapping[int, str]
    warnings: Mapping[int, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Some rows of the input, decoded. The row `i` of each member is the same image."""

    first: int
    """The number of the first row in the whole input, from 0."""
    sources: LazyStrings | Sequence[str]
    rows: LazyStrings | Sequence[str]
    images: Images
    """`uint8[n, 28, 28]`; zeros where there is an error."""
    errors: Mapping[int, str]
    """Place in this chunk to the sentence that says why there is no answer."""
    warnings: Mapping[int, str]
    """Place in this chunk to what `/predict` would warn of, concatenate by `; `."""
    columns: Sequence[Any] = ()
    """`(count, pyarrow.Table or None)`: the columns passed through, for stretches of rows, in their order."""

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """What the model says of a chunk's n images. Rows with an error hold what nobody should read."""

    probabilities: npt.NDArray[np.float32]
    """`float32[n, classes]`, in the manifest's order of classes; rows sum to 1."""
    indices: npt.NDArray[np.int64]
    """`int64[n]`: the most probable class of each."""
    labels: Sequence[str]
    """Its name."""
    confidences: npt.NDArray[np.float32]
    """`float32[n]`: its probability."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What is known of a part that is written; it lies beside the part, whichever life of the run wrote it."""

    part: int
    rows: int
    errors: int
    sha256: str
    bytes: int
    tally: dict[str, Any]
    """What the observer's `tally` made of the part."""


class Backend(Protocol):
    """A model that can be asked. `score` is called by `concurrency` threads at once."""

    @property
    def digest(self) -> str:
        """Return the digest of the bundle that answers."""
        ...

    @property
    def classes(self) -> Sequence[str]:
        """Return the names of the classes, in the order of the probabilities."""
        ...

    @property
    def polarity(self) -> Polarity:
        """Return what the model expects, for the warnings."""
        ...

    @property
    def identity(self) -> Mapping[str, str]:
        """Return what else decides the bits of the answers, by name: it goes into the fingerprint."""
        ...

    @property
    def batch(self) -> int:
        """Return how many images one call of `score` takes; the last one of a part has fewer."""
        ...

    @property
    def concurrency(self) -> int:
        """Return how many calls at once keep it busy."""
        ...

    def score(self, images: Images) -> npt.NDArray[np.float32]:
        """Return `float32[n, classes]` for `uint8[n, 28, 28]`, n from 1 to `batch`.

        Raises:
            BackendError: it cannot be had, now or at all.
            BackendLostError: it was lost on the way; another try may have it.
        """
        ...

    def close(self) -> None:
        """Give back what it holds; a call of `score` that still waits ends with a BackendError."""
        ...


def predictions_of(probabilities: npt.NDArray[np.float32], classes: Sequence[str]) -> Predictions:
    """Return the answers that `float32[n, classes]` mean; the first of equals wins, as in `/predict`."""
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
        errors={
            start + at: text
            for start, chunk in zip(starts, chunks, strict=True)
            for at, text in chunk.errors.items()
        },
        warnings={
            start + at: text
            for start, chunk in zip(starts, chunks, strict=True)
            for at, text in chunk.warnings.items()
        },
        columns=[stretch for chunk in chunks for stretch in chunk.columns],
    )
