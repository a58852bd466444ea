"""gRPC's status of each problem: the code goes by the HTTP status, so that both transports agree on every problem.

Source: grpc/grpc, doc/statuscodes.md; the header fields are of doc/PROTOCOL-HTTP2.md and, for the pushback, of gRFC A6
(client retries, section "Pushback").
"""

from http import HTTPStatus
from urllib.parse import quote

from serving.telemetry.metrics import CLIENT_GONE_STATUS

OK = 0
CODES: dict[int, tuple[int, str]] = {
    HTTPStatus.BAD_REQUEST: (3, "INVALID_ARGUMENT"),
    HTTPStatus.UNAUTHORIZED: (16, "UNAUTHENTICATED"),
    HTTPStatus.NOT_FOUND: (5, "NOT_FOUND"),
    HTTPStatus.METHOD_NOT_ALLOWED: (12, "UNIMPLEMENTED"),
    HTTPStatus.REQUEST_TIMEOUT: (4, "DEADLINE_EXCEEDED"),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (8, "RESOURCE_EXHAUSTED"),
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: (12, "UNIMPLEMENTED"),
    HTTPStatus.UNPROCESSABLE_ENTITY: (3, "INVALID_ARGUMENT"),
    CLIENT_GONE_STATUS: (1, "CANCELLED"),
    HTTPStatus.INTERNAL_SERVER_ERROR: (13, "INTERNAL"),
    HTTPStatus.SERVICE_UNAVAILABLE: (14, "UNAVAILABLE"),
    HTTPStatus.GATEWAY_TIMEOUT: (4, "DEADLINE_EXCEEDED"),
}
"""Code and name of the gRPC status, by HTTP status. Clients retry UNAVAILABLE, as they do 503."""


def error_fields(status: int, message: str, retry_after: str | None = None) -> list[tuple[str, str]]:
    """Return the trailing metadata of an error.

    Args:
        status: the HTTP status of the same problem.
        message: the problem and its remedy.
        retry_after: seconds after which a client may try again, if the problem says so.
    """
    fields = [("grpc-status", str(CODES[status][0])), ("grpc-message", quote(message, safe=_PLAIN))]
    if retry_after is not None:
        fields += [("grpc-retry-pushback-ms", str(1000 * int(retry_after))), ("retry-after", retry_after)]
    return fields


_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
"""Characters of a grpc-message that are not percent-encoded."""
