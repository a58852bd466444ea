"""Parses request heads: on a fast path those that can be read in one way only, all others by Gunicorn's parser.

The fast-path parser reads what `FAST_PATH_HEAD` matches: a POST in origin form of HTTP/1.1, without a repeated field,
a transfer coding or an expectation. That expression is RFC 9112's grammar without anything ambiguous, so a match can be
split at its line ends and colons, and Gunicorn's parser would read the same. Gunicorn's parser accepts or rejects every
other head as it does for other worker classes, with the same messages.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import (
    ExpectationFailed,
    InvalidHeader,
    InvalidRequestLine,
    InvalidRequestMethod,
    LimitRequestHeaders,
    LimitRequestLine,
    NoMoreData,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.http.message import Request as GunicornRequest
from gunicorn.http.unreader import IterUnreader

from serving.errors import MalformedRequestError
from serving.predict.exchange import HOST, Target, combine_fields
from serving.predict.pipeline import target_of

FAST_BYTES = 4000
"""Most bytes of a head on the fast path; a head of this size is within each of Gunicorn's limits."""
FAST_FIELDS = 32
"""Most fields of a head on the fast path."""
MAX_FAST_LENGTH_DIGITS = 15

FAST_PATH_HEAD = re.compile(
    rb"POST (/[!\"$-.0-\[\]-~][!\"$-\[\]-~]*) HTTP/1\.1\r\n"  # no second slash, no fragment, no backslash
    rb"(?:[!#$%&'*+\-.^`|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n){1,32}"  # no underscore, no folding, no bare LF
    rb"\r\n"
)
"""Heads that can be read in one way only (RFC 9112, sections 2 to 5)."""

FULL_PARSER_FIELDS = frozenset(("transfer-encoding", "expect", "upgrade"))
"""Fields that change how a message is read, and need Gunicorn's parser."""
TRANSFER_CODINGS = re.compile(r"[!#$%&'*+\-.^`|~0-9A-Za-z]+(?:[ \t]*,[ \t]*[!#$%&'*+\-.^`|~0-9A-Za-z]+)*")
"""A list of transfer codings without empty members and without parameters, which no registered coding has."""
LENGTH_BITS = 64
"""Most bits of a length or a chunk's size, beyond which servers count differently (RFC 9110, section 8.6)."""
MAX_METHOD = 20
"""Most bytes of a method; Gunicorn's limit."""
STATUSES = {
    LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
}
"""Status codes by the parser's exception; all others are 400."""
FORWARDED_SCHEME_FIELDS = frozenset(("x-forwarded-proto", "x-forwarded-protocol", "x-forwarded-ssl"))
"""Fields by which a proxy says whether its client uses TLS."""


@dataclass(slots=True)
class RequestHead:
    """A parsed request head. Nobody changes it; it is not frozen for the reason that `exchange.Request` is not."""

    method: str
    path: str
    """Percent-decoded, without the query."""
    query: str
    headers: Mapping[str, str]
    """By name in lower case; values of a repeated field are joined by a comma and a space."""
    version: tuple[int, int]
    length: int | None
    """Bytes of the body; None if it is chunked."""
    keep_alive: bool
    expects_continue: bool = False
    target: Target | None = None
    """What a prediction route names; None for requests of the Flask application."""
    original: Any = None
    """Gunicorn's request; None on the fast path."""
    size: int = 0
    """Bytes of the head."""


def asks_to_close(headers: Mapping[str, str]) -> bool:
    """Return whether the field Connection, a list, has the option close (RFC 9112, section 9.6)."""
    return "close" in [option.strip(" \t").lower() for option in headers.get("connection", "").split(",")]


def has_hooks(configuration: Any) -> bool:
    """Return whether Gunicorn's configuration has hooks that see requests."""
    hooks = [configuration.settings[name] for name in ("pre_request", "post_request")]
    return any(hook.get() is not hook.default for hook in hooks)


def fast_path_suffices(worker: Any) -> bool:
    """Return whether `read_fast` may be used: nothing needs Gunicorn's request, or has stricter limits."""
    configuration = worker.cfg
    return (
        "SCRIPT_NAME" not in os.environ
        and not has_hooks(configuration)
        and not worker.log.access_log_enabled
        and configuration.limit_request_line >= FAST_BYTES
        and configuration.limit_request_field_size >= FAST_BYTES
        and configuration.limit_request_fields >= FAST_FIELDS
    )


@lru_cache(maxsize=512)
def read_fast(head: bytes) -> RequestHead | None:
    """Parse a head on the fast path; return None if it needs Gunicorn's parser.

    A client sends the same head again and again, except for the length of its body, so the results are cached: at most
    512, of heads of at most `FAST_BYTES`.

    Args:
        head: the whole head, with the empty line that ends it.
    """
    if len(head) > FAST_BYTES or (match := FAST_PATH_HEAD.fullmatch(head)) is None:
        return None
    headers: dict[str, str] = {}
    lines = head.decode("latin-1").split("\r\n")
    for line in lines[1:-2]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip(" \t")
    if len(headers) != len(lines) - 3 or not FULL_PARSER_FIELDS.isdisjoint(headers):
        return None
    if not HOST.fullmatch(headers.get("host", "@")):
        return None
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()) or len(length) > MAX_FAST_LENGTH_DIGITS:
        return None
    if not FORWARDED_SCHEME_FIELDS.isdisjoint(headers) and len(FORWARDED_SCHEME_FIELDS & headers.keys()) > 1:
        return None  # two of them may contradict each other
    path, _, query = match[1].decode("ascii").partition("?")
    path = unquote(path) if "%" in path else path
    return RequestHead(
        method="POST",
        path=path,
        query=query,
        headers=headers,
        version=(1, 1),
        length=int(length),
        keep_alive=not asks_to_close(headers),
        target=target_of("POST", path),
        size=len(head),
    )


def over_limit(line: bytes, limit: int) -> ParseException:
    """Return the exception for a request line beyond the limit: its method is too long, or else its target."""
    if b" " not in line[: MAX_METHOD + 1]:
        return InvalidRequestMethod(line[: MAX_METHOD + 1].decode("latin-1"))
    return LimitRequestLine(len(line), limit)


def read_full(
    pieces: list[bytes], configuration: Any, peer: Any, predict_route: str | None = None
) -> RequestHead | None:
    """Parse a head with Gunicorn's parser; return None if it is not whole.

    Args:
        pieces: the head as it arrived. Gunicorn checks some of its limits only between two pieces.
        configuration: Gunicorn's configuration.
        peer: the client's address, as the socket has it.
        predict_route: as for `target_of`.

    Raises:
        ParseException: Gunicorn or `_check_request` rejects the head.
    """
    try:
        request = GunicornRequest(configuration, IterUnreader(pieces), peer)
    except (NoMoreData, StopIteration):
        return None
    except LimitRequestLine as error:
        line = b"".join(pieces).removeprefix(b"\r\n").partition(b"\r\n")[0]
        raise over_limit(line, error.max_size) from error
    except UnsupportedTransferCoding as error:
        if not TRANSFER_CODINGS.fullmatch(error.hdr):
            raise InvalidHeader("TRANSFER-ENCODING") from error
        raise
    headers = combine_fields(request.headers)
    _check_request(request, headers)
    request.version = min(request.version, (1, 1))  # the response has no higher one (RFC 9110, section 2.5)
    if asks_to_close(headers):
        request.force_close()  # Gunicorn reads only the first field, and not as a list
    reader, path = request.body.reader, unquote(request.path)
    mounted = "script_name" in headers or "SCRIPT_NAME" in os.environ  # then Flask resolves the path
    return RequestHead(
        method=request.method,
        path=path,
        query=request.query,
        headers=headers,
        version=request.version,
        length=None if isinstance(reader, ChunkedReader) else reader.length,
        keep_alive=not request.should_close(),
        target=None if mounted else target_of(request.method, path, predict_route),
        expects_continue=request._expected_100_continue,  # noqa: SLF001  nothing public tells
        original=request,
        size=sum(map(len, pieces)),
    )


@dataclass(frozen=True, slots=True)
class Parser:
    """Parses request heads with the configuration of one process."""

    configuration: Any
    """Gunicorn's configuration."""
    fast: bool
    """Whether `read_fast` is tried first, as `fast_path_suffices` decides."""
    predict_route: str | None = None
    """As for `target_of`."""

    def read(self, head: bytes, client: Any) -> RequestHead | None:
        """Parse a head, of a prediction on the fast path if possible; return None if Gunicorn finds it not whole.

        Raises:
            ParseException: as for `read_full`.
        """
        parsed = read_fast(head) if self.fast else None
        if parsed is None or parsed.target is None:
            return self._read_other(parsed, head, client)
        return parsed

    def _read_other(self, parsed: RequestHead | None, head: bytes, client: Any) -> RequestHead | None:
        """Parse a head that is of no prediction route but perhaps the settings' own, which may be on the fast path."""
        if parsed is not None and (target := target_of(parsed.method, parsed.path, self.predict_route)):
            return replace(parsed, target=target)
        return read_full([head], self.configuration, client, self.predict_route)

    def check_line(self, line: bytes, client: Any) -> None:
        """Check a request line before the rest of the head has arrived.

        Raises:
            ParseException: as for `read_full`.
        """
        read_full([line], self.configuration, client)


def parse_problem(error: ParseException) -> MalformedRequestError:
    """Return the problem details of a request that the parser rejects; `extensions` has the status."""
    refusal = MalformedRequestError(str(error)[:200])
    refusal.extensions = {"status": int(STATUSES.get(type(error), HTTPStatus.BAD_REQUEST))}
    return refusal


def _check_request(request: Any, headers: Mapping[str, str]) -> None:
    """Reject what Gunicorn's parser accepts and an origin server must not.

    Raises:
        ParseException: HTTP/1.1 without a Host field, a target that is no URI, CONNECT, a length beyond 64 bits, or a
            transfer coding other than chunked.
    """
    if not HOST.fullmatch(headers.get("host", "a" if request.version < (1, 1) else "")):
        raise InvalidHeader(
            "an HTTP/1.1 request has one Host field, with a host in it (RFC 9112, section 3.2)"
        )
    if request.method == "CONNECT":  # for a tunnel, by a proxy (RFC 9110, section 9.3.6)
        raise InvalidRequestMethod(request.method)
    if "#" in request.uri or "\\" in request.uri:  # no URI has them (RFC 9112, 3.2; RFC 3986, 2)
        raise InvalidRequestLine(request.uri)
    if int(headers.get("content-length", 0)).bit_length() > LENGTH_BITS:
        raise InvalidHeader("CONTENT-LENGTH")
    coding = headers.get("transfer-encoding", "chunked")
    if coding.lower() != "chunked":  # Gunicorn accepts gzip, and does not decode it
        raise UnsupportedTransferCoding(coding)
