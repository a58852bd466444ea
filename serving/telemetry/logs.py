"""The log: Gunicorn's lines, the service's and every library's in one format, for people or as JSON.

    {"time":"2026-11-22T18:00:00.123Z","level":"info","logger":"glyph.access","pid":7,
     "message":"POST /predict 200 1.234 ms","request_id":"...","route":"/predict","status":200,...}

What is never logged: bodies, queries, fields of requests but the request id and the trace, and tokens. In a line of
text a value that is not one plain word stands in quotes, so that a client's words are not taken for the service's.
"""

import functools
import io
import json
import logging
import re
import sys
import time
from typing import Any, ClassVar

import orjson
from gunicorn.glogging import Logger  # type: ignore[import-untyped]  # it ships no types

from serving.settings import ServiceSettings
from serving.system.streams import STDERR, STDOUT, Stream, make_nonblocking

ACCESS = "glyph.access"

_SECRET = re.compile(r"(?i:(bearer[^a-z0-9]+)[^\s'\",]+)|glyph_[A-Za-z0-9_\-]{20,}")
_WORD = re.compile(r'[^\s"=\\]+')
_ASCII_WORD = re.compile(r"[!#-<>-\[\]-~]+")  # the same, in less time for nearly all there is
_JSON_INTEGERS = 1 << 63
"""What orjson writes as a number is below it, and not below its negative."""
_sinks: "dict[int, Sink]" = {}
"""The handlers of this process's standard streams, by descriptor."""


def clean(text: str) -> str:
    """Return text without what looks like a token; a client's words can come into a parser's message."""
    if not _suspicious(text):
        return text
    return _SECRET.sub(lambda found: f"{found[1] or ''}[token]", text)


def _suspicious(text: str) -> bool:
    """Tell in a fraction of the time that the expression takes whether it could find anything."""
    return "glyph_" in text or "bearer" in text.lower()


def printable(text: str) -> str:
    """Return text with what is no character to look at written as its number: one event, one line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(value: object) -> str:
    """Return a value as it stands in a line of text: one plain word as it is, everything else in quotes."""
    text = str(value)
    if _ASCII_WORD.fullmatch(text) or (text.isprintable() and _WORD.fullmatch(text)):
        return text
    return '"' + printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


@functools.lru_cache(maxsize=4)  # of a thousand lines in a second
def _local(second: int) -> str:
    return time.strftime(Logger.datefmt, time.localtime(second))


@functools.lru_cache(maxsize=4)
def _utc(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


class TextFormatter(logging.Formatter):
    """Lines as Gunicorn writes them; each further line of a traceback is indented, and so begins no event."""

    def __init__(self) -> None:
        super().__init__(Logger.error_fmt)

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record."""
        record.message = printable(_message(record))
        record.asctime = _local(int(record.created))
        line = self.formatMessage(record)
        for more in (record.exc_info and self.formatException(record.exc_info), record.stack_info):
            if more:
                line = "\n    ".join([line, *map(printable, more.splitlines())])
        return clean(line)


def _message(record: logging.LogRecord) -> str:
    """Return a record's message, its values quoted; numbers are none of a client's words."""
    if not isinstance(record.args, tuple) or not record.args:
        return record.getMessage()
    values = tuple(value if isinstance(value, int | float) else quoted(value) for value in record.args)
    try:
        return str(record.msg) % values
    except (TypeError, ValueError):  # it asks for something else than a string, of a library's own kind
        return quoted(record.getMessage())


class JsonFormatter(logging.Formatter):
    """One JSON object a record; `extra={"fields": {...}}` adds members."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object on one line."""
        whole, fraction = divmod(record.created, 1)
        document: dict[str, Any] = {
            "time": f"{_utc(int(whole))}.{int(fraction * 1000):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        document |= getattr(record, "fields", {})
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            document["stack"] = record.stack_info
        try:
            line = orjson.dumps(document).decode()
        except (
            TypeError
        ):  # something that is not JSON's, or a surrogate in a client's words, which is no Unicode
            line = ""
        if not line or _suspicious(line):
            line = orjson.dumps(_plain(document)).decode()
        if line.isprintable():
            return line
        return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it, without what looks like a token in any of its strings."""
    match value:
        case bool() | float() | None:
            return value
        case int() if -_JSON_INTEGERS <= value < _JSON_INTEGERS:
            return int(value)
        case dict():
            return {_plain(str(key)): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case str():
            return clean(value).encode("utf-8", "backslashreplace").decode()
    return _plain(repr(value))


class Sink(logging.Handler):
    """Writes to a standard stream and never waits for it; what it drops is counted, and told when it goes on."""

    def __init__(self, descriptor: int, lines: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(lines)
        stream = {STDOUT: sys.__stdout__, STDERR: sys.__stderr__}[descriptor]
        # JSON is UTF-8 (RFC 8259, section 8.1), and backslashes that replace a character would break it.
        self._encoding = "utf-8" if isinstance(lines, JsonFormatter) else getattr(stream, "encoding", "utf-8")
        self.stream = Stream(descriptor, self._note)
        self._gunicorn = True  # Gunicorn takes its own handlers away when it sets up its log again

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; one that cannot be formatted is told without its values."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001  of whatever object a library logs
            line = self._line(
                "a line of %s could not be written: %s:%d", record.name, record.pathname, record.lineno
            )
        self.print(line + "\n")

    def print(self, text: str) -> None:
        """Write text as it is."""
        self.stream.write(self._encoded(text))

    def _note(self, count: int) -> bytes:
        return self._encoded(self._line("%d lines were dropped here: the stream took none", count) + "\n")

    def _line(self, message: str, *arguments: object) -> str:
        level = logging.WARNING
        return self.format(logging.LogRecord("glyph.log", level, __file__, 0, message, arguments, None))

    def _encoded(self, text: str) -> bytes:
        return text.encode(self._encoding, "backslashreplace")

    def flush(self) -> None:
        """Write what was kept, as far as the stream takes it now."""
        self.stream.flush()

    def close(self) -> None:
        """Write what was kept, for a moment; at the end of the process."""
        self.stream.flush_at_exit()
        super().close()


class Printed(io.TextIOBase):
    """What stands for `sys.stderr`: who prints there, as Gunicorn does in places, writes lines of the log."""

    def __init__(self) -> None:
        self._rest = ""

    def write(self, text: str) -> int:
        """Log each whole line that has something in it."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in filter(str.strip, lines):
            logging.getLogger("glyph.stderr").error(line)
        return len(text)

    def fileno(self) -> int:
        """Return the descriptor, for who writes past this object."""
        return STDERR


def formatter(settings: ServiceSettings) -> logging.Formatter:
    """Return the formatter that the settings ask for."""
    return JsonFormatter() if settings.log_format == "json" else TextFormatter()


class ServiceLogger(Logger):  # type: ignore[misc]
    """Gunicorn's logger with our handlers and formatter; Gunicorn makes it in the arbiter, before it forks."""

    line_formatter: ClassVar[logging.Formatter]
    """Set by `configure`, as Gunicorn takes a class and makes the object itself."""

    def setup(self, cfg: Any) -> None:
        """Let Gunicorn make its handlers, then put ours in the place of those of standard streams."""
        super().setup(cfg)
        for logger in (self.error_log, self.access_log):
            logger.handlers = [self._ours(handler) for handler in logger.handlers]

    def _ours(self, handler: logging.Handler) -> logging.Handler:
        if type(handler) is logging.StreamHandler:
            return _sinks[STDOUT if handler.stream is sys.stdout else STDERR]
        handler.setFormatter(self.line_formatter)
        return handler

    def warning(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Log a warning; of a request that cannot be parsed only what is wrong with it, without a client's words."""
        if msg.startswith("Invalid request from ip=") and not args:
            client, _, problem = msg.removeprefix("Invalid request from ip=").partition(": ")
            msg, args = "Invalid request from ip=%s: %s", (client, redacted(problem))
        super().warning(msg, *args, **kwargs)

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Log what was raised; gthread's line has the request's target, whose query is nobody's business."""
        super().exception(msg, *(str(value).partition("?")[0] for value in args), **kwargs)


def redacted(problem: object) -> str:
    """Return what Gunicorn's parser found wrong, without what the client sent, which may be a query or a secret."""
    return str(problem).partition(": ")[0]


def configure(settings: ServiceSettings) -> None:
    """Set up this process's loggers, and those of its children: ours, the access log, and everybody else's warnings.

    Not by Gunicorn's `logconfig_dict`, which switches its own access log on, whatever `accesslog` says.
    """
    make_nonblocking()
    lines = ServiceLogger.line_formatter = formatter(settings)
    _sinks.update({descriptor: Sink(descriptor, lines) for descriptor in (STDOUT, STDERR)})
    for name, level in (("", "WARNING"), ("glyph", settings.log_level.upper())):
        logger = logging.getLogger(name)
        logger.handlers = [_sinks[STDERR]]
        logger.setLevel(level)
    logging.getLogger("glyph").propagate = False
    logging.getLogger("PIL").setLevel("CRITICAL")  # what it finds wrong with an image is in the refusal
    access = logging.getLogger(ACCESS)
    access.handlers = [_sinks[STDOUT]]
    access.setLevel("INFO")  # as Gunicorn's: it was asked for, whatever the least level of the rest
    access.propagate = False
    sys.stderr = Printed()


def announce(text: str) -> None:
    """Write text for people to standard output; in a log of JSON it is a message."""
    if isinstance(ServiceLogger.line_formatter, JsonFormatter):
        logging.getLogger("glyph.serving").info("%s", " ".join(text.split()))
    else:
        _sinks[STDOUT].print(text)


def flush() -> None:
    """Write what was kept for a stream that took nothing, as far as it takes it now; to be called now and then."""
    for sink in _sinks.values():
        sink.flush()


def dropped() -> int:
    """Return how many lines this process has dropped."""
    return sum(sink.stream.dropped for sink in _sinks.values())
