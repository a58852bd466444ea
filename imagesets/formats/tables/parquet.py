"""Opens Parquet files: a column of image files or of lists of numbers, or a column for each pixel."""

from pathlib import Path

from imagesets.formats.tables.pixel_columns import needing_arrow
from imagesets.source import Options, Source


def open_parquet(name: str, path: Path, options: Options) -> list[Source]:
    """Open a Parquet file of images.

    Raises:
        DataError: it is damaged, has no images, or which column has them, what a column is, or the range of the numbers
            is in doubt.
    """
    with needing_arrow(name):
        from imagesets.formats.tables.parquet_source import opened
    return [opened(name, path, options)]
