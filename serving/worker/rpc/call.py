"""One call: a stream of an HTTP/2 connection, from its head and its message to the response.

Source: grpc/grpc, doc/PROTOCOL-HTTP2.md. A message stands behind a prefix of five bytes: whether it is compressed, and
its length. A unary request has one.
"""

import re
import struct
import time
from collections.abc import Iterable
from http import HTTPStatus
from math import ceil, inf
from typing import Any, Protocol

import orjson

from serving.errors import (
    BadTimeoutError,
    DeadlineExceededError,
    MalformedBodyError,
    MethodNotAllowedError,
    ProblemError,
)
from serving.predict.exchange import Request, Response, combine_fields
from serving.predict.load_shedding import TIMEOUT_FIELD
from serving.predict.pipeline import body_too_large
from serving.worker.rpc.status import OK, error_fields

PREFIX = struct.Struct(">BI")
HEAD = (
    (":status", "200"),
    ("content-type", "application/grpc"),
    ("grpc-accept-encoding", "identity,deflate,gzip"),
)
"""The head of every response; the status of the call comes in the trailers."""

_KEPT = ("X-Request-ID", "Server-Timing", "traceresponse", "WWW-Authenticate")
"""Fields of a response over REST that are trailing metadata here."""
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)
_MILLISECONDS = {"H": 3.6e6, "M": 6e4, "S": 1e3, "m": 1.0, "u": 1e-3, "n": 1e-6}


class Carrier(Protocol):
    """What a call uses of its connection."""

    @property
    def is_closed(self) -> bool:
        """Whether nobody reads a response."""
        ...

    def respond(self, call: "Call") -> None:
        """Write what the call has to send."""
        ...

    def throttle(self, moment: float) -> None:
        """Read nothing until `moment`, by the loop's clock."""
        ...


class Call:
    """A call and its state. It is what asks for a prediction, as far as the dispatcher knows."""

    def __init__(self, carrier: Carrier, stream: int, fields: Iterable[tuple[str, str]], limit: int) -> None:
        """Begin with the head.

        Args:
            carrier: the connection.
            stream: number of the stream.
            fields: of the head, with the pseudo-fields.
            limit: the longest message that may arrive.
        """
        self._carrier = carrier
        self._limit = limit
        self._arrived = time.perf_counter()
        self.length: int | None = None
        """Bytes of the message, once its prefix has arrived."""
        self.stream = stream
        self.headers = combine_fields(fields)
        self.method, self.path = self.headers.pop(":method", ""), self.headers.pop(":path", "")
        self.body = bytearray()
        """What has arrived of the message, with its prefix."""
        self.deadline = inf
        """When the message must have arrived, then when the client must have read of the answer; the loop's clock."""
        self.whole = False
        """Whether the client has sent all of it."""
        self.dispatched = False
        """Whether it is being answered, so that no more of it is read."""
        self.closed = False
        """Whether the stream is closed."""
        self.begun = False
        """Whether the head of the response is sent."""
        self.output: memoryview = memoryview(b"")
        """What is still to be sent of messages."""
        self.trailers: list[tuple[str, str]] | None = None
        """What ends the stream; None while the call is not answered."""
        self.held = 0
        """Bytes that the connection counts for it."""
        self.half_closed = False
        """Whether the client has closed its sending side of the connection."""
        self.watched: str | None = None
        """The service whose health is watched."""
        self.health: Any = None
        """What was last said of it."""

    # The request

    def receive(self, data: bytes) -> None:
        """Take some of the message.

        Raises:
            ProblemError: the message is too long, or is followed by another one.
        """
        self.body += data
        if self.length is None and len(self.body) >= PREFIX.size:
            _, self.length = PREFIX.unpack_from(self.body)
            if self.length > self._limit:
                raise body_too_large(self._limit)
        if self.length is not None and len(self.body) > PREFIX.size + self.length:
            raise MalformedBodyError(
                "more than one message has arrived",
                remedy="Send one message in each call: no method takes more.",
            )

    def request(self, client: str) -> Request:
        """Return the call as a request of the pipeline, with the coding and the timeout as HTTP has them.

        Raises:
            ProblemError: there is no whole message, or the timeout is malformed or over.
        """
        if self.length is None or len(self.body) < PREFIX.size + self.length:
            raise MalformedBodyError(
                "the call ended before its message",
                remedy="Send the message behind its prefix of five bytes, as gRPC's libraries do.",
            )
        coding = self.headers.pop("grpc-encoding", "")
        if self.body[0]:
            self.headers["content-encoding"] = coding or "none"
        else:
            self.headers.pop("content-encoding", None)
        timeout = self.headers.get("grpc-timeout")
        if timeout is not None:
            self.headers[TIMEOUT_FIELD] = self._milliseconds(timeout)
        return self.empty(client, bytes(self.body[PREFIX.size :]))

    def empty(self, client: str, body: bytes = b"") -> Request:
        """Return the call as a request without its message."""
        return Request(method=self.method, path=self.path, headers=self.headers, body=body, client=client)

    def _milliseconds(self, timeout: str) -> str:
        """Return what is left of the client's timeout, which counts from the head.

        Raises:
            BadTimeoutError: it is no time.
            DeadlineExceededError: nothing is left.
        """
        found = _TIMEOUT.fullmatch(timeout)
        if found is None:
            raise BadTimeoutError(
                f"grpc-timeout is {timeout[:40]!r}, which is no time",
                remedy="Send up to 8 digits and a unit, as gRPC's libraries do, or omit the field.",
            )
        left = int(found[1]) * _MILLISECONDS[found[2]] - 1000 * (time.perf_counter() - self._arrived)
        if left <= 0:
            raise DeadlineExceededError
        return str(ceil(left))

    def no_method(self) -> MethodNotAllowedError:
        """Return the error for a path that is no method; its status becomes UNIMPLEMENTED, as gRPC wants it."""
        return MethodNotAllowedError(
            f"there is no method {self.path[:100]}",
            remedy="The methods are those of serving/worker/rpc/open_inference.proto, and grpc.health.v1.Health's.",
        )

    # The response, of which the dispatcher calls the methods

    @property
    def is_closed(self) -> bool:
        """Whether nobody reads a response."""
        return self.closed or self._carrier.is_closed

    def throttle(self, moment: float) -> None:
        """Read nothing of the connection until `moment`, by the loop's clock."""
        self._carrier.throttle(moment)

    def send_response(self, response: Response) -> None:
        """Send the response to a prediction."""
        self.dispatched = True
        kept = [(name.lower(), response.headers[name]) for name in _KEPT if name in response.headers]
        if response.status == HTTPStatus.OK:
            self.send_message(response.body)
            self.trailers = [("grpc-status", str(OK)), *kept]
        else:
            message = orjson.loads(response.body)["error"] if response.body else ""
            self.trailers = error_fields(response.status, message, response.headers.get("Retry-After")) + kept
        self._carrier.respond(self)

    def send_answer(self, message: bytes, **fields: str) -> None:
        """Send the only message of another method, and end."""
        self.dispatched = True
        self.send_message(message)
        self.trailers = [("grpc-status", str(OK)), *fields.items()]
        self._carrier.respond(self)

    def send_problem(self, error: ProblemError, **fields: str) -> None:
        """End with an error."""
        self.dispatched = True
        named = {name.lower(): value for name, value in error.headers.items() if name in _KEPT} | fields
        stop = "" if error.detail.endswith("?") else "."
        message = f"{error.detail}{stop} {error.remedy}"
        self.trailers = error_fields(error.status, message, error.headers.get("Retry-After"))
        self.trailers += named.items()
        self._carrier.respond(self)

    def send_message(self, message: bytes) -> None:
        """Put a message behind what is still to be sent."""
        self.output = memoryview(bytes(self.output) + PREFIX.pack(0, len(message)) + message)
