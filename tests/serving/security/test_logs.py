"""Logs: one object or one line for each event, and in none of them what must not be there."""

import dataclasses
import json
import logging
import re
import secrets
import socket
import subprocess
import sys
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from bench.support.handmade import raw_tiff
from bench.support.pictures import a_digit, png
from bench.support.processes import PNG, ROOT, Part, form, running
from bundle.repository import Bundle
from serving.telemetry.logs import JsonFormatter, TextFormatter, quoted, redact
from serving.token import new_token
from tests.serving.security.collector import attributes
from tests.serving.security.conftest import Guarded

ID = "a-request-of-the-test"


def a_record(message: str, *arguments: object, **extra: Any) -> logging.LogRecord:
    """Return a record as a logger makes it."""
    return logging.getLogger("glyph.test").makeRecord(
        "glyph.test", logging.WARNING, "file", 1, message, arguments, extra.pop("exc_info", None), extra=extra
    )


def lines_of(guarded: Guarded, request_id: str) -> list[dict[str, Any]]:
    """Return the log's objects that tell of a request."""
    whole, _, _ = guarded.service.log().rpartition(
        "\n"
    )  # the last line may be in the middle of being written
    objects = [json.loads(line) for line in whole.splitlines()]
    return [line for line in objects if line.get("request_id") == request_id]


def test_a_line_of_json_has_what_every_line_has() -> None:
    """Time, level, logger, process and message, and what else the event tells."""
    record = a_record("%d apples", 3, fields={"request_id": ID, "status": 200})
    document = json.loads(JsonFormatter().format(record))
    assert datetime.fromisoformat(document["time"]).timestamp() == pytest.approx(record.created, abs=0.002)
    assert document["time"].endswith("Z")
    del document["time"]
    assert document == {
        "level": "warning",
        "logger": "glyph.test",
        "pid": record.process,
        "message": "3 apples",
        "request_id": ID,
        "status": 200,
    }


def test_a_traceback_is_one_line_of_json() -> None:
    """It can be read back whole."""
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = a_record("it failed", exc_info=sys.exc_info())
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "ValueError: two\nlines" in json.loads(line)["exception"]


@pytest.mark.parametrize("path", ["/a\nb", "/a\r\n[INFO] forged", "/\x1b[2J", "/\u2028x", "/\udcff"])
def test_a_clients_words_cannot_forge_a_line(path: str) -> None:
    """A path is percent-decoded, and may have anything in it."""
    record = a_record("GET %s failed", path)
    line = TextFormatter().format(record).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    assert len(line.splitlines()) == 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", line)
    assert "\n" not in JsonFormatter().format(record)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/predict", "/predict"),
        ("/v2/models/a-b_c.d~e:f/infer", "/v2/models/a-b_c.d~e:f/infer"),
        ("/日本", "/日本"),
        ("", '""'),
        ("/a b", '"/a b"'),
        ("/x 200 0.1 ms request_id=forged", '"/x 200 0.1 ms request_id=forged"'),
        ("/request_id=forged", '"/request_id=forged"'),
        ('/" 200', r'"/\" 200"'),
        ("/a\\", r'"/a\\"'),
        ("/a\xa0b", r'"/a\xa0b"'),
        ("/\u202eb", r'"/\u202eb"'),
        ("/a\nb", r'"/a\nb"'),
    ],
)
def test_a_clients_words_cannot_forge_words(value: str, shown: str) -> None:
    """A value that could be taken for several, or for a field, stands in quotes, whichever logger has it."""
    assert quoted(value) == shown
    line = TextFormatter().format(a_record("GET %s failed %d times", value, 3))
    assert line.endswith(f"] GET {shown} failed 3 times")


def test_a_clients_words_cannot_forge_lines_of_a_traceback() -> None:
    """Each of its lines is indented, and no line of the log is."""
    try:
        raise ValueError("x\n[2026-11-27 20:00:00 +0000] [7] [INFO] forged\x1b[2J\u2028y")
    except ValueError:
        record = a_record("it failed", exc_info=sys.exc_info())
    record.stack_info = "Stack:\nforged"
    first, *more = TextFormatter().format(record).splitlines()
    assert first.endswith("it failed")
    assert [line for line in more if not line.startswith("    ")] == []
    assert "forged" in "".join(more)
    assert "\x1b" not in "".join(more)


def test_a_line_that_cannot_be_formatted_as_meant_is_written_all_the_same() -> None:
    """Values of a library's own kind are for its own format."""
    assert TextFormatter().format(a_record("%d of %s", np.int64(3), "a b")).endswith('"3 of a b"')
    assert TextFormatter().format(a_record("%(a)s b", {"a": "c d"})).endswith("c d b")


@dataclasses.dataclass
class Held:
    """Something of a library's own that a line may have."""

    token: str


@pytest.mark.parametrize(
    "place", ["message", "value", "exception", "stack", "field", "nested", "object", "key"]
)
def test_no_part_of_a_line_can_have_a_token(place: str) -> None:
    """Redaction is the last thing that happens to a line, so that it depends on nobody who logs."""
    token = new_token()
    record = a_record(f"so {token}") if place == "message" else a_record("so %s", "it is")
    try:
        raise ValueError(f"Bearer {token}")
    except ValueError:
        error = sys.exc_info()
    fields: dict[str, Any] = {
        "field": {"path": f"/{token}", "request_id": token},
        "nested": {"all": [{"x": (token,)}]},
        "object": {"held": Held(token), "large": 1 << 70, "none": None, "status": HTTPStatus.OK},
        "key": {token: 1},
    }
    match place:
        case "value":
            record.args = (token,)
        case "exception":
            record.exc_info = error
        case "stack":
            record.stack_info = f"Stack:\n  called({token!r})"
        case "field" | "nested" | "object" | "key":
            record.__dict__["fields"] = fields[place]
    line = JsonFormatter().format(record)
    assert token not in line
    assert "[token]" in line
    assert json.loads(line)["logger"] == "glyph.test"
    assert token not in TextFormatter().format(record)


@pytest.mark.parametrize("words", ['Bearer "{}"', "Bearer  {}", "Bearer: {}", "BEARER\t{}", "bearer={}"])
def test_the_token_of_another_maker_is_known_by_the_word_before_it(words: str) -> None:
    """An operator's own tokens need not look like ours."""
    for formatter in (TextFormatter(), JsonFormatter()):
        line = formatter.format(a_record("%s", words.format("c2VjcmV0.a-b_c~d+e/f==")))
        assert "c2Vjc" not in line
        assert "[token]" in line


@pytest.mark.parametrize("text", ["\u2028", "\x9b2J", "\u202e", "\U000e0001"])
def test_a_line_of_json_is_one_line_to_every_reader(text: str) -> None:
    """Some end lines at other characters than a newline, and some obey them."""
    line = JsonFormatter().format(a_record("%s", text, fields={"path": text}))
    assert line.isprintable()
    assert json.loads(line)["message"] == json.loads(line)["path"] == text


@pytest.mark.parametrize(
    "text", ["Authorization: Bearer {}", "bearer {}", "{}", "'Bearer {}'", "token={}&x=1"]
)
def test_what_looks_like_a_token_is_never_written(text: str) -> None:
    """Whoever's message it is, a parser's or a library's; the words around stay."""
    token = new_token()
    for formatter in (TextFormatter(), JsonFormatter()):
        line = formatter.format(a_record("%s", text.format(token)))
        assert token not in line
        assert "[token]" in line
    assert redact("no bearer of news") == "no bearer [token] news"  # too careful rather than not enough
    assert redact("plain words stay") == "plain words stay"


def test_every_line_of_the_service_is_an_object_and_a_request_has_one(guarded: Guarded) -> None:
    """Gunicorn's lines, the service's and the access log's, from the first to the last."""
    answer = guarded.ask("POST", "/predict?top=3", png(a_digit()), Content_Type=PNG, X_Request_ID=ID)
    assert answer.status == 200
    (line,) = lines_of(guarded, ID)
    duration = line.pop("duration_ms")
    phases = {name: line.pop(name) for name in list(line) if name.endswith("_ms")}
    assert {"decode_ms", "infer_ms", "encode_ms"} <= set(phases)
    assert sum(phases.values()) <= duration + 0.01
    assert line.pop("message").startswith("127.0.0.1 POST /predict 200 ")
    assert re.fullmatch(r"[0-9a-f]{32}", line.pop("trace_id"))
    assert re.fullmatch(r"[0-9a-f]{16}", line.pop("span_id"))
    for name in ("time", "pid"):
        assert line.pop(name)
    assert line == {
        "level": "info",
        "logger": "glyph.access",
        "client": "127.0.0.1",
        "method": "POST",
        "route": "/predict",
        "path": "/predict",
        "status": 200,
        "request_id": ID,
        "holder": "till-7",
        "batch": 1,
    }
    loggers = {json.loads(text)["logger"] for text in guarded.service.log().splitlines()}
    assert {"gunicorn.error", "glyph.serving", "glyph.access"} <= loggers


def test_refusals_and_other_routes_are_in_the_access_log_too(guarded: Guarded) -> None:
    """Whoever answered them: the pipeline, Flask, or Flask's error handlers."""
    asked = [
        ("POST", "/predict", b"", 400, "/predict"),
        ("GET", "/v2", None, 200, "/v2"),
        ("GET", "/nowhere/at/all", None, 404, "other"),
        ("GET", "/predict", None, 405, "other"),
    ]
    for number, (method, path, body, status, route) in enumerate(asked):
        request_id = f"{ID}-{number}"
        assert guarded.ask(method, path, body, X_Request_ID=request_id).status == status
        (line,) = lines_of(guarded, request_id)
        assert (line["method"], line["path"], line["status"], line["route"]) == (method, path, status, route)
        assert line["holder"] == "till-7"
    refused = guarded.service.ask("POST", "/predict", b"x", X_Request_ID=f"{ID}-refused")
    assert refused.status == 401
    (line,) = lines_of(guarded, f"{ID}-refused")
    assert line["status"] == 401
    assert "holder" not in line


def test_neither_bodies_nor_queries_nor_tokens_are_in_the_log(guarded: Guarded) -> None:
    """Not on the way that succeeds, not on those that fail."""
    secret, wrong = "a-word-that-nobody-logs", new_token()
    body, content_type = form(Part(secret.encode(), filename=f"{secret}.png"))
    requests: list[tuple[str, str, bytes | None, dict[str, str]]] = [
        ("POST", f"/predict?token={secret}", png(a_digit()), {"Content_Type": PNG}),
        ("POST", "/predict", secret.encode(), {"Content_Type": PNG}),
        ("POST", "/predict", body, {"Content_Type": content_type}),
        (
            "POST",
            "/predict",
            json.dumps({"instances": [secret]}).encode(),
            {"Content_Type": "application/json"},
        ),
        ("GET", f"/v2?{secret}", None, {"Cookie": secret, "User_Agent": secret, "Referer": secret}),
        ("GET", "/v2", None, {"Authorization": f"Bearer {wrong}"}),
        ("POST", "/predict", b"x", {"Authorization": f"Basic {secret}"}),
        ("POST", "/predict", b"x", {"X_Request_ID": f"{secret} is not well formed"}),
    ]
    for method, path, payload, headers in requests:
        assert guarded.ask(method, path, payload, **headers).status < 500
    log = guarded.service.log()
    assert secret not in log
    assert wrong not in log
    assert guarded.token not in log


def test_a_token_in_a_path_or_an_id_is_not_in_the_log(guarded: Guarded) -> None:
    """Where a client has put it by mistake; nor is it in the spans."""
    token = new_token()
    trace = secrets.token_hex(16)
    answer = guarded.ask("GET", f"/{token}", X_Request_ID=token, traceparent=f"00-{trace}-{'1' * 16}-01")
    assert answer.status == 404
    assert guarded.ask("GET", "/v2", X_Request_ID=token).status == 200
    assert guarded.ask("POST", f"/v2/models/{token}/infer", b"{}", X_Request_ID=ID).status == 404
    assert "/[token]" in guarded.service.log()
    assert token not in guarded.service.log()
    assert guarded.ask("POST", "/predict", png(a_digit()), Content_Type=PNG, X_Request_ID=token).status == 200
    assert token not in guarded.service.log()
    (span,) = guarded.collector.trace(trace, 1)
    assert attributes(span)["url.path"] == "/[token]"
    assert token not in str(span)


@pytest.mark.parametrize(
    "request_line", ["GET /predict?key=SECRET HTTP/9", "GET /a b?SECRET HTTP/1.1", "GET /SECRET"]
)
def test_a_request_that_cannot_be_parsed_puts_no_word_of_it_into_the_log(
    guarded: Guarded, request_line: str
) -> None:
    """What is wrong with it is said; a query, a field or a body may be a secret of any kind."""
    word = new_token().removeprefix("glyph_")
    for head in (
        f"{request_line.replace('SECRET', word)}\r\nHost: x\r\n\r\n",
        f"GET /v2 HTTP/1.1\r\nHost: x\r\nX-Key {word}\r\n\r\n",
        f"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{word}\r\n",
        f"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {word}\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", guarded.service.port), timeout=30) as connection:
            connection.sendall(head.encode())
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
    assert word not in guarded.service.log()
    assert "Invalid request from ip=127.0.0.1: " in guarded.service.log()


def test_gunicorns_lines_have_no_query_and_its_own_access_log_no_token(tmp_path: Path) -> None:
    """Gunicorn writes a request's target in places, and an access log of its own if GUNICORN_CMD_ARGS asks for one."""
    token, log = new_token(), tmp_path / "access.log"
    program = (
        "from gunicorn.config import Config; from serving.telemetry import logs; "
        "from serving.settings import ServiceSettings; "
        f"logs.configure(ServiceSettings()); config = Config(); config.set('accesslog', {str(log)!r}); "
        "log = logs.ServiceLogger(config); log.setup(config); "
        "log.exception('Error handling request %s %s', 'GET', '/predict?secret'); "
        f"log.access_log.info('%(r)s', {{'r': 'GET /{token}'}})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    first, *more = done.stderr.splitlines()
    assert first.endswith("] Error handling request GET /predict")
    assert not any("Error handling" in line for line in more)
    assert log.read_text().endswith("] GET /[token]\n")


def test_a_request_that_cannot_be_parsed_puts_no_token_no_token_into_the_log(guarded: Guarded) -> None:
    """A field without its colon is not understood as a field, and may well hold a secret."""
    token = new_token()
    for field in (f"Authorization Bearer {token}", f"Authorization : Bearer {token}", f"Bearer {token}: x"):
        with socket.create_connection(("127.0.0.1", guarded.service.port), timeout=30) as connection:
            connection.sendall(
                f"GET /v2 HTTP/1.1\r\nHost: x\r\n{field}\r\nConnection: close\r\n\r\n".encode()
            )
            answer = b""
            while piece := connection.recv(4096):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 4")
    assert token not in guarded.service.log()


def test_what_is_wrong_with_an_image_is_no_event_of_the_service(guarded: Guarded) -> None:
    """Whoever sends broken files fills no log: one line of the access log each, and nothing beside it."""
    broken = raw_tiff(np.zeros((28, 28, 1), np.uint8), 1, t277=(3, 1, 60000))
    assert guarded.ask("GET", "/v2").status == 200  # what the first request of all brings about is behind us
    before = len(guarded.service.log().splitlines())
    answer = guarded.ask("POST", "/predict", broken, Content_Type="image/tiff", X_Request_ID=f"{ID}-broken")
    assert answer.status == 422
    after = guarded.service.log().splitlines()[before:]
    assert [json.loads(line)["logger"] for line in after] == ["glyph.access"]


def test_text_is_the_default_and_says_the_same(bundle: Bundle, tmp_path: Any) -> None:
    """One line for a request, as Gunicorn writes its own."""
    with running(tmp_path, until="/readyz", model=bundle.path.parent, access_log=True) as service:
        answer = service.ask("POST", "/predict", png(a_digit()), Content_Type=PNG, X_Request_ID=ID)
        assert answer.status == 200
        (line,) = [line for line in service.log().splitlines() if ID in line]
        forged = "/predict%20200%200.1%20ms%20request_id=forged"
        assert service.ask("GET", forged).status == 404
        assert service.log().count(f'GET "{unquote(forged)}" 404 ') == 1
    assert re.fullmatch(
        rf"\[[^]]+\] \[\d+\] \[INFO\] 127\.0\.0\.1 POST /predict 200 \d+\.\d{{3}} ms request_id={ID}", line
    )


def test_an_announcement_is_no_break_in_a_log_of_json(guarded: Guarded) -> None:
    """The line to try is there, as a message."""
    messages = [json.loads(line)["message"] for line in guarded.service.log().splitlines()]
    assert any("curl --data-binary" in message for message in messages)
