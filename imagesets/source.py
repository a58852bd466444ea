"""What the readers give: sources of images, with labels and the part of the set where the container has them.

A source is read in slices of rows, in any order, so that ten million images need no memory; training reads all of it.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from bundle.images.contract import Resize
from imagesets.errors import DataError
from imagesets.labels import LabelColumn
from imagesets.lazy_strings import LazyStrings

Images = npt.NDArray[np.uint8]

Part = Literal["training", "validation", "test"]
PARTS: tuple[Part, ...] = ("training", "validation", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRows:
    """Rows of one source, read but not decoded."""

    source: str
    rows: LazyStrings
    """The rows' ids, unique within the source: a file's path, an archive member's name, or a number from 0."""
    files: Sequence[bytes | str] | None = None
    """Contents of image files; a string is the reason why one cannot be read. None if the rows are `pixels`."""
    pixels: Images | None = None
    """`uint8[n, 28, 28]`."""
    errors: Mapping[int, str] = field(default_factory=dict)
    """Index in `pixels` to the reason why that row is not an image."""
    columns: Any = None
    """A `pyarrow.Table` of n rows that is passed through; None if there are no other columns."""


class Reader(Protocol):
    """Rows that have not been read; picklable, so that another process can read them."""

    @property
    def source(self) -> str:
        """Return the rows' source."""
        ...

    @property
    def rows(self) -> LazyStrings:
        """Return the rows' ids."""
        ...

    def read(self) -> list[bytes | str]:
        """Return the files' contents; a string is the reason why one cannot be read."""
        ...


class Source(Protocol):
    """Rows of one container. `take` is called by one thread, mostly in order."""

    @property
    def name(self) -> str:
        """Return the rows' source."""
        ...

    @property
    def count(self) -> int:
        """Return the number of rows."""
        ...

    part: Part | None
    """The part of the set that the rows are, None if the container does not say."""
    transposed: bool
    """Whether the images are stored column by column; the rows that are taken are upright."""
    read_labels: Callable[[], LabelColumn | None] | None
    """Reads the labels; None if there are none. It may be replaced; `labels_of` calls it."""
    label_files: tuple[Path, ...]
    """The files of the labels, where they are not the images'."""

    @property
    def columns(self) -> Any:
        """Return the `pyarrow.Schema` of the passed-through columns, None if there are none."""
        ...

    @property
    def needs_decoding(self) -> bool:
        """Return whether the rows are image files, which must be decoded."""
        ...

    def labels(self) -> LabelColumn | None:
        """Return the label of each row, None if there are none.

        Raises:
            DataError: the labels cannot be read, or are not one for each row.
        """
        ...

    def fingerprint(self) -> str:
        """Return a string that changes when the rows do; cheap: sizes and times."""
        ...

    def sha256(self) -> Mapping[str, str]:
        """Return the SHA-256 of each file that the rows are read from, by its name.

        Raises:
            DataError: a file cannot be read.
        """
        ...

    def take(self, first: int, count: int) -> RawRows | Reader:
        """Return rows: read, or a Reader for the decoding process.

        Raises:
            DataError: the container is damaged.
        """
        ...

    def close(self) -> None:
        """Close open files; `take` may be called again."""
        ...


class LabelledSource:
    """The base of the sources: what the container says of its images, set by its reader and by what is known of it."""

    part: Part | None = None
    transposed: bool = False
    """Whether the images are stored column by column, as EMNIST's are; the rows that are taken are upright."""
    read_labels: Callable[[], LabelColumn | None] | None = None
    """Reads the labels that were found; None if there are none."""
    label_files: tuple[Path, ...] = ()
    """The files of the labels, where they are not the images'."""
    columns: Any = None
    needs_decoding: bool = False

    def labels(self) -> LabelColumn | None:
        """Return the label of each row, None if there are none; see `Source`."""
        source = cast("Source", self)  # the subclasses have a name and a count
        labels = source.read_labels() if source.read_labels is not None else None
        if labels is not None and len(labels) != source.count:
            raise DataError(
                f"{source.name} has {source.count} images and {len(labels)} labels: give one for each"
            )
        return labels


def _silent(_: str) -> None:
    pass


StatFiles = Callable[[bytes, Sequence[bytes]], Future[bytes] | None]
"""Begins `stat_fields` of a folder and names in another process; None where this process is to do it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How containers are read: what the user has said of them, and whom to tell what was found."""

    column: str | None = None
    """The column of the images in a table; None finds it."""
    label_column: str | None = None
    """The column of the labels in a table; None finds it."""
    pixels: Literal["auto", "0..1", "0..255"] = "auto"
    """The range of numbers that are not unsigned bytes; see `bundle/images/numbers.py`."""
    classes: Path | None = None
    """A file of class names, one a line, in the order of the labels' numbers."""
    resize: Resize | None = None
    """How images of other sizes become 28x28; None refuses them. See `bundle/images/resizing.py`."""
    chosen: str = ""
    """The set in a folder of several, as in `idx:DIR#emnist-letters`, and what is known of it (`known_sets.py`)."""
    say: Callable[[str], None] = _silent
    """Shows the user a line, for example about skipped files."""
    on_image_files: Callable[[], None] = lambda: None
    """Called as soon as an image file is found, possibly more than once, so that the decoding processes start."""
    stat_files: StatFiles = lambda *_: None
    """Has another process look at the files of a folder, if one is ready."""
