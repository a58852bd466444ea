"""Ask a live service many different things, and see that its memory does not grow.

    python -m bench memory --requests 200000

Each way of serving gets all of the requests: images of every kind, forms, JSON, arrays and tensors, refused
ones among them, probes, descriptions, unknown paths, and clients that leave in the middle. The memory of the
service's worker is read while they are answered; what it grows by after a warm-up of half of them is
printed, and more than ALLOWED_MIB fails the run.
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
"""Different requests; each is asked again and again."""
LEAVERS = 200
"""One of so many requests is sent half, by a client that then leaves."""
SAMPLES_TAKEN = 100
ALLOWED_MIB = 4.0

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)


def a_pool(random: Random) -> list[bytes]:
    """Return whole HTTP requests: a third sound, a third hostile, and those of the other routes."""
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
    """Tell whether a hostile request can be written by `framed`, which escapes nothing."""
    return request.path.isascii() and all(value.isascii() for value in request.headers.values())


def framed(method: str, path: str, fields: dict[str, str], body: bytes) -> bytes:
    """Return a request as HTTP/1.1 writes it."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: bench",
        *[f"{name}: {value}" for name, value in fields.items()],
    ]
    if method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class Client:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def ask(self, request: bytes) -> int:
        """Send a request and return the answer's status.

        Raises:
            ConnectionError: the service hung up without an answer.
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
                if fresh or last:  # a kept connection may have been closed after the answer before
                    raise
        raise AssertionError

    def leave(self, request: bytes) -> None:
        """Send half a request and go."""
        self.close()
        with socket.create_connection(("127.0.0.1", self._port), timeout=60) as connection:
            connection.sendall(request[: len(request) // 2])

    def close(self) -> None:
        """Close the connection, if there is one."""
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
            raise ConnectionError("the service hung up")
        return data


class Asking:
    """Requests that several clients take from one count, and what came of them."""

    def __init__(self, pool: list[bytes], requests: int, worker: int) -> None:
        self._pool, self._left, self._worker = pool, requests, worker
        self._each = max(1, requests // SAMPLES_TAKEN)
        self._lock = threading.Lock()
        self.statuses: Counter[int] = Counter()
        self.growth = Growth()
        self.trouble = ""

    def work(self, client: Client, random: Random) -> None:
        """Ask with one client until all have been asked, or one has not been answered."""
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


def ask_all(service: Service, pool: list[bytes], requests: int, seed: int) -> Asking:
    """Ask `requests` times on several connections, and return what came of it.

    Raises:
        RuntimeError: a request was not answered, or a process of the service died.
    """
    (worker,) = children(service.process.pid)
    asking = Asking(pool, requests, worker)
    threads = [
        threading.Thread(
            target=asking.work,
            args=(Client(service.port), Random(seed * CONNECTIONS + number)),  # noqa: S311  no secret
        )
        for number in range(CONNECTIONS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if asking.trouble:
        raise RuntimeError(asking.trouble)
    if children(service.process.pid) != [worker]:
        raise RuntimeError("a process of the service died")
    return asking


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    parser = bench_parser("memory", __doc__)
    parser.add_argument("--requests", type=int, default=200_000, help="how many each way of serving gets")
    parser.add_argument("--worker", choices=WORKERS, action="append", help="one way alone; both by default")
    parser.add_argument("--seed", type=int, default=0, help="decides the requests")
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
