"""A floor: a WSGI application that reads the body and returns a constant; the cost of Gunicorn's gthread worker."""

import json
from collections.abc import Callable, Iterable
from typing import Any

BODY = json.dumps({"predictions": [{"label": 7, "probabilities": [0.1] * 10}]}).encode()
FIELDS = [("Content-Type", "application/json"), ("Content-Length", str(len(BODY)))]


def app(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]
) -> Iterable[bytes]:
    """Answer a constant."""
    environ["wsgi.input"].read()
    start_response("200 OK", FIELDS)
    return [BODY]
