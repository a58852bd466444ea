"""Memory growth of a running service over many different requests.

    python -m bench memory --requests 200000

Each worker class gets all of the requests: images of every format, forms, JSON, arrays and tensors, valid and invalid,
probes, API descriptions, unknown paths, and clients that disconnect within a request. The worker's memory is sampled
meanwhile; its growth after a warm-up of half of the requests is printed. Exits 1 if it exceeds ALLOWED_MIB.
"""

import re
import socket
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random

from bench.fuzzing import hostile
from bench.memory.resident import Growth, children
from bench.support.models import publish_synthetic
from bench.support.options import bench_parser
from bench.support.pictures import SAMPLES
from bench.support.processes import Part, Service, form, running
from serving.predict.exchange import Request

WORKERS = ("inference", "gthread")
CONNECTIONS = 4
POOL = 600
"""Number of distinct requests, which are sent repeatedly."""
LEAVERS = 200
"""One of this many requests is sent half, then the client disconnects."""
SAMPLES_TAKEN = 100
ALLOWED_MIB = 4.0

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)


def a_pool(random: Random) -> list[bytes]:
    """Return complete HTTP requests: a third valid, a third hostile, and a third for other routes."""
    pool: list[bytes] = []
    for _ in range(POOL // 3):
        media_type = random.choice(list(SAMPLES))
        data = SAMPLES[media_type]
        if random.random() < 0.3:
            data, media_type = form(*[Part(data, content_type=media_type)] * random.randint(1, 20))
        elif random.random() < 0.3:
            data, media_type = random.randbytes(784 * random.randint(1, 64)), "application/octet-stream"
        pool.append(framed("POST", "/predict", {"content-type": media_type}, data))
    while len(pool) < POOL * 2 // 3:
        request = hostile.request(random)
        if clean(request):
            pool.append(framed("POST", request.path, dict(request.headers), request.body))
    others = (
        "/livez",
        "/readyz",
        "/healthz",
        "/metadata",
        "/openapi.json",
        "/v2",
        "/v2/health/ready",
        "/",
        "/x",
    )
    while len(pool) < POOL:
        pool.append(framed(random.choice(("GET", "GET", "HEAD", "OPTIONS")), random.choice(others), {}, b""))
    return pool


def clean(request: Request) -> bool:
    """Return whether `framed`, which escapes nothing, can write a hostile request."""
    return request.path.isascii() and all(value.isascii() for value in request.headers.values())


def framed(method: str, path: str, fields: dict[str, str], body: bytes) -> bytes:
    """Return the bytes of an HTTP/1.1 request."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: bench",
        *[f"{name}: {value}" for name, value in fields.items()],
    ]
    if method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class Client:
    """A client with one keep-alive connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def ask(self, request: bytes) -> int:
        """Send a request and return the status.

        Raises:
            ConnectionError: the service closed the connection without an answer.
        """
        for last in (False, True):
            fresh = self._socket is None
            if self._socket is None:
                self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=60)
            try:
                self._socket.sendall(request)
                return self._answer(self._socket, without_body=request.startswith(b"HEAD"))
            except ConnectionError:
                self.close()
                if fresh or last:  # the service may have closed the idle connection
                    raise
        raise AssertionError

    def leave(self, request: bytes) -> None:
        """Send half a request and disconnect."""
        self.close()
        with socket.create_connection(("127.0.0.1", self._port), timeout=60) as connection:
            connection.sendall(request[: len(request) // 2])

    def close(self) -> None:
        """Close the connection if it is open."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _answer(self, connection: socket.socket, *, without_body: bool) -> int:
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more(connection)
        head = data[: end + 2]
        found = _LENGTH.search(head)
        wanted = 0 if without_body or found is None else int(found[1])
        left = end + 4 + wanted - len(data)
        while left > 0:
            left -= len(self._more(connection))
        if _CLOSE.search(head):
            self.close()
        return int(head[9:12])

    @staticmethod
    def _more(connection: socket.socket) -> bytes:
        if not (data := connection.recv(1 << 18)):
            raise ConnectionError("the service closed the connection")
        return data


class Load:
    """A number of requests shared by several clients, and their results."""

    def __init__(self, pool: list[bytes], requests: int, worker: int) -> None:
        self._pool, self._left, self._worker = pool, requests, worker
        self._each = max(1, requests // SAMPLES_TAKEN)
        self._lock = threading.Lock()
        self.statuses: Counter[int] = Counter()
        self.growth = Growth()
        self.trouble = ""

    def work(self, client: Client, random: Random) -> None:
        """Run one client until all requests are sent or one fails."""
        try:
            while self._take():
                request = random.choice(self._pool)
                if random.randrange(LEAVERS) == 0:
                    client.leave(request)
                else:
                    self._count(client.ask(request))
        except OSError as error:
            self.trouble = f"{error!r} after {request[:200]!r}"
        finally:
            client.close()

    def _take(self) -> bool:
        with self._lock:
            if self._left <= 0 or self.trouble:
                return False
            self._left -= 1
            if self._left % self._each == 0:
                self.growth.sample(self._worker)
            return True

    def _count(self, status: int) -> None:
        with self._lock:
            self.statuses[status] += 1


def ask_all(service: Service, pool: list[bytes], requests: int, seed: int) -> Load:
    """Send the requests on several connections, and return the results.

    Raises:
        RuntimeError: a request has no response, or a process of the service died.
    """
    (worker,) = children(service.process.pid)
    load = Load(pool, requests, worker)
    threads = [
        threading.Thread(
            target=load.work,
            args=(Client(service.port), Random(seed * CONNECTIONS + number)),  # noqa: S311  no secret
        )
        for number in range(CONNECTIONS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if load.trouble:
        raise RuntimeError(load.trouble)
    if children(service.process.pid) != [worker]:
        raise RuntimeError("a process of the service died")
    return load


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    parser = bench_parser("memory", __doc__)
    parser.add_argument("--requests", type=int, default=200_000, help="requests for each worker class")
    parser.add_argument(
        "--worker", choices=WORKERS, action="append", help="only this worker class; default: both"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random requests")
    options = parser.parse_args(arguments)
    pool = a_pool(Random(options.seed))  # noqa: S311  no secret
    failed = False
    with tempfile.TemporaryDirectory() as name:
        bundle = publish_synthetic(Path(name, "models"))
        for worker in options.worker or WORKERS:
            started = time.perf_counter()
            with running(Path(name), until="/readyz", model=bundle.path.parent, worker=worker) as service:
                asked = ask_all(service, pool, options.requests, options.seed)
            seconds, grown = time.perf_counter() - started, asked.growth.mebibytes()
            told = ", ".join(f"{status} {count}" for status, count in sorted(asked.statuses.items()))
            print(
                f"{worker}: {options.requests} requests in {seconds:.0f} s, "
                f"resident {asked.growth.samples[-1] / (1 << 20):.0f} MiB, {grown:+.1f} MiB after the warm-up: {told}",
                flush=True,
            )
            failed |= grown > ALLOWED_MIB or any(status >= 500 for status in asked.statuses)
    return 1 if failed else 0
