import re
from typing import Any

from gunicorn.config import Config
from gunicorn.http.body import Body
from gunicorn.http.unreader import Unreader

TOKEN_RE: re.Pattern[str]

class Message:
    # As they are once the head is parsed.
    version: Any  # tuple[int, int]; the class has None
    headers: list[tuple[str, str]]
    body: Body
    limit_request_field_size: int
    _expected_100_continue: bool
    def __init__(self, cfg: Config, unreader: Unreader, peer_addr: Any) -> None: ...
    def force_close(self) -> None: ...
    def parse_headers(self, data: bytes, from_trailer: bool = False) -> list[tuple[str, str]]: ...
    def should_close(self) -> bool: ...

class Request(Message):
    method: str
    uri: str
    path: str
    query: str
    def __init__(self, cfg: Config, unreader: Unreader, peer_addr: Any, req_number: int = 1) -> None: ...
