"""Memory of a worker when thousands of clients fill its connection buffers as far as they can.

    python -m bench held --connections 4096

A service with a pod's queue gets connections from many addresses, all of one kind: request heads, bodies, chunks or
trailers that never end, or responses that the client does not read, followed by further requests. Each client sends
just as much as admission control does not count (`load_shedding.UNCOUNTED_BYTES`), or as much as the service accepts.
Printed is the worker's growth, per connection and in total, and the size of the kernel's TCP buffers of both ends.
Exits 1 if the worker grew by more than `docs/kubernetes.md` assumes: `QUEUE_TIMES` the queue plus `CONNECTION_BYTES`
per connection.
"""

import contextlib
import re
import selectors
import socket
import tempfile
import time
from pathlib import Path

from bench.memory.resident import MIB, PAGE, children, resident
from bench.support.models import publish_synthetic
from bench.support.options import bench_parser
from bench.support.processes import Service, running
from serving.predict.load_shedding import UNCOUNTED_BYTES

QUEUE_TIMES = 1.5
"""Memory per byte of the queue: growing buffers are over-allocated by an eighth and copied; the allocator retains up
to a third of that, and the amount varies between runs."""
CONNECTION_BYTES = 16 << 10
"""Further memory per connection: up to `UNCOUNTED_BYTES`, and as much for its objects and fragmentation."""
KERNEL_BYTES = 128 << 10
"""Kernel memory per connection for unread data (tcp(7), tcp_rmem), which counts towards a pod's limit."""
DECODING_TIMES = 4
"""Memory of a body during decompression and decoding, in multiples of the largest body."""
QUEUE_BYTES = 64 << 20
BODY_BYTES = 8 << 20
SECONDS = 600
"""The service's timeouts: longer than the bench runs."""
SETTLED_SECONDS = 1.0
POST = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"
GET = b"GET /metadata HTTP/1.1\r\nHost: a\r\n"
OPENAPI = GET.replace(b"/metadata", b"/openapi.json")
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
MOST = 1 << 20
"""Maximum bytes that are sent on a connection."""


def fields(size: int) -> bytes:
    """Return the allowed number of header fields, about `size` bytes in all."""
    each = size // 60
    return b"".join(b"X-%02d: %s\r\n" % (number, b"a" * max(1, each - 8)) for number in range(60))


def filled(start: bytes, size: int, piece: bytes) -> bytes:
    """Return `start` followed by copies of `piece`, `size` bytes in all."""
    return (start + piece * (size // len(piece) + 1))[:size]


KINDS: dict[str, bytes] = {
    "nothing": b"",
    "a request that was answered": GET + b"\r\n",
    "a head, free": filled(GET, UNCOUNTED_BYTES, b"X: " + b"a" * 1000 + b"\r\n"),
    "a head of many fields, free": GET + fields(UNCOUNTED_BYTES - 100),
    "a head": filled(GET, 32_000, b"X: " + b"a" * 1000 + b"\r\n"),
    "fields of a body to come, free": GET
    + b"Content-Length: 9\r\n"
    + fields(UNCOUNTED_BYTES - 200)
    + b"\r\n",
    "fields of a body to come": GET + b"Content-Length: 9\r\n" + fields(30_000) + b"\r\n",
    "a body, free": filled(POST + b"Content-Length: 9999\r\n\r\n", UNCOUNTED_BYTES - 60, b"a"),
    "a body": filled(POST + b"Content-Length: %d\r\n\r\n" % (MOST + 1), MOST, b"a"),
    "chunks, free": filled(CHUNKED, UNCOUNTED_BYTES, b"1\r\na\r\n"),
    "an extension, free": CHUNKED + b"1;" + b"a" * (UNCOUNTED_BYTES - 200),
    "trailers, free": filled(CHUNKED + b"0\r\n", UNCOUNTED_BYTES, b"X: " + b"a" * 100 + b"\r\n"),
    "answers that are not taken": (OPENAPI + b"\r\n") * 200,
    "answers that are not taken, and more": filled(
        (OPENAPI + b"\r\n") * 200, MOST, GET + b"X: " + b"a" * 4000
    ),
}
"""The bytes that each connection sends."""


def hold(service: Service, data: bytes, count: int) -> list[socket.socket]:
    """Open `count` connections and send the data on each, as far as the service reads it."""
    sockets = []
    with selectors.DefaultSelector() as selector:
        for number in range(count):
            source = f"127.0.{1 + number // 250}.{1 + number % 250}"
            connection = socket.create_connection(("127.0.0.1", service.port), 60, (source, 0))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.setblocking(False)
            sockets.append(connection)
            if data:
                selector.register(connection, selectors.EVENT_WRITE, memoryview(data))
        quiet = time.monotonic() + SETTLED_SECONDS
        while selector.get_map() and time.monotonic() < quiet:
            for key, _ in selector.select(0.1):
                left: memoryview = key.data
                try:
                    sent = key.fileobj.send(left[: 1 << 16])  # type: ignore[union-attr]
                except OSError:
                    sent = len(left)
                quiet = time.monotonic() + SETTLED_SECONDS
                if sent < len(left):
                    selector.modify(key.fileobj, selectors.EVENT_WRITE, left[sent:])
                else:
                    selector.unregister(key.fileobj)
    time.sleep(SETTLED_SECONDS)
    return sockets


def kernel_bytes() -> int:
    """Return the buffer memory of all TCP sockets of this network namespace (proc(5), /proc/net/sockstat)."""
    found = re.search(r"^TCP:.* mem (\d+)", Path("/proc/net/sockstat").read_text(), re.MULTILINE)
    return int(found[1]) * PAGE if found else 0


def allowed(connections: int) -> float:
    """Return the bytes by which a worker may grow."""
    return QUEUE_TIMES * QUEUE_BYTES + connections * CONNECTION_BYTES


def grown(directory: Path, model: Path, data: bytes, count: int) -> tuple[int, int]:
    """Return the growth in bytes of a new service's worker and of the kernel with `count` connections."""
    with running(
        directory,
        until="/readyz",
        model=model,
        connections=count + 64,
        queue_bytes=QUEUE_BYTES,
        max_body_bytes=BODY_BYTES,
        header_timeout_seconds=SECONDS,
        body_timeout_seconds=SECONDS,
        keepalive_seconds=SECONDS,
        write_timeout_seconds=SECONDS,
    ) as service:
        (worker,) = children(service.process.pid)
        for _ in range(20):
            service.ask("GET", "/metadata")
        before, kernel = resident(worker), kernel_bytes()
        sockets = hold(service, data, count)
        after, more = resident(worker), kernel_bytes()
        for connection in sockets:
            with contextlib.suppress(OSError):
                connection.close()
    return after - before, more - kernel


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    parser = bench_parser("held", __doc__)
    parser.add_argument("--connections", type=int, default=4096, help="connections of each kind")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this kind; default: all")
    options = parser.parse_args(arguments)
    bound = allowed(options.connections)
    failed = False
    with tempfile.TemporaryDirectory() as name:
        model = publish_synthetic(Path(name, "models")).path.parent
        for kind in options.kind or KINDS:
            more, kernel = grown(Path(name), model, KINDS[kind], options.connections)
            each = more / options.connections / 1024
            print(
                f"{kind:40}{each:8.1f} KiB each, {more / MIB:6.0f} MiB; TCP {kernel / MIB:6.0f} MiB",
                flush=True,
            )
            failed |= more > bound
    print(f"allowed: {bound / MIB:.0f} MiB")
    return 1 if failed else 0
