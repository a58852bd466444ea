"""A client's connection: reads requests, dispatches them one at a time, writes the responses, enforces timeouts.

The methods stand in the order in which a request passes them: bytes arrive (`data_received`), the head is parsed
(`_read_head`), the body is read (`_begin_body`, `_read_body`), the dispatcher gets the request (`_dispatch`) and calls
`send_response`.

Responses keep the order of the requests, because the next request is only read when the last one is answered. What a
pipelining client sends meanwhile stays in the input buffer; beyond `INPUT_HIGH_WATER` bytes the socket is not read.

A request has no task and no timer of its own. `Connections.tick` calls `tick` of every connection four times a second,
which compares the time with the deadline of the current phase.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from http import HTTPStatus
from math import inf
from typing import Any, Literal

from gunicorn.http.errors import ParseException

from serving.errors import OverloadedError, ProblemError
from serving.predict.exchange import Response
from serving.predict.load_shedding import (
    LINGER_SECONDS,
    MAX_DISCARDED_BYTES,
    UNCOUNTED_BYTES,
    MemoryReservation,
    body_timeout,
    head_timeout,
    is_readable,
)
from serving.predict.pipeline import body_too_large, internal_error, malformed_framing, problem
from serving.system.addresses import unmap_ipv4
from serving.telemetry.logs import redacted
from serving.worker.dispatcher import Dispatcher
from serving.worker.http11.chunked import ChunkedBody
from serving.worker.http11.input_buffer import MAX_HEAD, InputBuffer
from serving.worker.http11.output_buffer import OutputBuffer
from serving.worker.http11.request_body import Body, LengthBody
from serving.worker.http11.request_head import RequestHead, parse_problem
from serving.worker.http11.response import CONTINUE, render
from serving.worker.wsgi_bridge import SocketAdapter, log_response

INPUT_HIGH_WATER = MAX_HEAD
"""Bytes of pipelined requests that are buffered; beyond it the socket is not read until the response is sent."""
DRAIN_SECONDS = 2.0
"""How long a draining process keeps idle connections, on which a request may be on its way; as gthread does."""

Phase = Literal["head", "body", "response", "linger", "closed"]
"""What a connection is doing:

- "head", "body": it reads that part of a request
- "response": a request is dispatched, and its response is not written yet
- "linger": it is closed for writing, and discards what still arrives
- "closed"

They are strings and no Enum: looking a member up takes several times as long as the comparison, and each request makes
a dozen.
"""


class Connection(asyncio.Protocol):
    """A client's connection. All its methods are called on the event loop."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        number: int,
        on_open: Callable[["Connection"], None],
        on_close: Callable[["Connection"], None],
    ) -> None:
        """Create a connection without a transport, which `connection_made` sets.

        Args:
            dispatcher: gets the requests.
            number: count of earlier connections. It orders connections that become idle in the same millisecond,
                which is the resolution of the loop's clock.
            on_open: called when there is a transport, with TLS after the handshake.
            on_close: called when the transport is lost.
        """
        self._dispatcher, self.number = dispatcher, number
        self._on_open, self._on_close = on_open, on_close
        self._settings = dispatcher.settings

        self._transport: Any = None
        self.client: Any = ""
        self.server: Any = ""
        self._address = ""
        """The client's host, to whose share of the memory its bytes count."""
        self._input, self._output = InputBuffer(dispatcher.parser), OutputBuffer(dispatcher.admission)
        self._reservation = MemoryReservation(dispatcher.admission)
        """Bytes of input, body and current request; the output buffer reserves its own."""

        self.phase: Phase = "head"
        self.deadline = inf
        """When the phase times out, by the loop's clock. The longest idle connection has the earliest deadline."""
        self.half_closed = False
        """Whether the client has closed its sending side (RDHUP). It may still read, or be gone."""
        self._throttled = False
        """Whether no request is read for a moment, because the last one was shed."""
        self._paused = False
        """Whether the transport does not read the socket."""
        self._advancing = False

        self._head: RequestHead | None = None
        self._body: Body | None = None
        """The body that is being read; outside of phase "body" it was rejected, and is read to find its end."""
        self._request_bytes = 0
        """Bytes of the current request that are neither in `_input` nor in `_body`."""
        self._must_close = False
        self._started = 0.0
        self._socket_adapter: SocketAdapter | None = None

    # Callbacks of asyncio

    def connection_made(self, transport: Any) -> None:
        """Start to wait for a request."""
        self._transport = transport
        self.client = unmap_ipv4(transport.get_extra_info("peername") or "")
        self.server = transport.get_extra_info("sockname") or ""
        self._address = self._reservation.client = self.client[0] if isinstance(self.client, tuple) else ""
        self._output.begin(transport, self._address)
        self._set_deadline(self._settings.keepalive_seconds)
        if not self._dispatcher.alive:
            self.drain()
        self._on_open(self)

    def data_received(self, data: bytes) -> None:
        """Buffer what has arrived, and read requests from it."""
        if self.phase in ("linger", "closed"):
            return
        self._input.add(data)
        self._advance()

    def eof_received(self) -> bool:
        """Answer the requests that are whole, then close; True keeps the transport open for writing."""
        self.half_closed = True
        if self.phase == "body":
            self._dispatch(None, malformed_framing())
        elif self.phase == "head" and (self._body is not None or not self._blocked()):
            self.close()  # idle, or in the middle of a head or of a rejected body
        return self.phase in ("response", "head")

    def connection_lost(self, _error: Exception | None) -> None:
        """Release all memory; a response that is still computed is dropped."""
        self.phase = "closed"
        self._release_input()
        self._output.resume()
        if self._socket_adapter is not None:
            self._socket_adapter.connection_lost()
        self._on_close(self)

    def pause_writing(self) -> None:
        """Read no further request until the client has read its responses; count their bytes."""
        try:
            self._output.pause()
        except OverloadedError as error:
            self._dispatcher.metrics.refusal(error.kind)
            self.abort()

    def resume_writing(self) -> None:
        """Go on, as the client has read its responses."""
        self._output.resume()
        if self._socket_adapter is not None:
            self._socket_adapter.resume_writing()
        self._advance()

    # Reading requests

    def _advance(self) -> None:
        """Read requests until more bytes have to arrive, or one waits for its response."""
        if self._advancing:
            return
        self._advancing = True
        while self._step():
            pass
        self._advancing = False
        if (
            len(self._input)
            or self._reservation.size
            or self._body is not None
            or self._throttled
            or self._paused
        ):
            self._apply_backpressure()

    def _step(self) -> bool:
        """Read one head, or feed the body; return whether another step may be possible."""
        if self._body is not None and self.phase in ("head", "body", "response"):
            return len(self._input) > 0 and self._read_body(self._body)
        if self.phase != "head" or self._blocked():
            return False
        if self._read_head():
            return True
        if self.half_closed and self.phase == "head":
            self.close()
        return False

    def _blocked(self) -> bool:
        """Return whether no further request may be read for now."""
        return self._output.full or self._throttled

    def _read_head(self) -> bool:
        """Parse a request head and begin with its body; return whether the head was whole."""
        begun = self._input.begun
        try:
            head = self._input.head(self.client)
        except ParseException as error:
            self._reject_malformed(error)
            return False
        if head is None:
            if self._input.begun and not begun:
                self._set_deadline(self._settings.header_timeout_seconds)
            return False
        self._head = head
        self._begin_body(head)
        return True

    def _begin_body(self, head: RequestHead) -> None:
        """Dispatch the request if its body has arrived with the head; else wait for the body."""
        length, limit = head.length, self._settings.max_body_bytes
        self._must_close = not head.keep_alive
        whole = length is not None and length <= len(self._input) and length <= limit
        if not whole:
            self._body = ChunkedBody(head.original) if length is None else LengthBody(length)
        small = whole and length + head.size <= UNCOUNTED_BYTES  # type: ignore[operator]  # what is whole has a length
        if not small and not self._admit(head, length or 0):
            return
        if head.expects_continue:
            self._output.write(CONTINUE)
        if whole:
            body = self._input.take(length)
            if self._reservation.size:
                self._request_bytes = head.size + len(body)
            self._dispatch(body)
            return
        self.phase = "body"
        self._set_deadline(self._settings.body_timeout_seconds)

    def _admit(self, head: RequestHead, length: int) -> bool:
        """Check token, size and memory before the body is buffered; respond and return False if one fails."""
        body, limit = self._body, self._settings.max_body_bytes
        self._request_bytes = head.size
        try:
            if length > limit:
                raise body_too_large(limit)
            self._dispatcher.admit(head, 0 if body is None else length, self._address)
            self._update_reservation()
        except ProblemError as error:
            if body is None:
                self._input.take(length)
            else:
                # Whether the body comes is unknown, or it is too long to be discarded.
                self._must_close |= head.expects_continue or length > MAX_DISCARDED_BYTES
                body.discard_data()
            self._dispatch(b"", error)
            return False
        return True

    def _read_body(self, body: Body) -> bool:
        """Feed the body what has arrived; return whether another step may be possible."""
        try:
            body.feed(self._input.take())
        except ParseException as error:
            self._dispatcher.log.debug("a request's body could not be read: %s", redacted(error))
            self._body, self._must_close = None, True
            if self.phase == "body":
                self._dispatch(None, malformed_framing())
            elif self.phase == "head":
                self._close_lingering()
            return False
        return self._collect_body(body) if self.phase == "body" else self._skip_body(body)

    def _collect_body(self, body: Body) -> bool:
        """Dispatch the request when its body is whole, or as soon as it is too large."""
        limit = self._settings.max_body_bytes
        try:
            if body.announced > limit:
                raise body_too_large(limit)
            self._update_reservation()
        except ProblemError as error:
            self._must_close |= body.announced > MAX_DISCARDED_BYTES
            body.discard_data()
            self._dispatch(b"", error)
            return True
        if body.done:
            self._input.put(body.rest)
            self._body = None
            self._request_bytes += len(body.data)
            self._dispatch(bytes(body.data))
        return True

    def _skip_body(self, body: Body) -> bool:
        """Discard a rejected body up to its end; close if that is more than `MAX_DISCARDED_BYTES` away."""
        if body.done:
            self._input.put(body.rest)
            self._body = None
            self._set_deadline(self._settings.keepalive_seconds)
        elif body.announced > MAX_DISCARDED_BYTES:
            self._body, self._must_close = None, True
            if self.phase == "head":
                self._close_lingering()
        return True

    # Responding

    def _dispatch(self, body: bytes | None, error: ProblemError | None = None) -> None:
        """Hand the request to the dispatcher, which calls `send_response` or `response_sent`.

        Args:
            body: the whole body; None if it cannot be read.
            error: why the request is rejected; its body is empty then.
        """
        head = self._head
        assert head is not None  # noqa: S101  a body has a head
        self.phase, self.deadline, self._started = "response", inf, time.perf_counter()
        if body is None:
            self._must_close, self._body = True, None
        self._dispatcher.dispatch(self, head, body, self._started, error)

    @property
    def is_closed(self) -> bool:
        """Whether the connection is closed, so that nobody reads a response."""
        return self.phase == "closed"

    def will_close(self) -> bool:
        """Return whether the connection is closed after the response."""
        return self._must_close or not self._dispatcher.alive

    def send_response(self, response: Response) -> None:
        """Write the response to the current request."""
        if self.phase != "response" or self._head is None:
            return  # the client has gone
        close = self.will_close()
        try:
            data = render(response, self._head.version, self._dispatcher.dates.now(), keep_alive=not close)
        except ValueError as error:
            self._dispatcher.log.exception("a response could not be written", exc_info=error)
            response = problem(internal_error())
            data = render(response, self._head.version, self._dispatcher.dates.now(), keep_alive=not close)
        # Only rejections come here with HEAD, which WSGI answers otherwise (RFC 9110, section 9.3.2).
        if self._head.method == "HEAD":
            data = data[: len(data) - len(response.body)]
        self._output.write(data)
        if self._head.original is not None and self._dispatcher.logs_responses:
            elapsed = timedelta(seconds=time.perf_counter() - self._started)
            addresses = self.client, self.server
            log_response(self._dispatcher.worker, self._head.original, addresses, response, elapsed)
        self.response_sent(keep_alive=not close)

    def response_sent(self, *, keep_alive: bool) -> None:
        """Read the next request, or close, now that `send_response` or a thread has written the response."""
        self._socket_adapter = None
        if self.phase != "response":
            return
        self._head = None
        if self._reservation.size:
            self._request_bytes = 0
            self._update_reservation()
        if not keep_alive or self.will_close():
            self._close_lingering()
            return
        self.phase = "head"
        settings = self._settings
        self._set_deadline(
            settings.keepalive_seconds if self._body is None else settings.body_timeout_seconds
        )
        if len(self._input) or self.half_closed or self._paused:
            self._advance()

    def socket_adapter(self) -> SocketAdapter:
        """Return a socket's stand-in, to which a thread writes the response; `response_sent` follows."""
        self._socket_adapter = SocketAdapter(self._write_from_thread)
        return self._socket_adapter

    def _write_from_thread(self, data: bytes) -> None:
        self._dispatcher.loop.call_soon_threadsafe(self._write, data)

    def _write(self, data: bytes) -> None:
        if self.phase == "response":
            self._output.write(data)
            if not self._output.full and self._socket_adapter is not None:
                self._socket_adapter.resume_writing()

    # Rejecting what never became a request

    def _reject_malformed(self, error: ParseException) -> None:
        """Answer a head that the parser rejects, and close."""
        self._dispatcher.log.warning("Invalid request from ip=%s: %s", self._address, redacted(error))
        refusal = parse_problem(error)
        self._reject(refusal, HTTPStatus(refusal.extensions["status"]))

    def _reject(self, error: ProblemError, status: HTTPStatus | None = None) -> None:
        """Write an error response without a request, and close."""
        self._dispatcher.metrics.refusal(error.kind)
        response = problem(error)
        response.status = status or error.status
        self._output.write(render(response, (1, 1), self._dispatcher.dates.now(), keep_alive=False))
        self._close_lingering()

    # Memory and backpressure

    def _update_reservation(self) -> None:
        """Tell admission control how many bytes the connection holds now.

        Raises:
            OverloadedError: there are more than before, and no memory for them; the reservation keeps its last size.
        """
        self._reservation.resize(
            self._input.held + self._request_bytes + (0 if self._body is None else self._body.held)
        )

    def _apply_backpressure(self) -> None:
        """Count the bytes that are held, and pause or resume reading; most requests leave nothing to do."""
        try:
            self._update_reservation()
        except OverloadedError as error:
            self._shed(error)
        pause = self._throttled or (len(self._input) > INPUT_HIGH_WATER and self.phase != "body")
        if pause != self._paused and self.phase in ("head", "body", "response"):
            self._paused = pause
            self._transport.pause_reading() if pause else self._transport.resume_reading()

    def _shed(self, error: OverloadedError) -> None:
        """Discard input for which there is no memory."""
        if self.phase == "response":
            # The pipelined requests get no response: the client finds the connection closed.
            self._must_close, self._body = True, None
            self._input.put(b"")
            self._update_reservation()
        elif self._output.full:
            self.abort()
        elif self.phase == "head" and self._body is None:
            self._reject(error)
        elif self.phase in ("head", "body"):
            self._close_lingering()

    def _release_input(self) -> None:
        """Discard input and body."""
        self._input.put(b"")
        self._body, self._request_bytes = None, 0
        if self._reservation.size:
            self._update_reservation()

    def throttle(self, moment: float) -> None:
        """Read nothing until `moment`, by the loop's clock, because this client's request was shed."""
        self._throttled = True
        self._dispatcher.loop.call_at(moment, self._unthrottle)

    def _unthrottle(self) -> None:
        self._throttled = False
        if self.phase != "closed":
            self._advance()

    # Timeouts

    def tick(self, now: float) -> None:
        """Close the connection if its phase has timed out.

        Args:
            now: the loop's time.
        """
        if self._output.stalled(now) > self._settings.write_timeout_seconds:
            self.abort()
        elif now < self.deadline or self._blocked() or self.phase in ("response", "closed"):
            return
        elif self.phase == "linger":
            self.abort()
        elif self.phase == "body":
            self._dispatch(None, body_timeout(self._settings.body_timeout_seconds))
        elif self._input and self._body is None:
            self._reject(head_timeout(self._settings.header_timeout_seconds))
        else:  # idle: a request may be on its way, and closing at once would reset it
            self._close_lingering()

    def _set_deadline(self, seconds: float) -> None:
        self.deadline = self._dispatcher.loop.time() + seconds

    # Closing, and what `Connections` asks

    def drain(self) -> None:
        """Close in `DRAIN_SECONDS` if no request arrives until then, because the process ends."""
        if self.phase == "head" and self._body is None:
            self.deadline = min(self.deadline, self._dispatcher.loop.time() + DRAIN_SECONDS)

    def _close_lingering(self) -> None:
        """Close for writing, and discard input for `LINGER_SECONDS` (RFC 9112, section 9.6)."""
        self._release_input()
        if self.half_closed or not self._transport.can_write_eof():
            self.close()
            return
        self.phase = "linger"
        self._set_deadline(LINGER_SECONDS)
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        self._transport.write_eof()

    def close(self) -> None:
        """Close when all that was written has been sent."""
        self.phase = "closed"
        self._transport.close()

    def abort(self) -> None:
        """Close at once; what was not sent yet is lost."""
        self.phase = "closed"
        self._transport.abort()

    @property
    def established(self) -> bool:
        """Whether there was a transport: a TLS handshake may fail before."""
        return self._transport is not None

    @property
    def idle(self) -> bool:
        """Whether nothing of a request has arrived, and all responses are sent."""
        return (
            self.phase == "head"
            and self._body is None
            and not len(self._input)
            and not self._blocked()
            and not len(self._output)
        )

    @property
    def readable(self) -> bool:
        """Whether the socket has bytes that are not read yet."""
        return is_readable(self._transport.get_extra_info("socket").fileno())
