"""A gRPC client's connection: its HTTP/2 is h2's, and what it may hold, how long and until when is decided here.

The methods stand in the order in which a call passes them: frames arrive (`data_received`), a stream begins (`_begin`),
its message is read (`_read`), the call is dispatched (`_dispatch`) and answered (`respond`).

To end a connection without losing a call, the client is told twice by which stream it ends (RFC 9113, section 6.8):
first that the service is about to end it, with a ping; when the ping is answered, no stream can be on its way that was
begun before the client knew, and the last stream is named. gRPC's clients begin later calls elsewhere.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from math import inf
from typing import Any, ClassVar

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from serving.errors import MethodNotAllowedError, NotReadyError, OverloadedError, ProblemError
from serving.predict.load_shedding import (
    LINGER_SECONDS,
    UNCOUNTED_BYTES,
    MemoryReservation,
    body_timeout,
    is_readable,
)
from serving.predict.pipeline import internal_error, request_id
from serving.system.addresses import unmap_ipv4
from serving.telemetry.metrics import OTHER
from serving.telemetry.request_record import RequestRecord
from serving.worker.dispatcher import Dispatcher
from serving.worker.http11.input_buffer import MAX_HEAD
from serving.worker.http11.output_buffer import OutputBuffer
from serving.worker.rpc import inference, methods
from serving.worker.rpc.call import HEAD, Call
from serving.worker.rpc.messages import parsed

STREAMS = 100
"""Calls at a time; the least that RFC 9113, section 6.5.2, recommends."""
STREAM_WINDOW = 256 << 10
"""Bytes of one message that may be on their way."""
CONNECTION_WINDOW = 1 << 20
"""The same of all calls of a connection."""
LAST_STREAM = (1 << 31) - 1
PING = b"draining"

_CONFIGURATION = H2Configuration(
    client_side=False,
    header_encoding="latin-1",  # which takes every byte
    # What is sent is as it must be, and of what is received the fields that count are checked: nothing is passed on.
    normalize_inbound_headers=False,
    normalize_outbound_headers=False,
    validate_inbound_headers=False,
    validate_outbound_headers=False,
)


class Http2(H2Connection):
    """The frames of one connection, with less memory of the streams that are closed: a client makes many."""

    MAX_CLOSED_STREAMS = 4 * STREAMS


class RpcConnection(asyncio.Protocol):
    """A gRPC client's connection. All its methods are called on the event loop."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        number: int,
        on_open: Callable[["RpcConnection"], None],
        on_close: Callable[["RpcConnection"], None],
    ) -> None:
        """Create a connection without a transport; the arguments are those of `serving.worker.connection`."""
        self._dispatcher, self.number = dispatcher, number
        self._on_open, self._on_close = on_open, on_close
        self._settings = dispatcher.settings
        self._transport: Any = None
        self.client: Any = ""
        self._address = ""
        self._reservation = MemoryReservation(dispatcher.admission)
        self._output = OutputBuffer(dispatcher.admission)
        self._h2 = Http2(_CONFIGURATION)
        self._calls: dict[int, Call] = {}  # by stream
        self._last_stream = self._held = 0  # bytes, of what arrived and of what is to be sent
        self._greeted = False  # whether the client has said that it speaks HTTP/2
        self._goaways = 0  # how many of two
        self._throttled = self._paused = False
        self._lingering = False
        self.is_closed = False
        self.half_closed = False
        """Whether the client has closed its sending side. It may still read, or be gone."""
        self.deadline = inf
        """When the connection has been idle for too long, by the loop's clock."""

    # Callbacks of asyncio

    def connection_made(self, transport: Any) -> None:
        """Send the service's settings, and wait for the client's."""
        self._transport = transport
        self.client = unmap_ipv4(transport.get_extra_info("peername") or "")
        self._address = self._reservation.client = self.client[0] if isinstance(self.client, tuple) else ""
        self._output.begin(transport, self._address)
        self._h2.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS,
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEAD,
            },
        )
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW - self._h2.inbound_flow_control_window)
        self._set_deadline(self._settings.header_timeout_seconds)
        self._on_open(self)
        if self._dispatcher.alive:
            self._flush()
        else:
            self.drain()

    def data_received(self, data: bytes) -> None:
        """Take the frames that have arrived."""
        if self._lingering or self.is_closed:
            return
        try:
            arrived = self._h2.receive_data(data)
        except ProtocolError as error:
            self._dispatcher.log.debug("a gRPC connection broke the protocol: %s", error)
            self._dispatcher.metrics.refusal("malformed-request")
            self._flush()  # h2 has put the reason there (GOAWAY)
            self._transport.close()
            return
        for event in arrived:
            self._take(event)
            if self.is_closed:
                return
        self._flush()

    def eof_received(self) -> bool:
        """Answer the calls that are whole; True keeps the transport open for writing."""
        self.half_closed = True
        for call in [*self._calls.values()]:
            call.half_closed = True
            if not call.whole or call.watched is not None:
                self._end(call, ErrorCodes.CANCEL)
        return bool(self._calls)

    def connection_lost(self, _error: Exception | None) -> None:
        """Release all memory; responses that are still computed are dropped."""
        self.is_closed = True
        for call in self._calls.values():
            call.closed = True
        self._calls.clear()
        self._reservation.resize(0)
        self._output.resume()
        self._on_close(self)

    def pause_writing(self) -> None:
        """Read and write nothing further until the client has read what there is; count its bytes."""
        try:
            self._output.pause()
        except OverloadedError as error:
            self._dispatcher.metrics.refusal(error.kind)
            self.abort()
        else:
            self._update_reading()

    def resume_writing(self) -> None:
        """Go on, as the client has read."""
        self._output.resume()
        if not self.is_closed:
            self._send_all()
            self._update_reading()

    # Frames

    def _take(self, event: events.Event) -> None:
        """Take one event of HTTP/2. What asks for no action, as a ping that h2 answers, does nothing here."""
        handler = self._HANDLERS.get(type(event))
        if handler is not None:
            handler(self, event)

    def _stream_ended(self, event: events.StreamEnded) -> None:
        if (call := self._calls.get(event.stream_id)) is not None:
            call.whole = True
            if not call.dispatched:
                self._dispatch(call)

    def _stream_reset(self, event: events.StreamReset) -> None:
        if (call := self._calls.get(event.stream_id)) is not None:
            self._end(call)

    def _window_updated(self, _event: events.WindowUpdated) -> None:
        self._send_all()

    def _settings_changed(self, _event: events.RemoteSettingsChanged) -> None:
        """Wait for a call, now that the client speaks HTTP/2; or send more, as its windows may be wider."""
        if not self._greeted:
            self._greeted = True
            if not self._goaways:
                self._set_deadline(self._settings.keepalive_seconds)
        self._send_all()

    def _ping_answered(self, event: events.PingAckReceived) -> None:
        if event.ping_data == PING:
            self._name_last_stream()

    def _terminated(self, _event: events.ConnectionTerminated) -> None:
        self.close()  # h2 sends nothing after it

    # Requests

    def _begin(self, event: events.RequestReceived) -> None:
        """Begin a call, unless its token or its head is wrong, or it comes too late."""
        stream: int = event.stream_id
        if self._goaways > 1:
            self._h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)  # the client tries another connection
            return
        fields: Any = event.headers
        call = Call(self, stream, fields, self._settings.max_body_bytes)
        self._calls[stream], self._last_stream = call, stream
        if not self._goaways:
            self.deadline = inf
        call.deadline = self._dispatcher.loop.time() + self._settings.body_timeout_seconds
        try:
            if call.method != "POST" or not call.headers.get("content-type", "").startswith(inference.GRPC):
                raise MethodNotAllowedError("this port speaks gRPC", remedy="Ask over HTTP on GLYPH_PORT.")
            self._authenticate(call)
        except ProblemError as error:
            self._dispatch(call, error)

    def _authenticate(self, call: Call) -> None:
        """Check the token of a call before its message is read; a method is public where it is over REST."""
        method = methods.METHODS.get(call.path)
        twin = "/readyz" if call.path == methods.WATCH else call.path if method is None else method.twin
        self._dispatcher.pipeline.authenticator.check_path("GET", twin, call.headers.get("authorization"))

    def _read(self, event: events.DataReceived) -> None:
        """Take some of a call's message, within the memory for requests."""
        stream, length = event.stream_id, event.flow_controlled_length
        if length:
            self._h2.acknowledge_received_data(length, stream)
        call = self._calls.get(stream)
        if call is None or call.dispatched:
            return
        try:
            known = call.length is not None
            call.receive(event.data or b"")
            if not known and call.length is not None and call.length > UNCOUNTED_BYTES:
                self._dispatcher.admission.check(call.length - len(call.body), self._address)
            self._reserve(call)
        except ProblemError as error:
            call.body = bytearray()
            self._dispatch(call, error)

    def _dispatch(self, call: Call, error: ProblemError | None = None) -> None:
        """Hand a call to the dispatcher, or answer it here if it asks for no prediction."""
        call.dispatched, call.deadline = True, inf
        self._dispatcher.count_request()
        arrived, request = time.perf_counter(), call.empty(self._address)
        try:
            if error is None:
                request = call.request(self._address)
        except ProblemError as malformed:
            error = malformed
        if call.path == inference.PATH:
            exchange = self._dispatcher.pipeline.open(request, arrived, inference.TARGET)
            self._dispatcher.enqueue(call, exchange, error)
        elif call.path == methods.WATCH and error is None:
            self._watch(call, request.body)
        else:
            self._answer(call, request.body, arrived, error)

    def _answer(self, call: Call, body: bytes, arrived: float, error: ProblemError | None) -> None:
        """Answer a method that makes no prediction, and record it."""
        pipeline, method = self._dispatcher.pipeline, methods.METHODS.get(call.path)
        known = method is not None or call.path == methods.WATCH
        record = RequestRecord(
            id=request_id(call.headers),
            method=call.method,
            path=call.path,
            route=call.path if known else OTHER,
            client=self._address,
            trace=pipeline.request_log.context(call.headers),
        )
        answer = b""
        try:
            if error is not None:
                raise error
            if method is None:
                raise call.no_method()
            record.holder = pipeline.authenticator.check_path(
                "GET", method.twin, call.headers.get("authorization")
            )
            answer = method.answer(pipeline.store, parsed(method.request, body)).SerializeToString()
        except ProblemError as problem:
            error = problem
        except Exception as failure:
            self._dispatcher.log.exception("%s failed", call.path)
            error = internal_error(failure)
        record.status, record.refusal = (200, "") if error is None else (int(error.status), error.kind)
        record.seconds = time.perf_counter() - arrived
        pipeline.store.metrics.request(record)
        fields = {"x-request-id": record.id}
        if (span := pipeline.request_log.end(record)) is not None:
            fields["traceresponse"] = span
        if error is None:
            call.send_answer(answer, **fields)
        else:
            call.send_problem(error, **fields)

    def _watch(self, call: Call, body: bytes) -> None:
        """Begin to tell the health of a service."""
        try:
            call.watched = parsed(methods.HealthRequest, body).service
        except ProblemError as error:
            call.send_problem(error)
        else:
            self._tell_health(call)

    def _tell_health(self, call: Call) -> None:
        """Send the health of a watched service, if it has changed."""
        found = methods.health(self._dispatcher.pipeline.store, call.watched or "")
        if found != call.health:
            call.health = found
            call.send_message(methods.HealthResponse(status=found).SerializeToString())
            self.respond(call)

    _HANDLERS: ClassVar[Mapping[type[events.Event], Callable[["RpcConnection", Any], None]]] = {
        events.RequestReceived: _begin,
        events.DataReceived: _read,
        events.StreamEnded: _stream_ended,
        events.StreamReset: _stream_reset,
        events.WindowUpdated: _window_updated,
        events.RemoteSettingsChanged: _settings_changed,
        events.PingAckReceived: _ping_answered,
        events.ConnectionTerminated: _terminated,
    }

    # Responses

    def respond(self, call: Call) -> None:
        """Write what a call has to send, as far as the client's windows let it; the rest when they are wider."""
        if call.is_closed:
            return
        call.body = bytearray()
        self._send(call)
        if not call.closed:
            try:
                self._reserve(call)
            except OverloadedError as error:
                self._dispatcher.metrics.refusal(error.kind)
                self._end(call, ErrorCodes.ENHANCE_YOUR_CALM)
        self._flush()

    def _send_all(self) -> None:
        for call in [*self._calls.values()]:
            if call.output or call.trailers is not None:
                self._send(call)
        self._flush()

    def _send(self, call: Call) -> None:
        """Make frames of a call's output, and end the call after its trailers."""
        if self._output.full or call.closed:
            return
        sending, h2, stream = call.output, self._h2, call.stream
        try:
            if not call.begun and not (sending or call.trailers is None):
                self._end_stream(call, [*HEAD, *(call.trailers or ())])
                return
            if not call.begun:
                h2.send_headers(stream, HEAD)
                call.begun = True
            while sending:
                size = min(len(sending), h2.local_flow_control_window(stream), h2.max_outbound_frame_size)
                if size <= 0:
                    break
                h2.send_data(stream, sending[:size])
                sending = sending[size:]
            if sending and (len(sending) != len(call.output) or call.deadline == inf):
                call.deadline = self._dispatcher.loop.time() + self._settings.write_timeout_seconds
            call.output = sending
            if not sending and call.trailers is not None:
                self._end_stream(call, call.trailers)
        except ProtocolError:  # the stream was reset by what arrived together with it
            self._end(call)

    def _end_stream(self, call: Call, fields: list[tuple[str, str]]) -> None:
        """End a call after its answer; a client that is still sending its message is told to stop."""
        self._h2.send_headers(call.stream, fields, end_stream=True)
        self._end(call, None if call.whole else ErrorCodes.NO_ERROR)

    def _end(self, call: Call, reset: ErrorCodes | None = None) -> None:
        """Forget a call.

        Args:
            call: the call, which is forgotten once.
            reset: what to reset its stream with; None if both sides have ended it.
        """
        call.closed = True
        if self._calls.pop(call.stream, None) is None:
            return
        if reset is not None:
            with contextlib.suppress(ProtocolError):  # the client has reset it
                self._h2.reset_stream(call.stream, reset)
        self._held -= call.held
        self._reservation.resize(self._held)
        if not self._calls:
            if self.half_closed:
                self._flush()
                self._transport.close()
            elif not self._goaways:
                self._set_deadline(self._settings.keepalive_seconds)
        self._close_if_drained()

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and not self.is_closed:
            self._output.write(data)

    # Memory and backpressure

    def _reserve(self, call: Call) -> None:
        """Count the bytes of a call's message, and of its response if that cannot be sent yet.

        Raises:
            OverloadedError: there is no memory for them.
        """
        holds = len(call.body) + len(call.output)
        self._held += holds - call.held
        call.held = holds
        self._reservation.resize(self._held)

    def throttle(self, moment: float) -> None:
        """Read nothing until `moment`, by the loop's clock, because a call was shed."""
        if not self._throttled:
            self._throttled = True
            self._dispatcher.loop.call_at(moment, self._unthrottle)
            self._update_reading()

    def _unthrottle(self) -> None:
        self._throttled = False
        if not self.is_closed:
            self._update_reading()

    def _update_reading(self) -> None:
        """Pause reading while the client is throttled or does not read, so that its frames pile up elsewhere."""
        pause = self._throttled or self._output.full
        if pause != self._paused:
            self._paused = pause
            self._transport.pause_reading() if pause else self._transport.resume_reading()

    # Timeouts

    def tick(self, now: float) -> None:
        """End what has timed out, and tell watchers of a change.

        Args:
            now: the loop's time.
        """
        if self._output.stalled(now) > self._settings.write_timeout_seconds:
            self.abort()
            return
        for call in [*self._calls.values()]:
            if now >= call.deadline:
                if call.dispatched:  # the client opens no window for the response
                    self._end(call, ErrorCodes.CANCEL)
                else:
                    self._dispatch(call, body_timeout(self._settings.body_timeout_seconds))
            elif call.watched is not None:
                self._tell_health(call)
        if now >= self.deadline:
            if self._lingering or not self._greeted:
                self.abort()
            elif self._goaways:
                self._name_last_stream()
            else:
                self.drain()
        self._flush()

    def _set_deadline(self, seconds: float) -> None:
        self.deadline = self._dispatcher.loop.time() + seconds

    # Closing, and what `Connections` asks

    def drain(self) -> None:
        """Tell the client that the connection is about to end, and end it when no call is on its way."""
        if self._goaways or self.is_closed:
            return
        self._goaways = 1
        for call in [*self._calls.values()]:
            if call.watched is not None:
                self._tell_health(call)
        self._goaway(LAST_STREAM)
        self._h2.ping(PING)
        self._flush()
        # A starved client may have sent calls before it read this; half of the time is left for their answers.
        self._set_deadline(self._settings.graceful_timeout_seconds / 2)

    def _name_last_stream(self) -> None:
        """Tell the client which stream is the last."""
        if self._goaways == 1:
            self._goaways = 2
            self.deadline = inf
            self._goaway(self._last_stream)
        self._close_if_drained()

    def _goaway(self, last: int) -> None:
        """Send a GOAWAY frame, after which h2, if it knew of it, would send nothing more."""
        self._flush()
        self._output.write(GoAwayFrame(stream_id=0, last_stream_id=last, error_code=0).serialize())

    def _close_if_drained(self) -> None:
        """Close for writing when all calls are answered but those that watch, and discard what still arrives."""
        if self._goaways < 2 or self._lingering:
            return
        if any(call.watched is None for call in self._calls.values()):
            return
        self._lingering = True
        for call in [*self._calls.values()]:
            call.send_problem(
                NotReadyError("the service is ending", remedy="Watch again: another one may answer.")
            )
        self._flush()
        if self.half_closed or not self._transport.can_write_eof():
            self._transport.close()
            return
        self._set_deadline(LINGER_SECONDS)
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        self._transport.write_eof()

    def close(self) -> None:
        """Close when all that was written has been sent; the client is told that it may try another connection."""
        if not self._transport.is_closing():
            self._goaway(self._last_stream)
            self._transport.close()

    def abort(self) -> None:
        """Close at once; what was not sent yet is lost."""
        self.is_closed = True
        self._transport.abort()

    @property
    def established(self) -> bool:
        """Whether there was a transport: a TLS handshake may fail before."""
        return self._transport is not None

    @property
    def idle(self) -> bool:
        """Whether no call is open, and all responses are sent."""
        return not self._calls and not self._goaways and not len(self._output) and not self.is_closed

    @property
    def readable(self) -> bool:
        """Whether the socket has bytes that are not read yet."""
        return is_readable(self._transport.get_extra_info("socket").fileno())
