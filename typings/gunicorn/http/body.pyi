import re

from gunicorn.http.message import Request
from gunicorn.http.unreader import Unreader

CHUNK_EXT_RE: re.Pattern[bytes]

class ChunkedReader:
    def __init__(self, req: Request, unreader: Unreader) -> None: ...

class LengthReader:
    length: int
    def __init__(self, unreader: Unreader, length: int) -> None: ...

class Body:
    reader: ChunkedReader | LengthReader
    def __init__(self, reader: ChunkedReader | LengthReader) -> None: ...
    def read(self, size: int | None = None) -> bytes: ...
