import socket
from typing import Any

from gunicorn.config import Config
from gunicorn.workers.base import Worker

class TConn:
    client: Any
    def __init__(self, cfg: Config, sock: socket.socket, client: Any, server: Any) -> None: ...

class ThreadWorker(Worker):
    def enqueue_req(self, conn: TConn) -> None: ...
