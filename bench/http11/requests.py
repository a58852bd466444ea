"""Requests as bytes, right but for what a case makes wrong."""

HOST = b"Host: localhost"
CHUNKED = b"Transfer-Encoding: chunked"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"
"""A chunked body of five bytes."""


def request(
    start: bytes, *fields: bytes, body: bytes = b"", host: bytes | None = HOST, end: bytes = b"\r\n"
) -> bytes:
    """Return a request.

    Args:
        start: the request line, without its end.
        fields: field lines after Host, without their ends.
        body: what follows the head.
        host: the first field line; None for none.
        end: the end of the request line.
    """
    lines = b"".join(line + b"\r\n" for line in ((host,) if host is not None else ()) + fields)
    return start + end + lines + b"\r\n" + body


def get(*fields: bytes, target: bytes = b"/", version: bytes = b"HTTP/1.1", method: bytes = b"GET") -> bytes:
    """Return a request without a body."""
    return request(b"%s %s %s" % (method, target, version), *fields)


def post(*fields: bytes, body: bytes = b"", version: bytes = b"HTTP/1.1", target: bytes = b"/") -> bytes:
    """Return a POST; its framing is among the fields."""
    return request(b"POST %s %s" % (target, version), *fields, body=body)


def length(value: bytes, body: bytes = b"hello") -> bytes:
    """Return a POST of a body with this Content-Length."""
    return post(b"Content-Length: " + value, body=body)


def coding(value: bytes) -> bytes:
    """Return a POST with this Transfer-Encoding, and a Content-Length that fits its body beside it."""
    return post(b"Transfer-Encoding: " + value, b"Content-Length: 5", body=b"hello")


def chunks(body: bytes) -> bytes:
    """Return a POST of a chunked body, as it is framed."""
    return post(CHUNKED, body=body)
