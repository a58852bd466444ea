from collections.abc import Callable
from typing import Any

class SettingMeta(type):
    def __new__(cls, name: str, bases: tuple[type, ...], attrs: dict[str, Any]) -> SettingMeta: ...

class Setting(metaclass=SettingMeta):
    default: Any
    def get(self) -> Any: ...

class Config:
    settings: dict[str, Setting]
    def __init__(self, usage: str | None = None, prog: str | None = None) -> None: ...
    def set(self, name: str, value: object) -> None: ...
    @property
    def is_ssl(self) -> str | None: ...
    # Settings, which `__getattr__` returns.
    graceful_timeout: int
    limit_request_field_size: int
    limit_request_fields: int
    limit_request_line: int
    post_request: Callable[[Any, Any, Any, Any], None]
    pre_request: Callable[[Any, Any], None]
    proxy_protocol: str
    timeout: int
    worker_int: Callable[[Any], None]
