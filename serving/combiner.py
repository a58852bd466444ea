"""The thread worker's short way: ordinary predictions that wait at the same time are answered together.

A thread for each request, as Gunicorn has it, costs more than a prediction: the interpreter runs one thread
at a time, and every system call of one is another's turn. So connections on which something has arrived are
collected, and one thread takes all that there are: it reads their requests, has them run as one batch by the
inference worker's batcher, and writes the answers. What arrives meanwhile makes the next batch. Whatever is
not ordinary, or not whole yet, goes the long way, by Gunicorn's parser on a thread of its own.

It imports ONNX Runtime, so the arbiter must not import it.
"""

import socket
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, cast

from serving.errors import OverloadedError
from serving.inference.batcher import Batcher, Job
from serving.inference.head import Head, read_ordinary
from serving.inference.response import Dates, render
from serving.messages import Answer, Request
from serving.overload import hung_up
from serving.pipeline import Exchange, Pipeline
from serving.served import Served

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from serving.worker import ServingThreadWorker

MOST_CONNECTIONS = 64
"""Of a turn: about 5 ms of work, after which it is looked at who has hung up or comes too late."""
PEEKED_BYTES = 1 << 14
"""Most that is looked at of a request; a larger one goes the long way."""


class Turns:
    """As much of an event loop as the batcher asks for, for a thread that is done when its requests are."""

    def __init__(self) -> None:
        self._due: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def call_soon(self, function: Callable[..., None], *arguments: Any) -> None:
        """Have it called by `run`; from whatever thread."""
        self._due.put(partial(function, *arguments))

    call_soon_threadsafe = call_soon

    def run(self, until: Callable[[], bool]) -> None:
        """Call what is due, or becomes it, until the condition holds."""
        while not until():
            self._due.get()()


class Combiner:
    """Answers for all connections of a process. What is not said to run on its thread runs on the main one."""

    def __init__(self, worker: "ServingThreadWorker") -> None:
        self._worker = worker
        self._pipeline: Pipeline = worker.wsgi.extensions["glyph.pipeline"]
        self._turns = Turns()
        # The batcher asks its loop for nothing but these two calls.
        self._batcher = Batcher(cast("AbstractEventLoop", self._turns), self._pipeline)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="combiner")
        self._dates = Dates()
        self._readable: deque[tuple[Any, float]] = deque()
        """Connections on which something has arrived, and when."""
        self._running = False

    def __len__(self) -> int:
        return len(self._readable)

    def add(self, conn: Any) -> None:
        """Take a connection on which something has arrived."""
        self._readable.append((conn, time.perf_counter()))

    def go_on(self) -> None:
        """Hand what waits to the thread, unless it is at work; called at the end of each turn of the main loop."""
        readable = self._readable
        if self._running or not readable:
            return
        self._running = True
        excess = min(max(0, len(readable) - self._worker.gate.limit), MOST_CONNECTIONS)
        refused = [readable.pop() for _ in range(excess)]
        several = [readable.popleft() for _ in range(min(len(readable), MOST_CONNECTIONS))]
        future = self._thread.submit(self._serve, several, refused, crowded=bool(readable))
        future.add_done_callback(
            lambda future: self._worker.method_queue.defer(self._served, [*several, *refused], future)
        )

    def close(self) -> None:
        """Free the threads."""
        self._batcher.close()
        self._thread.shutdown(wait=False)

    def _served(self, several: list[tuple[Any, float]], future: Future[Served]) -> None:
        self._running = False
        if (error := future.exception()) is not None:
            self._worker.log.error("a batch failed", exc_info=error)
            self._worker.after(Served(closed=[conn for conn, _ in several]))
        else:
            self._worker.after(future.result())

    # On the thread

    def _serve(
        self, several: list[tuple[Any, float]], refused: list[tuple[Any, float]], *, crowded: bool
    ) -> Served:
        """Answer what is ordinary, and say what is to become of each connection."""
        served, gate = Served(), self._worker.gate
        left = 0

        def answered(conn: Any, head: Head, answer: Answer) -> None:
            nonlocal left
            left -= 1
            gate.leave()
            self._write(conn, head, answer, served)

        for conn, arrived in several:
            if crowded and not conn.later and hung_up(conn.sock.fileno()):
                conn.later = True
                served.later.append(conn)
            elif (found := self._read(conn, arrived, served)) is not None:
                head, exchange = found
                try:
                    gate.enter()
                except OverloadedError as error:
                    self._refuse(conn, head, exchange, error, served)
                else:
                    left += 1
                    self._batcher.put(Job(exchange, partial(answered, conn, head), lambda: False))
        self._turns.run(lambda: left == 0)
        for conn, arrived in refused:
            if (found := self._read(conn, arrived, served)) is not None:
                self._refuse(conn, *found, gate.refusal(), served)
        return served

    def _read(self, conn: Any, arrived: float, served: Served) -> tuple[Head, Exchange] | None:
        """Begin an ordinary prediction that has arrived whole; None if it is anything else."""
        try:
            data = conn.sock.recv(PEEKED_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:  # nothing after all
            served.kept.append(conn)
            return None
        except OSError:
            served.closed.append(conn)
            return None
        if not data:  # the client has left
            served.closed.append(conn)
            return None
        start = data.find(b"\r\n\r\n") + 4
        head = read_ordinary(data[:start])
        if (
            head is None
            or head.length is None
            or len(data) < (end := start + head.length)
            or not self._pipeline.is_prediction(head.method, head.path)
        ):
            served.extraordinary.append(conn)
            return None
        conn.sock.recv(end, socket.MSG_DONTWAIT)
        request = Request(
            method=head.method,
            path=head.path,
            query=head.query,
            headers=head.headers,
            body=data[start:end],
            client=conn.client[0] if conn.client else "",
        )
        return head, self._pipeline.open(request, arrived)

    def _refuse(
        self, conn: Any, head: Head, exchange: Exchange, error: OverloadedError, served: Served
    ) -> None:
        refusal = self._pipeline.close(exchange, self._pipeline.refuse(exchange, error))
        self._write(conn, head, refusal, served, refused=True)

    def _write(self, conn: Any, head: Head, answer: Answer, served: Served, *, refused: bool = False) -> None:
        worker = self._worker
        worker.count()
        keep = head.keep_alive and worker.keeps()
        data = render(answer, (1, 1), self._dates.now(), keep_alive=keep)
        try:
            taken = conn.sock.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            taken = 0
        except OSError:
            served.closed.append(conn)
            return
        if taken < len(data):
            served.unwritten.append((conn, data[taken:], keep))
        elif not keep:
            served.closed.append(conn)
        else:
            (served.refused if refused else served.kept).append(conn)
