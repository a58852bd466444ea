from types import FrameType
from typing import Any

from gunicorn.config import Config
from gunicorn.glogging import Logger

class Arbiter:
    WORKER_BOOT_ERROR: int
    APP_LOAD_ERROR: int
    START_CTX: dict[Any, Any]
    cfg: Config
    log: Logger
    def __init__(self, app: Any) -> None: ...
    def signal(self, sig: int, frame: FrameType | None) -> None: ...
