"""Header fields and parameters, as the API's description refers to them."""

from typing import Any

HEADERS: dict[str, Any] = {
    "X-Request-ID": {
        "description": "The request's own id if it sent a well-formed one, else a new one.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._~+/=:@-]{1,128}$"},
    },
    "Server-Timing": {
        "description": "Milliseconds of decode, queue, infer and encode; the size of the batch (W3C Server Timing).",
        "schema": {"type": "string"},
        "example": 'decode;dur=0.213, queue;dur=0.054, infer;dur=0.190, encode;dur=0.031, batch;desc="4"',
    },
    "Inference-Header-Content-Length": {
        "description": "The length in bytes of the JSON before the binary tensors.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}},
    "Allow": {"required": True, "schema": {"type": "string"}},
    "WWW-Authenticate": {"schema": {"type": "string"}},
    "ETag": {"schema": {"type": "string"}},
}

PARAMETERS: dict[str, Any] = {
    "X-Request-ID": {
        "name": "X-Request-ID",
        "in": "header",
        "description": "Taken over into the answer and the log if it is 1 to 128 of A-Z a-z 0-9 . _ ~ + / = : @ -; "
        "else a new one is made.",
        "schema": {"type": "string"},
        "example": "7b1d2c0a",
    },
    "X-Request-Timeout-Ms": {
        "name": "X-Request-Timeout-Ms",
        "in": "header",
        "description": "Answer 504 rather than compute what took longer than this to get its turn.",
        "schema": {"type": "string", "pattern": "^0{0,11}[1-9][0-9]*$"},
        "example": "30000",
    },
    "Content-Encoding": {
        "name": "Content-Encoding",
        "in": "header",
        "description": "A coding of the body that is undone.",
        "schema": {"enum": ["gzip", "deflate", "identity"]},
    },
    "top": {
        "name": "top",
        "in": "query",
        "description": "List so many classes alone, the most probable first.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
        "example": 3,
    },
    "threshold": {
        "name": "threshold",
        "in": "query",
        "description": "Give no label (null, the service abstains) where its probability is below this.",
        "schema": {"type": "number", "minimum": 0, "maximum": 1},
        "example": 0.9,
    },
    "Inference-Header-Content-Length": {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "description": "The length in bytes of the JSON before the binary tensor; 0 where the body is one raw tensor.",
        "schema": {"type": "string", "pattern": "^[0-9]{1,10}$"},
    },
    "model": {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}},
    "version": {
        "name": "version",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
}
