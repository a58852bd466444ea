"""Raw bytes to a service and back, without an HTTP client that would tidy them up."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

ANSWER_SECONDS = 60.0
LAST = b"GET /livez HTTP/1.1\r\nHost: last\r\nConnection: close\r\n\r\n"
"""A request that ends every connection on which it is understood."""

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) [^\r\n]*\r\n")
_CHANGING = re.compile(rb"(?im)^(date|x-request-id|server-timing): [^\r\n]*\r\n")


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    """Connect to a service on this machine."""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def read_all(connection: socket.socket) -> bytes:
    """Read until the service closes."""
    pieces = []
    while piece := connection.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def read_answer(stream: BinaryIO) -> tuple[int, dict[str, str], bytes]:
    """Read one response with a Content-Length from a connection's file."""
    readline, read = stream.readline, stream.read
    status = int(readline().split()[1])
    headers = {}
    while line := readline().strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    return status, headers, read(int(headers.get("content-length", 0)))


def talk(port: int, *pieces: bytes, half_close: bool = False) -> bytes:
    """Send pieces on one connection and return all that comes back until the service closes."""
    with connected(port) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before it was all sent; what matters is the answer
        return read_all(connection)


def statuses(data: bytes) -> list[int]:
    """Return the status of each response in what a service sent; bodies must not look like one."""
    return [int(status) for status in _STATUS.findall(data)]


def settled(data: bytes) -> bytes:
    """Return responses without the fields that differ from one to the next."""
    return _CHANGING.sub(b"", data)


def post(body: bytes, *fields: bytes, path: bytes = b"/predict", kind: bytes = b"image/png") -> bytes:
    """Return a POST of a body with its length."""
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: a", b"Content-Type: " + kind]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), *fields, b"", b""]) + body
