"""Logging: lines of Gunicorn, of the service and of every library in one format, as text or JSON.

    {"time":"2026-11-22T18:00:00.123Z","level":"info","logger":"glyph.access","pid":7,
     "message":"POST /predict 200 1.234 ms","request_id":"...","route":"/predict","status":200,...}

Bodies, queries, tokens, and header fields other than the request id and the trace context are never logged. In text, a
value that is not one plain word is quoted, so that a client cannot forge what looks like the service's own words.
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
from gunicorn.glogging import Logger

from serving.settings import ServiceSettings
from serving.system.streams import STDERR, STDOUT, Stream, make_nonblocking

ACCESS = "glyph.access"

_SECRET = re.compile(r"(?i:(bearer[^a-z0-9]+)[^\s'\",]+)|glyph_[A-Za-z0-9_\-]{20,}")
_WORD = re.compile(r'[^\s"=\\]+')
_ASCII_WORD = re.compile(r"[!#-<>-\[\]-~]+")
"""The ASCII part of `_WORD`, which matches nearly every value, in less time."""
_JSON_INTEGERS = 1 << 63
"""orjson writes integers n with -_JSON_INTEGERS <= n < _JSON_INTEGERS as they are."""
_handlers: "dict[int, NonBlockingHandler]" = {}
"""This process's handlers of standard output and standard error, by descriptor."""


def redact(text: str) -> str:
    """Replace what looks like a token; a parser's message may quote what a client sent."""
    if not _may_contain_token(text):
        return text
    return _SECRET.sub(lambda found: f"{found[1] or ''}[token]", text)


def _may_contain_token(text: str) -> bool:
    """Return whether `_SECRET` could match, in a fraction of the time that the expression takes."""
    return "glyph_" in text or "bearer" in text.lower()


def printable(text: str) -> str:
    """Escape all characters that are not printable, so that an event is one line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(value: object) -> str:
    """Return a value as it is written in a line of text: one plain word as it is, anything else in quotes."""
    text = str(value)
    if _ASCII_WORD.fullmatch(text) or (text.isprintable() and _WORD.fullmatch(text)):
        return text
    return '"' + printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


@functools.lru_cache(maxsize=4)  # there may be a thousand lines in a second
def _local(second: int) -> str:
    return time.strftime(Logger.datefmt, time.localtime(second))


@functools.lru_cache(maxsize=4)
def _utc(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


class TextFormatter(logging.Formatter):
    """Formats lines like Gunicorn's. The lines of a traceback are indented, so none of them looks like a new event."""

    def __init__(self) -> None:
        super().__init__(Logger.error_fmt)

    def format(self, record: logging.LogRecord) -> str:
        """Return a record's line, followed by those of its traceback."""
        record.message = printable(_message(record))
        record.asctime = _local(int(record.created))
        line = self.formatMessage(record)
        for more in (record.exc_info and self.formatException(record.exc_info), record.stack_info):
            if more:
                line = "\n    ".join([line, *map(printable, more.splitlines())])
        return redact(line)


def _message(record: logging.LogRecord) -> str:
    """Return a record's message with its values quoted; numbers need no quotes."""
    if not isinstance(record.args, tuple) or not record.args:
        return record.getMessage()
    values = tuple(value if isinstance(value, int | float) else quoted(value) for value in record.args)
    try:
        return str(record.msg) % values
    except (TypeError, ValueError):  # the format needs an object of the library's own, not a string
        return quoted(record.getMessage())


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object. `extra={"fields": {...}}` adds members."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record's JSON object, on one line."""
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
        except TypeError:  # a value that JSON does not have, or a lone surrogate from a client
            line = ""
        if not line or _may_contain_token(line):
            line = orjson.dumps(_json_value(document)).decode()
        if line.isprintable():
            return line
        return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def _json_value(value: Any) -> Any:
    """Convert a value to what JSON has, and redact its strings."""
    match value:
        case bool() | float() | None:
            return value
        case int() if -_JSON_INTEGERS <= value < _JSON_INTEGERS:
            return int(value)
        case dict():
            return {_json_value(str(key)): _json_value(item) for key, item in value.items()}
        case list() | tuple():
            return [_json_value(item) for item in value]
        case str():
            return redact(value).encode("utf-8", "backslashreplace").decode()
    return _json_value(repr(value))


class NonBlockingHandler(logging.Handler):
    """Writes to a standard stream without blocking. Lines that the stream does not take are dropped and counted."""

    def __init__(self, descriptor: int, lines: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(lines)
        stream = {STDOUT: sys.__stdout__, STDERR: sys.__stderr__}[descriptor]
        # JSON is UTF-8 (RFC 8259, section 8.1); a backslash escape in another encoding would break it.
        self._encoding = "utf-8" if isinstance(lines, JsonFormatter) else getattr(stream, "encoding", "utf-8")
        self.stream = Stream(descriptor, self._dropped_notice)
        self._gunicorn = True  # Gunicorn removes handlers with this attribute when it sets up its log again

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record. If it cannot be formatted, write where it was logged instead."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001  a library may log any object, and formatting calls its methods
            line = self._line(
                "a record of %s could not be formatted: %s:%d", record.name, record.pathname, record.lineno
            )
        self.print(line + "\n")

    def print(self, text: str) -> None:
        """Write text without formatting."""
        self.stream.write(self._encoded(text))

    def _dropped_notice(self, count: int) -> bytes:
        return self._encoded(
            self._line("%d lines were dropped here, because the stream took none", count) + "\n"
        )

    def _line(self, message: str, *arguments: object) -> str:
        level = logging.WARNING
        return self.format(logging.LogRecord("glyph.log", level, __file__, 0, message, arguments, None))

    def _encoded(self, text: str) -> bytes:
        return text.encode(self._encoding, "backslashreplace")

    def flush(self) -> None:
        """Write buffered lines, as far as the stream takes them now."""
        self.stream.flush()

    def close(self) -> None:
        """Write what was kept, for a moment; at the end of the process."""
        self.stream.flush_at_exit()
        super().close()


class StderrToLog(io.TextIOBase):
    """Replaces `sys.stderr`, so that what is printed there, as Gunicorn does in places, becomes log lines."""

    def __init__(self) -> None:
        self._rest = ""
        """An unfinished line."""

    def write(self, text: str) -> int:
        """Log each whole line that is not blank."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in filter(str.strip, lines):
            logging.getLogger("glyph.stderr").error(line)
        return len(text)

    def fileno(self) -> int:
        """Return the descriptor, for callers that write to it directly."""
        return STDERR


def formatter(settings: ServiceSettings) -> logging.Formatter:
    """Return the formatter for `GLYPH_LOG_FORMAT`."""
    return JsonFormatter() if settings.log_format == "json" else TextFormatter()


class ServiceLogger(Logger):
    """Gunicorn's logger with Glyph's handlers and formatter. Gunicorn creates it in the arbiter, before it forks."""

    line_formatter: ClassVar[logging.Formatter]
    """Set by `configure`, because Gunicorn takes a class and creates the instance itself."""

    def setup(self, cfg: Any) -> None:
        """Let Gunicorn create its handlers, then replace those of standard output and standard error."""
        super().setup(cfg)
        for logger in (self.error_log, self.access_log):
            logger.handlers = [self._replaced(handler) for handler in logger.handlers]

    def _replaced(self, handler: logging.Handler) -> logging.Handler:
        if type(handler) is logging.StreamHandler:
            return _handlers[STDOUT if handler.stream is sys.stdout else STDERR]
        handler.setFormatter(self.line_formatter)
        return handler

    def warning(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Log a warning. For a request that cannot be parsed, drop what the client sent from Gunicorn's message."""
        if msg.startswith("Invalid request from ip=") and not args:
            client, _, problem = msg.removeprefix("Invalid request from ip=").partition(": ")
            msg, args = "Invalid request from ip=%s: %s", (client, redacted(problem))
        super().warning(msg, *args, **kwargs)

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Log an exception without queries, because gthread's message has the request's target."""
        super().exception(msg, *(str(value).partition("?")[0] for value in args), **kwargs)


def redacted(problem: object) -> str:
    """Return what Gunicorn's parser found wrong, without what the client sent, which may be a query or a secret."""
    return str(problem).partition(": ")[0]


def configure(settings: ServiceSettings) -> None:
    """Configure logging of this process and its forks: Glyph's loggers, the access log, and the libraries' warnings.

    Gunicorn's `logconfig_dict` is not used, because it switches on Gunicorn's own access log whatever `accesslog` is.
    """
    make_nonblocking()
    lines = ServiceLogger.line_formatter = formatter(settings)
    _handlers.update({descriptor: NonBlockingHandler(descriptor, lines) for descriptor in (STDOUT, STDERR)})
    for name, level in (("", "WARNING"), ("glyph", settings.log_level.upper())):
        logger = logging.getLogger(name)
        logger.handlers = [_handlers[STDERR]]
        logger.setLevel(level)
    logging.getLogger("glyph").propagate = False
    logging.getLogger("PIL").setLevel("CRITICAL")  # the answer says what is wrong with an image
    access = logging.getLogger(ACCESS)
    access.handlers = [_handlers[STDOUT]]
    access.setLevel("INFO")  # like Gunicorn's, whatever GLYPH_LOG_LEVEL is: GLYPH_ACCESS_LOG switches it on
    access.propagate = False
    sys.stderr = StderrToLog()


def announce(text: str) -> None:
    """Write text for people to standard output; with JSON logging, log it as one message."""
    if isinstance(ServiceLogger.line_formatter, JsonFormatter):
        logging.getLogger("glyph.serving").info("%s", " ".join(text.split()))
    else:
        _handlers[STDOUT].print(text)


def flush() -> None:
    """Write buffered lines of streams that were blocked, as far as they take them now. To be called regularly."""
    for handler in _handlers.values():
        handler.flush()


def dropped_lines() -> int:
    """Return how many log lines this process has dropped."""
    return sum(handler.stream.dropped for handler in _handlers.values())
