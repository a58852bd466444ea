"""Signs of life between two processes that hold the ends of a socket pair: a byte now and then."""

import contextlib
import socket

MAX_BEATS = 1 << 12
"""Most that are read at once."""


def beat(peer: socket.socket) -> None:
    """Give the process at the other end a sign of life; one that does not read has enough of them."""
    with contextlib.suppress(OSError):
        peer.send(b"\0", socket.MSG_DONTWAIT)
