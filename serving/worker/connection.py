"""One connection: its requests one after the other, their bodies and answers, and the time each may take.

A connection answers its requests in their order, because it reads the next only when the last is
answered; what a pipelining client has sent meanwhile waits here, and beyond `INPUT_HIGH_WATER` in the
sockets. There is no task and no timer for each request: `tick` of every connection is called a few
times a second and compares the time with the moment at which the current phase has to be over.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from http import HTTPStatus
from math import inf
from typing import Any, Literal

from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]  # it ships no types

from serving.errors import OverloadedError, ProblemError
from serving.predict.exchange import Response
from serving.predict.load_shedding import (
    FREE_BODY,
    LINGER_SECONDS,
    MAX_DISCARDED_BYTES,
    Account,
    is_readable,
    late_body,
    late_head,
)
from serving.predict.pipeline import problem, too_large, unforeseen, unreadable
from serving.system.addresses import unmap_ipv4
from serving.telemetry.logs import redacted
from serving.worker.dispatcher import Dispatcher
from serving.worker.http11.chunked import ChunkedBody
from serving.worker.http11.input_buffer import MAX_HEAD, InputBuffer
from serving.worker.http11.output_buffer import OutputBuffer
from serving.worker.http11.request_body import Body, LengthBody
from serving.worker.http11.request_head import RequestHead, parse_problem
from serving.worker.http11.response import CONTINUE, render
from serving.worker.wsgi_bridge import SocketAdapter

INPUT_HIGH_WATER = MAX_HEAD
"""Bytes of later requests that are kept while one is being answered, beyond which no more are read."""
GRACE_SECONDS = 2.0
"""How long an ending process keeps idle connections, on which a request may be on its way; as gthread does."""

Phase = Literal["head", "body", "answer", "linger", "closed"]
"""What a connection is doing: it waits for a head or a body; it waits for the answer of the request that was read;
it is answered for the last time, and what still comes is thrown away; it is closed. No Enum: to name a member takes
several times as long as the comparison, and they are named a dozen times for each request."""


class Connection(asyncio.Protocol):
    """A client's connection, on the loop."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        number: int,
        on_open: Callable[["Connection"], None],
        on_close: Callable[["Connection"], None],
    ) -> None:
        """Begin; the socket comes with `connection_made`.

        Args:
            dispatcher: what answers requests.
            number: how many connections came before: the loop's clock has milliseconds, in which several become idle.
            on_open: is called when there is a socket, after the TLS handshake if there is one.
            on_close: is called when there is none any more.
        """
        self._dispatcher, self.number = dispatcher, number
        self._on_open, self._on_close = on_open, on_close
        self._settings = dispatcher.settings
        self._transport: Any = None
        self.client: Any = ""
        self.server: Any = ""
        self.phase: Phase = "head"
        self.deadline = inf
        """When the phase has to be over, by the loop's time; of idle connections the longest idle has the earliest."""
        self._input, self._output = InputBuffer(dispatcher.parser), OutputBuffer(dispatcher.admission)
        self._head: RequestHead | None = None
        self._body: Body | None = None
        """On its way; in another phase than "body" it is only read to find its end."""
        self._request_bytes = (
            0  # bytes of the request that is being read or answered, beside those in input and body
        )
        self._account = Account(dispatcher.admission)  # all of them
        self._address = ""  # whose share of the memory it is
        self._must_close = False
        self._started = 0.0
        self.half_closed = False
        """Whether the client has sent all that it will; it may still want to read, or have gone."""
        self._throttled = False
        self._paused = False
        self._advancing = False
        self._socket_adapter: SocketAdapter | None = None

    # What asyncio calls

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self._transport = transport
        self.client = unmap_ipv4(transport.get_extra_info("peername") or "")
        self.server = transport.get_extra_info("sockname") or ""
        self._address = self._account.client = self.client[0] if isinstance(self.client, tuple) else ""
        self._output.begin(transport, self._address)
        self._set_deadline(self._settings.keepalive_seconds)
        if not self._dispatcher.alive:
            self.drain()
        self._on_open(self)

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        if self.phase in ("linger", "closed"):
            return
        self._input.add(data)
        self._advance()

    def eof_received(self) -> bool:
        """Answer what was asked before the client's last byte, then close; True keeps the way back open."""
        self.half_closed = True
        if self.phase == "body":
            self._dispatch(None, unreadable())
        elif self.phase == "head" and (self._body is not None or not self._blocked()):
            self.close()  # idle, or in the middle of something that is not a request yet
        return self.phase in ("answer", "head")

    def connection_lost(self, _error: Exception | None) -> None:
        """Forget all; an answer that is still being made finds nobody."""
        self.phase = "closed"
        self._release_input()
        self._output.resume()
        if self._socket_adapter is not None:
            self._socket_adapter.connection_lost()
        self._on_close(self)

    def pause_writing(self) -> None:
        """Answer nothing more until the client has read; count what it has not."""
        try:
            self._output.pause()
        except OverloadedError as error:
            self._dispatcher.metrics.refusal(error.kind)
            self.abort()

    def resume_writing(self) -> None:
        """Go on."""
        self._output.resume()
        if self._socket_adapter is not None:
            self._socket_adapter.resume_writing()
        self._advance()

    # Time

    def tick(self, now: float) -> None:
        """Close what has taken too long; `now` is the loop's time."""
        if self._output.stalled(now) > self._settings.write_timeout_seconds:
            self.abort()
        elif now < self.deadline or self._blocked() or self.phase in ("answer", "closed"):
            return
        elif self.phase == "linger":
            self.abort()
        elif self.phase == "body":
            self._dispatch(None, late_body(self._settings.body_timeout_seconds))
        elif self._input and self._body is None:
            self._reject(late_head(self._settings.header_timeout_seconds))
        else:  # in good order: a request may be on its way, and a reset would look like a fault
            self._close_lingering()

    def drain(self) -> None:
        """Close if no request arrives in a moment: the process ends."""
        if self.phase == "head" and self._body is None:
            self.deadline = min(self.deadline, self._dispatcher.loop.time() + GRACE_SECONDS)

    @property
    def established(self) -> bool:
        """Whether it has begun; a TLS handshake may fail before."""
        return self._transport is not None

    @property
    def idle(self) -> bool:
        """Whether it waits for a request of which nothing is here, and has nothing to give."""
        return (
            self.phase == "head"
            and self._body is None
            and not len(self._input)
            and not self._blocked()
            and not len(self._output)
        )

    @property
    def is_closed(self) -> bool:
        """Whether nobody reads an answer any more."""
        return self.phase == "closed"

    @property
    def readable(self) -> bool:
        """Whether something waits in the socket that is not read yet."""
        return is_readable(self._transport.get_extra_info("socket").fileno())

    def abort(self) -> None:
        """Close at once, whatever is not written yet."""
        self.phase = "closed"
        self._transport.abort()

    def close(self) -> None:
        """Close when what is written has gone out."""
        self.phase = "closed"
        self._transport.close()

    def _blocked(self) -> bool:
        """Tell whether no further request is read for now."""
        return self._output.full or self._throttled

    def _set_deadline(self, seconds: float) -> None:
        self.deadline = self._dispatcher.loop.time() + seconds

    # Reading

    def _advance(self) -> None:
        """Go on until more has to arrive, or an answer has to be made."""
        if self._advancing:
            return
        self._advancing = True
        while self._step():
            pass
        self._advancing = False
        if (
            len(self._input)
            or self._account.size
            or self._body is not None
            or self._throttled
            or self._paused
        ):
            self._apply_backpressure()

    def _apply_backpressure(self) -> None:
        """Count what is held, and read no more for now if that is enough; there is nothing to do for most requests."""
        try:
            self._update_account()
        except OverloadedError as error:
            self._shed(error)
        pause = self._throttled or (len(self._input) > INPUT_HIGH_WATER and self.phase != "body")
        if pause != self._paused and self.phase in ("head", "body", "answer"):
            self._paused = pause
            self._transport.pause_reading() if pause else self._transport.resume_reading()

    def _step(self) -> bool:
        """Do one thing, and tell whether there may be more to do."""
        if self._body is not None and self.phase in ("head", "body", "answer"):
            return len(self._input) > 0 and self._read_body(self._body)
        if self.phase != "head" or self._blocked():
            return False
        if self._read_head():
            return True
        if self.half_closed and self.phase == "head":
            self.close()
        return False

    def _read_head(self) -> bool:
        """Read the head of a request if it is there; begin with its body."""
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
        length, limit = head.length, self._settings.max_body_bytes
        self._must_close = not head.keep_alive
        whole = length is not None and length <= len(self._input) and length <= limit
        if not whole:
            self._body = ChunkedBody(head.original) if length is None else LengthBody(length)
        small = whole and length + head.size <= FREE_BODY  # type: ignore[operator]  # what is whole has a length
        if not small and not self._admit(head, length or 0):
            return
        if whole:
            body = self._input.take(length)
            if self._account.size:
                self._request_bytes = head.size + len(body)
            if head.expects_continue:
                self._output.write(CONTINUE)
            self._dispatch(body)
            return
        if head.expects_continue:
            self._output.write(CONTINUE)
        self.phase = "body"
        self._set_deadline(self._settings.body_timeout_seconds)

    def _admit(self, head: RequestHead, length: int) -> bool:
        """Refuse a request before its body is kept, where there is a reason; tell whether there was none."""
        body, limit = self._body, self._settings.max_body_bytes
        self._request_bytes = head.size
        try:
            if length > limit:
                raise too_large(limit)
            self._dispatcher.admit(head, 0 if body is None else length, self._address)
            self._update_account()
        except ProblemError as error:
            if body is None:
                self._input.take(length)
            else:
                if head.expects_continue or length > MAX_DISCARDED_BYTES:
                    self._must_close = True  # the body may come or not
                body.discard_data()
            self._dispatch(b"", error)
            return False
        return True

    def _read_body(self, body: Body) -> bool:
        """Feed what has arrived to the body that is on its way."""
        try:
            body.feed(self._input.take())
        except ParseException as error:
            self._dispatcher.log.debug("a request's body could not be read: %s", redacted(error))
            self._body, self._must_close = None, True
            if self.phase == "body":
                self._dispatch(None, unreadable())
            elif self.phase == "head":
                self._close_lingering()
            return False
        return self._collect_body(body) if self.phase == "body" else self._skip_body(body)

    def _collect_body(self, body: Body) -> bool:
        """Dispatch the request when its body is whole, or as soon as it is too large."""
        limit = self._settings.max_body_bytes
        try:
            if body.announced > limit:
                raise too_large(limit)
            self._update_account()
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
        """Go on behind a body that was refused, unless that is too far away."""
        if body.done:
            self._input.put(body.rest)
            self._body = None
            self._set_deadline(self._settings.keepalive_seconds)
        elif body.announced > MAX_DISCARDED_BYTES:
            self._body, self._must_close = None, True
            if self.phase == "head":
                self._close_lingering()
        return True

    # Memory

    def _update_account(self) -> None:
        """Tell the gate what is held of requests now.

        Raises:
            OverloadedError: it is more than before, and more than may be; what was counted before stays so.
        """
        self._account.hold(
            self._input.held + self._request_bytes + (0 if self._body is None else self._body.held)
        )

    def _shed(self, error: OverloadedError) -> None:
        """Let go of input for which there is no memory."""
        if self.phase == "answer":
            # Later requests, which are not answered: the client finds the connection closed.
            self._must_close, self._body = True, None
            self._input.put(b"")
            self._update_account()
        elif self._output.full:
            self.abort()
        elif self.phase == "head" and self._body is None:
            self._reject(error)
        elif self.phase in ("head", "body"):
            self._close_lingering()

    def _release_input(self) -> None:
        """Hold nothing of requests any more."""
        self._input.put(b"")
        self._body, self._request_bytes = None, 0
        if self._account.size:
            self._update_account()

    # Answering

    def _dispatch(self, body: bytes | None, error: ProblemError | None = None) -> None:
        """Have the request answered.

        Args:
            body: whole; None if it is broken.
            error: why the request is refused; its body is empty then.
        """
        head = self._head
        assert head is not None  # noqa: S101  a body has a head
        self.phase, self.deadline, self._started = "answer", inf, time.perf_counter()
        if body is None:
            self._must_close, self._body = True, None
        self._dispatcher.dispatch(self, head, body, self._started, error)

    def socket_adapter(self) -> SocketAdapter:
        """Return what a thread may write the answer to."""
        self._socket_adapter = SocketAdapter(self._write_from_thread)
        return self._socket_adapter

    def will_close(self) -> bool:
        """Tell whether the connection is to be closed after the answer."""
        return self._must_close or not self._dispatcher.alive

    def send_response(self, response: Response) -> None:
        """Write the answer of the request that was read."""
        if self.phase != "answer" or self._head is None:
            return  # the client has gone
        close = self.will_close()
        try:
            data = render(response, self._head.version, self._dispatcher.dates.now(), keep_alive=not close)
        except ValueError as error:
            self._dispatcher.log.exception("an answer could not be written", exc_info=error)
            response = problem(unforeseen())
            data = render(response, self._head.version, self._dispatcher.dates.now(), keep_alive=not close)
        if self._head.method == "HEAD":  # a refusal: WSGI answers all else (RFC 9110, section 9.3.2)
            data = data[: len(data) - len(response.body)]
        self._output.write(data)
        if self._head.original is not None:
            elapsed = timedelta(seconds=time.perf_counter() - self._started)
            self._dispatcher.log_access(self, self._head, response, elapsed)
        self.response_sent(keep_alive=not close)

    def response_sent(self, *, keep_alive: bool) -> None:
        """Go on to the next request, or close: an answer is written, whoever wrote it."""
        self._socket_adapter = None
        if self.phase != "answer":
            return
        self._head = None
        if self._account.size:
            self._request_bytes = 0
            self._update_account()
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

    def throttle(self, moment: float) -> None:
        """Read nothing until then, by the loop's time: this client's last request was refused for overload."""
        self._throttled = True
        self._dispatcher.loop.call_at(moment, self._unthrottle)

    def _unthrottle(self) -> None:
        self._throttled = False
        if self.phase != "closed":
            self._advance()

    def _write_from_thread(self, data: bytes) -> None:
        self._dispatcher.loop.call_soon_threadsafe(self._write, data)

    def _write(self, data: bytes) -> None:
        if self.phase == "answer":
            self._output.write(data)
            if not self._output.full and self._socket_adapter is not None:
                self._socket_adapter.resume_writing()

    def _reject_malformed(self, error: ParseException) -> None:
        """Answer what the parser refuses, and close."""
        self._dispatcher.log.warning("Invalid request from ip=%s: %s", self._address, redacted(error))
        refusal = parse_problem(error)
        self._reject(refusal, HTTPStatus(refusal.extensions["status"]))

    def _reject(self, error: ProblemError, status: HTTPStatus | None = None) -> None:
        """Answer what never became a request, and close."""
        self._dispatcher.metrics.refusal(error.kind)
        response = problem(error)
        response.status = status or error.status
        self._output.write(render(response, (1, 1), self._dispatcher.dates.now(), keep_alive=False))
        self._close_lingering()

    def _close_lingering(self) -> None:
        """Close for writing, and go on reading for a while (RFC 9112, section 9.6)."""
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
