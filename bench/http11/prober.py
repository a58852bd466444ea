"""Sends cases to a server over plain sockets, and records its behaviour."""

import contextlib
import re
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from bench.http11.case import Answer, Case, Outcome
from bench.http11.requests import get

PATIENCE_SECONDS = 10.0
"""Timeout of a response."""
QUIET_SECONDS = 1.0
"""Timeout for incomplete requests, where no response is expected."""
AT_ONCE = 8

_STATUS_LINE = re.compile(rb"HTTP/1\.\d (\d{3}) ")
_BODILESS = (204, 304)


class _Wire:
    """A connection with its unparsed bytes."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.data = b""
        self.ended = False
        """Whether the server has closed it."""

    def send(self, data: bytes) -> None:
        """Send as much as the server reads: it may have rejected the beginning."""
        with contextlib.suppress(OSError):  # only the response matters
            self._connection.sendall(data)

    def more(self) -> bool:
        """Read more; return False at the end or on a timeout."""
        try:
            piece = self._connection.recv(1 << 16)
        except TimeoutError:
            return False
        except OSError:
            piece = b""
        self.ended = not piece
        self.data += piece
        return bool(piece)

    def rest(self) -> bytes:
        """Return all bytes until the end."""
        while self.more():
            pass
        return self.data

    def _until(self, end: bytes) -> bytes | None:
        while end not in self.data:
            if not self.more():
                return None
        found, _, self.data = self.data.partition(end)
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self.data) < size and self.more():
            pass
        found, self.data = self.data[:size], self.data[size:]
        return found

    def answer(self, *, to_head: bool) -> Answer | None:
        """Read a response, with preceding interim responses."""
        interim: list[int] = []
        while (head := self._until(b"\r\n\r\n")) is not None:
            lines = head.split(b"\r\n")
            if (match := _STATUS_LINE.match(lines[0] + b" ")) is None:
                return None  # not HTTP
            status = int(match[1])
            if 100 <= status < 200 and status != 101:
                interim.append(status)
                continue
            fields = {
                name.decode("latin-1").lower(): value.decode("latin-1").strip()
                for name, _, value in (line.partition(b":") for line in lines[1:])
            }
            body = b"" if to_head or status in _BODILESS else self._body(fields)
            return Answer(status=status, fields=fields, body=body, interim=tuple(interim))
        return None

    def _body(self, fields: dict[str, str]) -> bytes:
        if "chunked" in fields.get("transfer-encoding", "").lower():
            body = b""
            while size := int((self._until(b"\r\n") or b"0").partition(b";")[0], 16):
                body += self._exactly(size)
                self._until(b"\r\n")
            self._until(b"\r\n")
            return body
        if "content-length" in fields:
            return self._exactly(int(fields["content-length"]))
        body, self.data = self.rest(), b""
        return body


def probe(
    case: Case, address: tuple[str, int], *, patience: float = PATIENCE_SECONDS, quiet: float = QUIET_SECONDS
) -> Outcome:
    """Send a case's steps on one connection, each after the response to the previous one, then a final request.

    Args:
        case: what is sent.
        address: the server's.
        patience: seconds for an answer.
        quiet: the same where the request is not whole.
    """
    with socket.create_connection(address, timeout=patience) as connection:
        connection.settimeout(quiet if case.waits else patience)
        wire = _Wire(connection)
        answers: list[Answer | None] = []
        for step in case.steps:
            data = step if isinstance(step, bytes) else step(answers[0])
            wire.send(data)
            to_head = data.startswith(b"HEAD ")
            answers.append(wire.answer(to_head=to_head))
        if (last := answers[-1]) is None:
            return Outcome(answers=tuple(answers), closed=wire.ended)
        wire.send(get(b"Connection: close"))
        trailing = wire.rest()
        found = [match.start() for match in _STATUS_LINE.finditer(trailing)]
        if to_head:  # bytes before the next response are unexpected
            answers[-1] = replace(last, body=trailing[: found[0]] if found else trailing)
        return Outcome(answers=tuple(answers), closed=not found, extra=max(0, len(found) - 1))


def probe_all(cases: Sequence[Case], address: tuple[str, int]) -> list[Outcome]:
    """Run all cases concurrently against a server, and return the outcomes in order."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(lambda case: probe(case, address), cases))
