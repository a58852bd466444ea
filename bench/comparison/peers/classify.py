"""Inference that all peers share: the same decoder, ONNX session and response.

This file runs in the peers' environments, so it imports nothing but NumPy, Pillow and ONNX Runtime; with
BENCH_DECODER=glyph also Glyph's decoder, for the contender that shows what that brings.
"""

import base64
import io
import os
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image

BATCH = 64
"""Most requests that a server with dynamic batching may run as one."""

Images = npt.NDArray[np.uint8]

if os.environ.get("BENCH_DECODER") == "glyph":
    from bundle.images.plain_png import decode as decode_plain
else:

    def decode_plain(data: bytes) -> Images | None:  # noqa: ARG001  nothing is plain
        """Leave every file to Pillow."""
        return None


def open_session() -> Any:
    """Return the session, with the options that suit a model this small best, on one core as on many."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"]
    )


def from_file(data: bytes) -> Images:
    """Return `uint8[1, 28, 28]` of an image file."""
    if (pixels := decode_plain(data)) is not None:
        return pixels[None]
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("L"))[None]


def from_octets(data: bytes) -> Images:
    """Return `uint8[n, 28, 28]` of 784 bytes an image."""
    return np.frombuffer(data, np.uint8).reshape(-1, 28, 28)


def from_body(content_type: str | None, data: bytes) -> Images:
    """Return the images of a body, by what it is declared as."""
    return from_octets(data) if content_type == "application/octet-stream" else from_file(data)


def from_base64(text: str) -> Images:
    """Return the images of base64: an image file, or pixels."""
    data = base64.b64decode(text)
    return from_file(data) if data.startswith(b"\x89PNG") else from_octets(data)


def run(session: Any, images: Images) -> npt.NDArray[np.float32]:
    """Return the probabilities, `float32[n, classes]`."""
    (probabilities,) = session.run(["probabilities"], {"images": images})
    result: npt.NDArray[np.float32] = probabilities
    return result


def joined(requests: list[Images]) -> Images:
    """Return the images of several requests as one batch."""
    return requests[0] if len(requests) == 1 else np.concatenate(requests)


def documents(probabilities: npt.NDArray[np.float32], counts: list[int]) -> list[dict[str, Any]]:
    """Return the answers of several requests that were run as one batch, of so many images each."""
    ends = np.cumsum(counts)
    return [document(probabilities[end - count : end]) for count, end in zip(counts, ends, strict=True)]


def document(probabilities: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Return the answer: for each image its label and its probabilities."""
    labels = probabilities.argmax(axis=1).tolist()
    rows = probabilities.tolist()
    return {
        "predictions": [
            {"label": label, "probabilities": row} for label, row in zip(labels, rows, strict=True)
        ]
    }
