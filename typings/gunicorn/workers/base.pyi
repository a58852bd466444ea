from types import FrameType
from typing import Any

from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.sock import BaseSocket
from gunicorn.workers.workertmp import WorkerTmp

class Worker:
    age: int
    ppid: int
    sockets: list[BaseSocket]
    cfg: Config
    booted: bool
    aborted: bool
    nr: int
    max_requests: int
    alive: bool
    log: Logger
    tmp: WorkerTmp
    wsgi: Any  # the application, which only its own code knows
    def __init__(
        self,
        age: int,
        ppid: int,
        sockets: list[BaseSocket],
        app: Any,
        timeout: float,
        cfg: Config,
        log: Logger,
    ) -> None: ...
    def notify(self) -> None: ...
    def run(self) -> None: ...
    def init_process(self) -> None: ...
    def load_wsgi(self) -> None: ...
    def init_signals(self) -> None: ...
    def handle_exit(self, sig: int, frame: FrameType | None) -> None: ...
