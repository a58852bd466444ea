"""The same for an ASGI server."""

from collections.abc import Awaitable, Callable
from typing import Any

from wsgi_echo import cookies  # type: ignore[import-not-found]  # beside it, in another environment

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer with what has arrived."""
    if scope["type"] != "http":
        return
    lines = [(name, value) for name, value in scope["headers"]]
    match scope["path"]:
        case "/echo":
            body = b"".join(name + b": " + value + b"\n" for name, value in lines)
        case "/cookie":
            body = cookies("; ".join(value.decode("latin-1") for name, value in lines if name == b"cookie"))
        case _:
            body = await _read(receive) if scope["method"] == "POST" else b"OK"
    fields = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def _read(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body
