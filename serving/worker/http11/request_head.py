"""From the bytes of a request's head to what it says: an ordinary one fast, any other by Gunicorn's parser.

The fast way takes only what `FAST_PATH_HEAD` matches: a POST in origin form, HTTP/1.1; and of that no field
twice, no transfer coding, no expectation. The expression is RFC 9112's grammar without what may be read
in two ways, so what matches is taken apart at its line ends and colons. On all of it Gunicorn's parser
would say the same. Whatever else arrives is given to Gunicorn's own parser, which accepts and refuses
it as it does for every other worker class, with the same words.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from gunicorn.http.body import ChunkedReader  # type: ignore[import-untyped]  # it ships no types
from gunicorn.http.errors import (  # type: ignore[import-untyped]
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
from gunicorn.http.message import Request as GunicornRequest  # type: ignore[import-untyped]
from gunicorn.http.unreader import IterUnreader  # type: ignore[import-untyped]

from serving.errors import MalformedRequestError
from serving.predict.exchange import HOST, Target, joined
from serving.predict.pipeline import target_of

FAST_BYTES = 4000
"""Longest head that is read the fast way; within each of Gunicorn's limits, whatever it is made of."""
FAST_FIELDS = 32
MAX_FAST_LENGTH_DIGITS = 15

FAST_PATH_HEAD = re.compile(
    rb"POST (/[!\"$-.0-\[\]-~][!\"$-\[\]-~]*) HTTP/1\.1\r\n"  # no second slash, no fragment, no backslash
    rb"(?:[!#$%&'*+\-.^`|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n){1,32}"  # no underscore, no folding, no bare LF
    rb"\r\n"
)
"""Heads about which there can be no two opinions (RFC 9112, sections 2 to 5)."""

FULL_PARSER_FIELDS = frozenset(("transfer-encoding", "expect", "upgrade"))
"""Fields that change how a message is read; Gunicorn's parser decides on them."""
TRANSFER_CODINGS = re.compile(r"[!#$%&'*+\-.^`|~0-9A-Za-z]+(?:[ \t]*,[ \t]*[!#$%&'*+\-.^`|~0-9A-Za-z]+)*")
"""Names of transfer codings: a list without empty members, and without parameters, which none has that is in use."""
LENGTH_BITS = 64
"""Of a length, and of a chunk's size, beyond which servers count differently (RFC 9110, section 8.6)."""
MAX_METHOD = 20
"""Bytes of the longest method; Gunicorn's limit."""
STATUSES = {
    LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
}
"""Of what the parser refuses; all else is 400."""
FORWARDED_SCHEME_FIELDS = frozenset(("x-forwarded-proto", "x-forwarded-protocol", "x-forwarded-ssl"))
"""Fields that each say whether a proxy's client came over TLS."""


@dataclass(slots=True)
class RequestHead:
    """What the head of a request says. Nobody changes it; not frozen, as `messages.Request` is not."""

    method: str
    path: str
    """Percent-decoded, without the query."""
    query: str
    headers: Mapping[str, str]
    """By name in lower case; values of a repeated field are joined by a comma and a space."""
    version: tuple[int, int]
    length: int | None
    """Bytes of the body; None if it comes in chunks."""
    keep_alive: bool
    expects_continue: bool = False
    target: Target | None = None
    """What the path of a prediction names; every other request is the Flask application's."""
    original: Any = None
    """Gunicorn's own request, where its parser was asked."""
    size: int = 0
    """Bytes of the head."""


def asks_to_close(headers: Mapping[str, str]) -> bool:
    """Tell whether the field Connection, a list, asks to close (RFC 9112, section 9.6)."""
    return "close" in [option.strip(" \t").lower() for option in headers.get("connection", "").split(",")]


def has_hooks(configuration: Any) -> bool:
    """Tell whether Gunicorn's configuration wants to see requests."""
    hooks = [configuration.settings[name] for name in ("pre_request", "post_request")]
    return any(hook.get() is not hook.default for hook in hooks)


def fast_path_suffices(worker: Any) -> bool:
    """Tell whether `read_fast` may be asked: nobody wants Gunicorn's own request, nor refuses more than it does."""
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
    """Read a head the fast way; None if it is not ordinary.

    A client sends the same head again and again, but for the length of its body, so those of late are remembered:
    at most 512 of at most `FAST_BYTES`.

    Args:
        head: all of it, with the empty line that ends it and without anything after.
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
        return None  # they may contradict each other
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
    """Return what is wrong with a request line beyond the limit: its method, or else its target."""
    if b" " not in line[: MAX_METHOD + 1]:
        return InvalidRequestMethod(line[: MAX_METHOD + 1].decode("latin-1"))
    return LimitRequestLine(len(line), limit)


def read_full(pieces: list[bytes], configuration: Any, peer: Any) -> RequestHead | None:
    """Read a head by Gunicorn's parser; None if it is not whole.

    Args:
        pieces: the head as it arrived. Gunicorn compares some of its limits only between two pieces.
        configuration: Gunicorn's.
        peer: the client's address, as the socket has it.

    Raises:
        ParseException: what Gunicorn refuses, and what `_check_request` does.
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
    headers = joined(request.headers)
    _check_request(request, headers)
    request.version = min(request.version, (1, 1))  # the answer says no higher one (RFC 9110, section 2.5)
    if asks_to_close(headers):
        request.force_close()  # Gunicorn looks at the first field alone, and for no list in it
    reader, path = request.body.reader, unquote(request.path)
    mounted = "script_name" in headers or "SCRIPT_NAME" in os.environ  # then Flask knows what the path is
    return RequestHead(
        method=request.method,
        path=path,
        query=request.query,
        headers=headers,
        version=request.version,
        length=None if isinstance(reader, ChunkedReader) else reader.length,
        keep_alive=not request.should_close(),
        target=None if mounted else target_of(request.method, path),
        expects_continue=request._expected_100_continue,  # noqa: SLF001  there is no other way to it
        original=request,
        size=sum(map(len, pieces)),
    )


@dataclass(frozen=True, slots=True)
class Parser:
    """Reads the heads of a process's requests."""

    configuration: Any
    """Gunicorn's."""
    fast: bool
    """Whether `read_fast` may be asked first, as `fast_path_suffices` says."""

    def read(self, head: bytes, client: Any) -> RequestHead | None:
        """Read a head, of a prediction the fast way if it is ordinary; None if Gunicorn takes it for half of one.

        Raises:
            ParseException: as `read_full`.
        """
        parsed = read_fast(head) if self.fast else None
        return (
            read_full([head], self.configuration, client)
            if parsed is None or parsed.target is None
            else parsed
        )

    def check_line(self, line: bytes, client: Any) -> None:
        """Look at a request line before the rest of the head is there.

        Raises:
            ParseException: as `read_full`.
        """
        read_full([line], self.configuration, client)


def parse_problem(error: ParseException) -> MalformedRequestError:
    """Return what a client is told of a request that the parser refuses; `extensions` has the status."""
    refusal = MalformedRequestError(
        str(error)[:200], remedy="Send the request as RFC 9112 has it; most HTTP clients do."
    )
    refusal.extensions = {"status": int(STATUSES.get(type(error), HTTPStatus.BAD_REQUEST))}
    return refusal


def _check_request(request: Any, headers: Mapping[str, str]) -> None:
    """Refuse what Gunicorn takes, and an origin server does not.

    Raises:
        ParseException: HTTP/1.1 without a host, a target that is none, CONNECT, a length beyond all counting, a
            coding that is not undone here.
    """
    if not HOST.fullmatch(headers.get("host", "a" if request.version < (1, 1) else "")):
        raise InvalidHeader(
            "an HTTP/1.1 request has one Host field, with a host in it (RFC 9112, section 3.2)"
        )
    if request.method == "CONNECT":  # it asks for a tunnel: of a proxy (RFC 9110, section 9.3.6)
        raise InvalidRequestMethod(request.method)
    if "#" in request.uri or "\\" in request.uri:  # neither is in a target (RFC 9112, 3.2; RFC 3986, 2)
        raise InvalidRequestLine(request.uri)
    if int(headers.get("content-length", 0)).bit_length() > LENGTH_BITS:
        raise InvalidHeader("CONTENT-LENGTH")
    coding = headers.get("transfer-encoding", "chunked")
    if coding.lower() != "chunked":  # Gunicorn takes gzip for one that it undoes
        raise UnsupportedTransferCoding(coding)
