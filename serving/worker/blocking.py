"""Which requests would block the event loop: those whose bodies take long to decode, which a thread does instead."""

from serving.predict import oip, tf_serving
from serving.predict.exchange import JSON, Request, Target
from serving.predict.native import PIXELS

LARGE_BODY = 32 << 10
"""Bytes beyond which a body is decoded on a thread: its milliseconds would delay every other request.

At this size the slowest kind, a form of plain image files, takes 2.7 ms, half of what a turn of the loop may take; a
thread and back costs 0.09 ms (`python -m bench bodies`, on an idle Intel Xeon).
"""
FEW_FILES = 4
"""Image files in one request that are decoded on the loop: the worst of this size takes 1.4 ms (the same bench)."""
FEW_FILES_BYTES = 2 << 10
"""Bytes up to which files are not counted: a body this small cannot have many, as the worst have 685 bytes each."""
LARGE_PIXELS = 128 << 10
"""`LARGE_BODY` for raw pixels, which need no decoding: some 160 images, about 1 ms (the same bench)."""


def blocks_loop(request: Request, target: Target) -> bool:
    """Return whether decoding a request takes so long that it should not be done on the event loop."""
    size, headers, query = len(request.body), request.headers, request.query
    if query and ("resize" in query or "%" in query):  # a small file may have millions of pixels
        return True
    if size <= FEW_FILES_BYTES or "content-encoding" in headers:
        return "content-encoding" in headers
    if size <= LARGE_BODY:
        return max_files(request, target) > FEW_FILES
    if size > LARGE_PIXELS or headers.get("content-type") not in PIXELS:
        return True
    if target.model is None:
        return False
    # The bytes before the binary tensors are JSON. Without the field that gives their number, all bytes are.
    length = headers.get(oip.HEADER_LENGTH.lower(), "")
    return not (length.isascii() and length.isdigit() and len(length) < 9) or int(length) > LARGE_BODY


def max_files(request: Request, target: Target) -> int:
    """Return an upper bound of a request's image files, from a scan of its body without parsing it."""
    body, media_type = request.body, request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return body.count(b"\n--") + body.count(b"\r--")  # a boundary follows each, whatever ends its lines
    if tf_serving.is_path(target.route) or (media_type == JSON and target.model is None):
        return body.count(b'"') // 2 - 1  # each file is a string, and so is the key "instances"
    return 1
