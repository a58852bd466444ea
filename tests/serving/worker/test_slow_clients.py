"""Clients that are slow, idle or do not read: each phase has its time, and nobody else waits for them.

Through the inference worker; before gthread they are the proxy's business.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bench.support.pictures import png
from bench.support.processes import Part, Service, form, running
from bundle.repository import Bundle
from tests.serving.worker.fakes import a_dispatcher, connect
from tests.serving.worker.wire import ANSWER_SECONDS, connected, post, read_all, read_answer, statuses

Pixels = npt.NDArray[np.uint8]
ANSWERS = 200
"""More than the buffers of two sockets hold."""
LIMITS: dict[str, Any] = {
    "header_timeout_seconds": 3,
    "body_timeout_seconds": 3,
    "write_timeout_seconds": 3,
    "keepalive_seconds": 3,
}


@pytest.fixture(scope="module")
def hasty(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Return a service that waits for nothing longer than three seconds."""
    directory = tmp_path_factory.mktemp("hasty")
    common: dict[str, Any] = {"until": "/readyz", "model": bundle.path.parent, "threads": 2}
    with running(directory, **common, **LIMITS) as started:
        yield started


def trickled(connection: socket.socket, data: bytes) -> bytes:
    """Send a byte every now and then until the service answers; return the answer."""
    connection.settimeout(0.1)
    for at in range(len(data)):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data[at : at + 1])
        try:
            begun = connection.recv(1)
        except TimeoutError:
            continue
        connection.settimeout(ANSWER_SECONDS)
        return begun + read_all(connection)
    raise AssertionError("the service took all of it")


def test_a_head_that_is_trickled_is_408(hasty: Service) -> None:
    """Each byte in time does not help: the whole head has its time."""
    with connected(hasty.port) as connection:
        answer = trickled(connection, b"GET /livez HTTP/1.1\r\nX: " + b"a" * 400)
    assert statuses(answer) == [408]
    assert b"urn:glyph:problem:request-timeout" in answer
    assert b"Connection: close" in answer


@pytest.mark.parametrize("path", [b"/predict", b"/nowhere", b"/v2/models/synthetic/infer"])
def test_a_body_that_is_trickled_is_408(hasty: Service, path: bytes) -> None:
    """A prediction is told so; a page that reads no body may answer as it likes, and the connection ends."""
    with connected(hasty.port) as connection:
        answer = trickled(connection, post(bytes(400), path=path))
    assert statuses(answer) == [404 if path == b"/nowhere" and statuses(answer) == [404] else 408]


def test_a_chunked_body_that_never_ends_is_408(hasty: Service) -> None:
    """The same without a length."""
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connected(hasty.port) as connection:
        assert statuses(trickled(connection, head + b"1\r\na\r\n" * 400)) == [408]


def test_an_idle_connection_is_closed_without_a_word(hasty: Service, digit: Pixels) -> None:
    """Before a first request and after one."""
    with connected(hasty.port) as first, connected(hasty.port) as second, second.makefile("rb") as stream:
        second.sendall(post(png(digit)))
        assert read_answer(stream)[0] == 200
        assert stream.read() == b""
        assert read_all(first) == b""


def test_slow_clients_hold_nobody_up(hasty: Service, digit: Pixels) -> None:
    """Forty of them are in the middle of heads and bodies, and forty predictions are answered meanwhile."""
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connected(hasty.port)) for _ in range(40)]
        for number, connection in enumerate(slow):
            connection.sendall(post(png(digit))[: 30 if number % 2 else -5])
        started = time.monotonic()
        assert [hasty.post(png(digit)).status for _ in range(40)] == [200] * 40
        elapsed = time.monotonic() - started
        answers = [statuses(read_all(connection)) for connection in slow]
        # None of the slow had to be ended before the others were answered, unless this machine was slower.
        assert answers == [[408]] * 40 or elapsed > LIMITS["header_timeout_seconds"]


def test_an_answer_that_is_not_taken_ends_the_connection(hasty: Service, digit: Pixels) -> None:
    """A client that asks for megabytes and reads nothing loses its connection, and nobody else anything."""
    body, content_type = form(*[Part(png(digit))] * 250)
    request = post(body, kind=content_type.encode())
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(ANSWER_SECONDS)
        connection.connect(("127.0.0.1", hasty.port))
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            connection.sendall(request * 1000)
    assert hasty.post(png(digit)).status == 200


def test_an_answer_that_is_taken_slowly_is_given_whole(bundle: Bundle, tmp_path: Path, digit: Pixels) -> None:
    """A client that reads a little again and again takes a multiple of the write timeout, and gets every byte."""
    body, content_type = form(*[Part(png(digit))] * 250)
    request = post(body, kind=content_type.encode())
    limits = dict.fromkeys(LIMITS, 60) | {"write_timeout_seconds": LIMITS["write_timeout_seconds"]}
    with (
        running(tmp_path, until="/readyz", model=bundle.path.parent, **limits) as service,
        socket.socket() as connection,
    ):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(ANSWER_SECONDS)
        connection.connect(("127.0.0.1", service.port))

        def ask() -> None:
            with contextlib.suppress(OSError):  # the answers tell
                connection.sendall(request * ANSWERS)
                connection.shutdown(socket.SHUT_WR)

        asking = threading.Thread(target=ask)
        asking.start()
        started, first = time.monotonic(), b""
        while time.monotonic() < started + 3 * LIMITS["write_timeout_seconds"]:
            first += connection.recv(20_000)
            time.sleep(0.05)  # the client's own slowness
        first += read_all(connection)  # the rest as fast as it comes
        asking.join()
        assert len(statuses(first)) == ANSWERS


@pytest.mark.parametrize("where", ["here", "in the socket"])
def test_progress_is_what_the_client_takes_wherever_the_rest_waits(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A socket takes much at once and then nothing for long; what leaves it counts, and so does nothing at all."""
    dispatcher = a_dispatcher(bundle, write_timeout_seconds=10)
    link, transport = connect(dispatcher)
    in_socket = 100_000
    monkeypatch.setattr("serving.worker.http11.output_buffer.unacknowledged", lambda _: in_socket)
    transport.write(bytes(100_000))
    for second in range(0, 100, 5):
        transport.waiting -= 1000 if where == "here" else 0
        in_socket -= 1000 if where == "in the socket" else 0
        link.tick(float(second))
        assert transport.open
    link.tick(104.0)
    assert transport.open
    link.tick(106.0)
    assert not transport.open
    dispatcher.threads.shutdown()
