"""Answers that never change while the process runs: made once, and not sent again to who has them."""

import hashlib
from dataclasses import dataclass

from flask import Response, request


@dataclass(frozen=True, slots=True)
class Constant:
    """The content of an answer."""

    content: bytes
    media_type: str
    digest: str
    """Of the content, for the entity tag (RFC 9110, section 8.8.3)."""


def constant(content: bytes, media_type: str) -> Constant:
    """Return the answer of this content."""
    return Constant(content, media_type, hashlib.sha256(content).hexdigest()[:32])


def send(answer: Constant) -> Response:
    """Answer it; a browser keeps it and asks each time whether it is still the same."""
    response = Response(answer.content, mimetype=answer.media_type)
    response.set_etag(answer.digest)
    response.cache_control.no_cache = True
    response.make_conditional(request)
    return response
