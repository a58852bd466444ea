"""The load generator, against real servers on loopback."""

import contextlib
import socket
import socketserver
import threading
import time
from array import array
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.comparison.rounds import split
from bench.load.generator import Generator, Result, Specification

REQUEST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
STALL_SECONDS = 0.3


def response(body: bytes, status: str = "200 OK") -> bytes:
    """Return an answer with its length."""
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


@contextlib.contextmanager
def serving(answer: Callable[[int, socket.socket], None]) -> Iterator[int]:
    """Serve on loopback; `answer` is given the number of the request, from 1, and writes to the socket."""
    count, lock = 0, threading.Lock()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            nonlocal count
            data = b""
            with contextlib.suppress(OSError):
                while piece := self.request.recv(1 << 16):
                    data += piece
                    while len(data) >= len(REQUEST):
                        data = data[len(REQUEST) :]
                        with lock:
                            count += 1
                            number = count
                        answer(number, self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 64  # who finds the queue full tries again a second later

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def ask(
    port: int, directory: Path, *, rate: float | None = None, connections: int = 4
) -> "tuple[Result, array[float]]":
    """Ask for half a second at a rate, else for three; return what came back and the latencies."""
    specification = Specification(
        port=port,
        requests=[b64encode(REQUEST).decode()],
        connections=connections,
        seconds=3.0 if rate is None else 0.5,
        warm_seconds=0.0,
        rate=rate,
        latencies=str(directory / "latencies"),
    )
    result = Generator(specification).run()
    latencies = array("d")
    latencies.frombytes((directory / "latencies").read_bytes())
    return result, latencies


def test_answers_are_counted_whole_however_they_come(tmp_path: Path) -> None:
    """In pieces, in chunks or at once: each counts once, and a sample has its body."""

    def answer(number: int, client: socket.socket) -> None:
        if number % 3 == 0:
            head, body = response(b"abcdef")[:-3], b"def"
            client.sendall(head)
            client.sendall(body)
        elif number % 3 == 1:
            client.sendall(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"
            )
        else:
            client.sendall(response(b"abcdef"))

    with serving(answer) as port:
        result, latencies = ask(port, tmp_path)
    assert result.answers == len(latencies) > 0
    assert not result.errors
    assert result.samples
    assert {split(b64decode(text)).body for _, text in result.samples} == {b"abcdef"}


def test_errors_are_counted_by_kind(tmp_path: Path) -> None:
    """A refusal, and a connection that the server ends, are no answers; the generator goes on."""

    def answer(number: int, client: socket.socket) -> None:
        if number % 4 == 0:
            client.sendall(response(b"", "503 Service Unavailable"))
        elif number % 4 == 1:
            client.shutdown(socket.SHUT_RDWR)
        else:
            client.sendall(response(b"fine"))

    with serving(answer) as port:
        result, _ = ask(port, tmp_path)
    assert result.answers > 0
    assert set(result.errors) == {"503", "connection"}


def test_an_open_loop_asks_as_often_as_is_due(tmp_path: Path) -> None:
    """A hundred a second for half a second are fifty requests, all answered."""
    with serving(lambda _, client: client.sendall(response(b"fine"))) as port:
        result, latencies = ask(port, tmp_path, rate=100)
    assert result.answers == len(latencies) == 50


def test_a_stall_is_charged_to_all_who_came_meanwhile(tmp_path: Path) -> None:
    """One answer is late: each request that was due until then is late by what was left of it, not the one alone."""

    def answer(number: int, client: socket.socket) -> None:
        if number == 1:
            time.sleep(STALL_SECONDS)  # this is what is tested: a server that stalls
        client.sendall(response(b"fine"))

    with serving(answer) as port:
        result, latencies = ask(port, tmp_path, rate=100, connections=1)
    assert result.answers == 50
    longest = sorted(latencies, reverse=True)
    for place, latency in enumerate(longest[:25]):
        assert latency >= STALL_SECONDS - 0.01 * (place + 1)


def test_latencies_of_an_open_loop_are_those_of_a_queue(tmp_path: Path) -> None:
    """One server that takes longer than the interval: what waits grows for as long as it is asked (D/D/1)."""
    service, rate = 0.02, 100
    turn = threading.Lock()

    def answer(_: int, client: socket.socket) -> None:
        with turn:
            time.sleep(service)  # this is what is tested: a server that takes a known time
        client.sendall(response(b"fine"))

    with serving(answer) as port:
        result, latencies = ask(port, tmp_path, rate=rate, connections=50)
    assert result.answers == len(latencies) == 50
    # In whatever order they are taken, the k-th answer comes after k times the service.
    assert sum(latencies) >= sum((k + 1) * service - k / rate for k in range(50)) - 1e-3
    assert result.completed <= 0.5 / service
