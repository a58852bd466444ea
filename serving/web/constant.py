"""Responses that never change while the process runs, with an entity tag for conditional requests."""

import hashlib
from dataclasses import dataclass

from flask import Response, request


@dataclass(frozen=True, slots=True)
class Constant:
    """The content of a response."""

    content: bytes
    media_type: str
    digest: str
    """SHA-256 of the content or its source, for the entity tag (RFC 9110, section 8.8.3)."""


def constant(content: bytes, media_type: str) -> Constant:
    """Return a constant with the digest of its content."""
    return Constant(content, media_type, hashlib.sha256(content).hexdigest()[:32])


def send(constant: Constant) -> Response:
    """Return the response, or 304 if the client has it: browsers store it and revalidate it each time (no-cache)."""
    response = Response(constant.content, mimetype=constant.media_type)
    response.set_etag(constant.digest)
    response.cache_control.no_cache = True
    response.make_conditional(request)
    return response
