"""The management port and strangers: framing, how many, how long, and without descriptors."""

import contextlib
import errno
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.support.management import Managed, await_
from bundle.repository import Bundle
from serving.management import server as management
from serving.management.server import CONNECTIONS, Server
from tests.serving.management.test_management import management_of
from tests.serving.worker.wire import connected, read_all, statuses, talk

GET = b"GET /livez HTTP/1.1\r\nHost: a\r\n"
HIDDEN = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (GET + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN, [200]),
        (GET + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(HIDDEN) + HIDDEN + b"\r\n0\r\n\r\n", [200]),
        (GET + b"no field\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN, [400]),
        (GET + b"Content-Length : %d\r\n\r\n" % len(HIDDEN) + HIDDEN, [400]),
        (GET + b"Content-Length: 0\r\n\r\n" + GET + b"Connection: close\r\n\r\n", [200, 200]),
    ],
    ids=["length", "chunks", "a line that is no field", "a space before the colon", "no body"],
)
def test_a_body_is_not_read_as_a_request(pod: Managed, data: bytes, expected: list[int]) -> None:
    """The answer comes, and the connection ends where it is not sure what follows."""
    assert statuses(talk(pod.port, data)) == expected


def test_a_large_body_does_not_take_the_answer_away(pod: Managed) -> None:
    """What a client has sent is read before the connection is closed: a reset would come first."""
    assert statuses(talk(pod.port, GET + b"Content-Length: 50000\r\n\r\n" + bytes(50000))) == [200]


def test_connections_that_wait_make_room_and_no_threads_beyond(pod: Managed) -> None:
    """A stranger holds ten times as many as there may be; each probe is answered all the same."""
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS * 4):
            stack.enter_context(connected(pod.port)).sendall(b"GET /li")
        assert pod.ask("/readyz").status == 200
        threads = Path(f"/proc/{management_of(pod.service.process.pid)}/task")
        assert len(list(threads.iterdir())) < CONNECTIONS + 20


@pytest.fixture
def server(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Return a server without workers, on a thread, that gives a request hardly any time."""
    monkeypatch.setattr(management, "REQUEST_SECONDS", 0.05)
    listener = socket.create_server(("127.0.0.1", 0))
    access: Any = SimpleNamespace(check_path=lambda *_: None)
    some: Any = SimpleNamespace()
    made = Server(listener, some, some, access, some)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def test_a_connection_is_timed_as_a_whole(server: Server) -> None:
    """A byte now and then does not prolong it; the time is over though each wait was short."""
    with connected(server.socket.getsockname()[1]) as connection:
        connection.sendall(b"GET /li")
        await_(lambda: bool(server._deadlines))
        server.close_expired(next(iter(server._deadlines.values())) + 1)
        assert statuses(read_all(connection)) in ([], [400])
    await_(lambda: not server._deadlines)


def test_without_descriptors_it_pauses(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not try again at once, and says so once."""
    pauses: list[float] = []

    def accept() -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("serving.management.server.time.sleep", pauses.append)
    broken: Any = SimpleNamespace(socket=SimpleNamespace(accept=accept), _exhausted=False)
    for _ in range(3):
        with pytest.raises(OSError, match="Too many open files"):
            Server.get_request(broken)
    assert len(pauses) == 3
    assert caplog.text.count("Too many open files") == 1
