"""The prober of `bench/http11`: what it sees of servers that do this or that."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.http11 import CASES
from bench.http11.case import Case, Verdict
from bench.http11.prober import probe

YES = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"
NO = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;a=b\r\nlo\r\n0\r\n\r\n"


def the(name: str) -> Case:
    """Return a case by its name."""
    return next(case for case in CASES if case.name == name)


@contextmanager
def server(*answers: bytes) -> Iterator[tuple[str, int]]:
    """Have a server that sends these answers, each when something has arrived, and then closes."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            for answer in answers:
                if not connection.recv(1 << 16):
                    return
                connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()
        thread.join()


@pytest.mark.parametrize(
    ("name", "answers", "verdict"),
    [
        ("COMP-BASELINE", (YES, YES), Verdict.PASS),
        ("COMP-BASELINE", (NO,), Verdict.FAIL),
        ("RFC9112-5.1-OBS-FOLD", (NO,), Verdict.PASS),
        ("RFC9112-5.1-OBS-FOLD", (b"",), Verdict.FAIL),  # it wants an answer
        ("SMUG-DUPLICATE-CL", (b"",), Verdict.PASS),
        ("SMUG-DUPLICATE-CL", (YES, YES), Verdict.FAIL),
        ("SMUG-CL-TE-BOTH", (YES, YES), Verdict.WARN),
        ("COMP-CONNECTION-CLOSE", (YES,), Verdict.PASS),
        ("COMP-CONNECTION-CLOSE", (YES, YES), Verdict.FAIL),
        ("COMP-CHUNKED-BODY", (CHUNKED, YES), Verdict.PASS),
        ("COMP-CHUNKED-BODY", (YES, YES), Verdict.FAIL),
        ("COMP-HEAD-NO-BODY", (YES.removesuffix(b"OK"), YES), Verdict.PASS),
        ("COMP-HEAD-NO-BODY", (YES, YES), Verdict.FAIL),
        ("COMP-NO-1XX-HTTP10", (b"HTTP/1.1 100 Continue\r\n\r\n" + YES,), Verdict.FAIL),
        ("SMUG-CLTE-SMUGGLED-GET", (YES + YES, YES), Verdict.FAIL),  # the hidden one was answered
        ("SMUG-CLTE-SMUGGLED-GET", (YES,), Verdict.PASS),
        ("SMUG-CLTE-DESYNC", (YES, NO), Verdict.FAIL),
        ("SMUG-CLTE-DESYNC", (YES,), Verdict.PASS),
        ("MAL-INCOMPLETE-REQUEST", (NO,), Verdict.PASS),
    ],
)
def test_what_a_server_does_is_seen(name: str, answers: tuple[bytes, ...], verdict: Verdict) -> None:
    """An answer, none, two, one that is no body's, and the end of the connection."""
    case = the(name)
    with server(*answers) as address:
        assert case.judge(probe(case, address, patience=30.0)) == verdict
