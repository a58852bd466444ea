"""Files without a name, which child processes share by inheriting the descriptor."""

import os
import tempfile


def anonymous_file(name: str) -> int:
    """Return the descriptor of an empty file without a name, which the kernel frees with its last descriptor.

    It is in memory where there is memfd_create(2), which macOS lacks: there it is in the directory of temporary files.

    Args:
        name: what tools show of it in /proc.

    Raises:
        OSError: there is no directory for temporary files that this user may write to.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
