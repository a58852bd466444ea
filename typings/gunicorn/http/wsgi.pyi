import re
from collections.abc import Callable
from typing import Any

from gunicorn.config import Config
from gunicorn.http.message import TOKEN_RE as TOKEN_RE
from gunicorn.http.message import Request

HEADER_VALUE_RE: re.Pattern[str]

class Response:
    headers_sent: bool
    def __init__(self, req: Request, sock: Any, cfg: Config) -> None: ...
    def force_close(self) -> None: ...
    def should_close(self) -> bool: ...
    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]: ...
    def write(self, arg: bytes) -> None: ...
    def can_sendfile(self) -> bool: ...
    def close(self) -> None: ...

def create(
    req: Request,
    sock: Any,
    client: Any,
    server: Any,
    cfg: Config,
    response_class: type[Response] | None = None,
    response_args: tuple[Any, ...] = (),
) -> tuple[Response, dict[str, Any]]: ...
