import socket
import ssl

from gunicorn.config import Config
from gunicorn.glogging import Logger

class BaseSocket:
    sock: socket.socket
    def __init__(self, address: object, conf: Config, log: Logger, fd: int | None = None) -> None: ...
    def close(self) -> None: ...

def ssl_context(conf: Config) -> ssl.SSLContext: ...
