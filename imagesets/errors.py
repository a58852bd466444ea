"""`DataError`: images or labels that cannot be used. The message says what is wrong and what to do."""

import errno
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class DataError(Exception):
    """The images or labels are missing, unreadable, invalid or ambiguous."""

    exit_code: ClassVar[int] = 65
    """Of `fit` and of the batch scorer: EX_DATAERR of BSD's sysexits.h."""


@contextmanager
def reading(what: object) -> Iterator[None]:
    """Turn an OSError of the block, or an error of a compressed file, into a DataError; the block reads `what`.

    Want of memory, which is no fault of the file, becomes a MemoryError.
    """
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        if getattr(error, "errno", None) == errno.ENOMEM:
            raise MemoryError(f"{what}: {os.strerror(errno.ENOMEM)}") from None
        raise DataError(f"{what} cannot be read: {getattr(error, 'strerror', None) or error}") from None
