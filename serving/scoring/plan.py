"""Divides the input into parts and slices, by row number alone: independent of shards and processes."""

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa

from imagesets.errors import DataError
from imagesets.source import RawRows, Reader, Source

SLICE_ROWS = 1024
"""Rows that are read, decoded and scored together, rounded to whole batches: small enough that the last slices
of a run still occupy every CPU."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows of one source that are decoded together."""

    first: int
    """Number of the first row in the whole input."""
    work: RawRows | Reader


@dataclass(frozen=True, slots=True)
class Plan:
    """Every row of the input, in order."""

    sources: Sequence[Source]
    part_rows: int

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return sum(source.count for source in self.sources)

    @property
    def parts(self) -> int:
        """Return the number of parts."""
        return -(-self.rows // self.part_rows)

    def rows_of(self, part: int) -> int:
        """Return a part's number of rows; only the last part may have fewer than `part_rows`."""
        return min(self.part_rows, self.rows - part * self.part_rows)

    def slices(self, part: int, batch: int) -> Iterator[list[Slice]]:
        """Yield a part's rows in groups of whole batches; the last group may be shorter.

        Raises:
            DataError: a source is damaged.
        """
        size = max(1, SLICE_ROWS // batch) * batch
        first, end = part * self.part_rows, part * self.part_rows + self.rows_of(part)
        for start in range(first, end, size):
            yield [*self._take(start, min(size, end - start))]

    def _take(self, first: int, count: int) -> Iterator[Slice]:
        """Yield `count` rows from `first` on, which may span several sources."""
        ends = list(accumulate(source.count for source in self.sources))
        at = bisect.bisect_right(ends, first)
        while count:
            source = self.sources[at]
            inside = first - (ends[at] - source.count)
            taken = min(count, source.count - inside)
            yield Slice(first, source.take(inside, taken))
            first, count = first + taken, count - taken
            if inside + taken == source.count:
                source.close()
                at += 1

    def columns(self) -> Any:
        """Return the `pyarrow.Schema` of all columns that are passed through.

        Raises:
            DataError: two Parquet files have the same column with different types.
        """
        schemas = [source.columns for source in self.sources if source.columns is not None]
        try:
            return pa.unify_schemas(schemas) if schemas else pa.schema([])
        except pa.ArrowException as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"the Parquet files' columns do not match ({reason}): score the files in separate runs"
            ) from error

    def listing(self) -> dict[str, str]:
        """Return the fingerprint's entry for each source, by its position and name."""
        return {
            f"input {number} ({source.name})": f"{source.count} images, {source.fingerprint()}"
            for number, source in enumerate(self.sources)
        }
