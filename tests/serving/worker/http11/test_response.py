"""A response's bytes: what another HTTP library reads of them, and what must never be written."""

import http.client
import io
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import pytest

from serving.predict.exchange import Response
from serving.worker.http11.response import Dates, render

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


class _Socket:
    """What http.client reads from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


@pytest.mark.parametrize("headers", [{}, {"X-Request-ID": "a"}, {"X-A": "1", "X-B": "", "X-C": "\t\xe9 2"}])
@pytest.mark.parametrize("keep_alive", [True, False])
def test_a_library_reads_what_was_meant(headers: dict[str, str], *, keep_alive: bool) -> None:
    """Status, fields and body, as http.client has them."""
    answer = Response(body=b"abc", status=HTTPStatus.NOT_FOUND, headers=headers)
    read = http.client.HTTPResponse(_Socket(render(answer, (1, 1), DATE, keep_alive=keep_alive)))  # type: ignore[arg-type]
    read.begin()
    assert (read.status, read.reason, read.read()) == (404, "NOT FOUND", b"abc")
    fields = dict(read.getheaders())
    assert {name: fields[name] for name in headers} == {
        name: value.strip() for name, value in headers.items()
    }
    assert fields["Connection"] == ("keep-alive" if keep_alive else "close")
    assert (fields["Date"], fields["Content-Type"]) == (DATE, "application/json")
    assert len(fields) == len(headers) + 5


@pytest.mark.parametrize(
    "headers",
    [
        {"X-A": "1", "X-B": "2\r\nSet-Cookie: a=b"},
        {"X-A": "1\n", "X-B": "2"},
        {"X-A": "1\0"},
        {"X-A\r\nX-B": "1"},
        {"X A": "1"},
        {"X-A:": "1"},
        {"": "1", "X-B": "2"},
    ],
)
def test_a_field_that_would_be_read_as_another_is_not_written(headers: dict[str, Any]) -> None:
    """Whichever of them it is."""
    with pytest.raises(ValueError, match="cannot be written"):
        render(Response(body=b"", headers=headers), (1, 1), DATE, keep_alive=True)


def test_the_date_is_the_present_one() -> None:
    """In the form of RFC 9110, as the standard library's own parser of dates reads it."""
    written = parsedate_to_datetime(Dates().now())
    assert abs(datetime.now(UTC) - written) < timedelta(minutes=1)
