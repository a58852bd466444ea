"""The same for a WSGI server."""

from collections.abc import Callable, Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Any


def app(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]
) -> Iterable[bytes]:
    """Answer with what has arrived."""
    match environ["PATH_INFO"]:
        case "/echo":
            body = fields(environ)
        case "/cookie":
            body = cookies(environ.get("HTTP_COOKIE", ""))
        case _:
            body = environ["wsgi.input"].read() if environ["REQUEST_METHOD"] == "POST" else b"OK"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def fields(environ: dict[str, Any]) -> bytes:
    """Return the request's fields, a line each."""
    found = {name.removeprefix("HTTP_"): value for name, value in environ.items() if name.startswith("HTTP_")}
    found |= {name: environ[name] for name in ("CONTENT_TYPE", "CONTENT_LENGTH") if environ.get(name)}
    return "".join(f"{name.replace('_', '-').title()}: {value}\n" for name, value in found.items()).encode(
        "latin-1"
    )


def cookies(value: str) -> bytes:
    """Return the cookies of a field, a line each, those that could be read."""
    try:
        found = SimpleCookie(value)
    except CookieError:
        return b""
    return "".join(f"{name}={morsel.value}\n" for name, morsel in found.items()).encode("latin-1")
