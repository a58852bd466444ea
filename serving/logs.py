"""The log: Gunicorn's lines, the service's and every library's in one format, for people or as JSON.

    {"time":"2026-11-22T18:00:00.123Z","level":"info","logger":"glyph.access","pid":7,
     "message":"POST /predict 200 1.234 ms","request_id":"...","route":"/predict","status":200,...}

What is never logged: bodies, queries, fields of requests but the request id and the trace, and tokens.
"""

import logging
import re
import sys
import time
from typing import Any, ClassVar

import orjson
from gunicorn.glogging import Logger  # type: ignore[import-untyped]  # it ships no types

from serving.settings import ServiceSettings

ACCESS = "glyph.access"

_SECRET = re.compile(r"(?i:(bearer\s+)[^\s'\",]+)|glyph_[A-Za-z0-9_\-]{20,}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def clean(text: str) -> str:
    """Return text without what looks like a token; a client's words can come into a parser's message."""
    return _SECRET.sub(lambda found: f"{found[1] or ''}[token]", text)


class TextFormatter(logging.Formatter):
    """Lines as Gunicorn writes them. A control character is written as its number: one event, one line."""

    def __init__(self) -> None:
        super().__init__(Logger.error_fmt, Logger.datefmt)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """Return the line of a record, its traceback not included."""
        record.message = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", clean(record.message))
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802  logging's name
        """Return a traceback, which may have several lines."""
        return clean(super().formatException(ei))


class JsonFormatter(logging.Formatter):
    """One JSON object a record; `extra={"fields": {...}}` adds members."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object on one line."""
        whole, fraction = divmod(record.created, 1)
        document: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int(fraction * 1000):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": clean(record.getMessage()),
        }
        document |= getattr(record, "fields", {})
        if record.exc_info:
            document["exception"] = clean(self.formatException(record.exc_info))
        return _json(document)


def _json(document: dict[str, Any]) -> str:
    try:
        return orjson.dumps(document, default=repr).decode()
    except TypeError:  # a surrogate in a client's words, which is no Unicode and cannot be UTF-8
        return orjson.dumps(
            {name: _unicode(value) for name, value in document.items()}, default=repr
        ).decode()


def _unicode(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def formatter(settings: ServiceSettings) -> logging.Formatter:
    """Return the formatter that the settings ask for."""
    return JsonFormatter() if settings.log_format == "json" else TextFormatter()


class ServiceLogger(Logger):  # type: ignore[misc]
    """Gunicorn's logger with our formatter; Gunicorn makes it in the arbiter, before it forks."""

    line_formatter: ClassVar[logging.Formatter]
    """Set by `gunicorn_conf`, as Gunicorn takes a class and makes the object itself."""

    def setup(self, cfg: Any) -> None:
        """Make Gunicorn's handlers, then let them write as we do."""
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(self.line_formatter)


def configure(settings: ServiceSettings) -> None:
    """Set up a worker's loggers: ours, the access log, and everybody else's warnings.

    Not by Gunicorn's `logconfig_dict`, which switches its own access log on, whatever `accesslog` says.
    """
    lines = formatter(settings)
    errors = logging.StreamHandler()
    errors.setFormatter(lines)
    for name, level in (("", "WARNING"), ("glyph", settings.log_level.upper())):
        logger = logging.getLogger(name)
        logger.handlers = [errors]
        logger.setLevel(level)
    logging.getLogger("glyph").propagate = False
    logging.getLogger("PIL").setLevel("CRITICAL")  # what it finds wrong with an image is in the refusal
    requests = logging.StreamHandler(sys.stdout)
    requests.setFormatter(lines)
    access = logging.getLogger(ACCESS)
    access.handlers = [requests]
    access.setLevel("INFO")  # as Gunicorn's: it was asked for, whatever the least level of the rest
    access.propagate = False
