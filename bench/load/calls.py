"""A load client for gRPC: each connection makes one unary call after the other.

It knows as much of HTTP/2 (RFC 9113) as a closed loop of equal calls needs: the frames of a call are the same bytes
each time but for the number of the stream, so that the client takes less time than the service.
"""

import asyncio
import struct
from collections.abc import Mapping

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
HEAD = 9
"""Bytes before a frame's payload."""
WINDOW = (1 << 30).to_bytes(4, "big")


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame."""
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def block(fields: Mapping[str, str]) -> bytes:
    """Return fields as HPACK's literals without indexing (RFC 7541, section 6.2.2), each shorter than 127 bytes."""
    return b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )


class Calls(asyncio.Protocol):
    """A connection that makes equal calls, one at a time."""

    def __init__(self, path: str, message: bytes) -> None:
        head = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "bench"}
        self._head = block(head | {"te": "trailers", "content-type": "application/grpc"})
        self._body = b"\0" + len(message).to_bytes(4, "big") + message
        self._stream = -1
        self._rest = b""
        self._has_data = False
        self.answered = self.failed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say that any number of bytes may come, and make the first call."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  TCP has no other
        self._transport = transport
        transport.write(PREFACE + frame(SETTINGS, 0, 0, b"") + frame(WINDOW_UPDATE, 0, 0, WINDOW))
        self._call()

    def _call(self) -> None:
        self._stream, self._has_data = self._stream + 2, False
        self._transport.write(
            frame(HEADERS, END_HEADERS, self._stream, self._head)
            + frame(DATA, END_STREAM, self._stream, self._body)
        )

    def data_received(self, data: bytes) -> None:
        """Count the answers; one without a message is an error."""
        data = self._rest + data
        at = 0
        while len(data) - at >= HEAD and len(data) - at - HEAD >= (
            size := int.from_bytes(data[at : at + 3], "big")
        ):
            kind, flags = data[at + 3], data[at + 4]
            payload = data[at + HEAD : at + HEAD + size]
            at += HEAD + size
            if kind == DATA:
                self._has_data = True
            elif kind == HEADERS and flags & END_STREAM:
                self.answered += self._has_data
                self.failed += not self._has_data
                self._call()
            elif kind in (SETTINGS, PING) and not flags & ACK:
                self._transport.write(frame(kind, ACK, 0, payload if kind == PING else b""))
            elif kind == GOAWAY:
                self.failed += 1
        self._rest = data[at:]


async def load(port: int, path: str, message: bytes, *, seconds: float, connections: int) -> tuple[int, int]:
    """Make calls for `seconds`, and return how many were answered and how many failed."""
    loop = asyncio.get_running_loop()
    made = [
        (await loop.create_connection(lambda: Calls(path, message), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    await asyncio.sleep(seconds)
    return sum(one.answered for one in made), sum(one.failed for one in made)
