"""A request and its answer as plain data: what both doors, the inference worker and WSGI, translate to."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

JSON = "application/json"
HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%]+)(?::[0-9]*)?")
"""The value of a Host field (RFC 9110, section 7.2; RFC 3986, section 3.2.2): http has no target without a host."""


@dataclass(kw_only=True, slots=True)
class Request:
    """One HTTP request, whole: its body was read within its limit and its framing undone.

    Nobody changes it. What is made for each request is not frozen all the same: that costs a call for each field.
    """

    method: str
    path: str
    """Percent-decoded, without the query."""
    query: str = ""
    """As sent, without the question mark."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """By name in lower case; values of a repeated field are joined by a comma and a space (RFC 9110, 5.3)."""
    body: bytes = b""
    client: str = ""
    """The address of who sent it: the last one, where there are proxies."""


@dataclass(kw_only=True, slots=True)
class Answer:
    """One HTTP response, whole."""

    body: bytes
    media_type: str = JSON
    status: HTTPStatus = HTTPStatus.OK
    headers: dict[str, str] = field(default_factory=dict)
    """More fields, by name as they are written; content type and length are not among them."""


def joined(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return header fields as `Request.headers` has them."""
    headers: dict[str, str] = {}
    for name, value in fields:
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return headers
