"""What Schemathesis cannot read off a schema: how images are made, and which members belong together.

Only cases that are meant to be right are touched; what it makes wrong stays wrong.
"""

import base64
import io
import re
from itertools import chain
from typing import Any

import numpy as np
import schemathesis
from hypothesis import strategies as st

from bench.support.pictures import SAMPLES

TIME = re.compile("[0-9]+")
LENGTH = "Inference-Header-Content-Length"


def npy(count: int) -> bytes:
    """Return images as NumPy saves them."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((count, 28, 28), np.uint8))
    return buffer.getvalue()


for media_type, sample in SAMPLES.items():
    schemathesis.openapi.media_type(media_type, st.just(sample))
schemathesis.openapi.media_type(
    "application/octet-stream", st.integers(1, 5).map(lambda count: bytes(784 * count))
)
schemathesis.openapi.media_type("application/x-npy", st.integers(1, 5).map(npy))
schemathesis.openapi.format(
    "image-base64", st.sampled_from([base64.b64encode(sample).decode() for sample in SAMPLES.values()])
)


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Allow time enough, and make the members of an inference request agree."""
    if TIME.fullmatch(str(case.headers.get("X-Request-Timeout-Ms", ""))):
        case.headers["X-Request-Timeout-Ms"] = "60000"  # a millisecond is rightly answered with 504
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if case.path.endswith(("/predict", "/invocations")):
        case.query.pop("resize", None)  # whether the model was trained so, no schema says
    if not case.path.endswith("/infer"):
        return
    case.headers.pop(LENGTH, None)
    if case.media_type == "application/octet-stream":
        case.headers[LENGTH] = "0"
    elif isinstance(case.body, dict):
        for tensor in case.body.get("inputs", []):
            data = flat(tensor["data"]) or [0]
            tensor["shape"][0] = 1 + int(tensor["shape"][0]) % 3
            size = tensor["shape"][0] * 784
            tensor["data"] = (data * (size // len(data) + 1))[:size]
            tensor.get("parameters", {}).pop("binary_data_size", None)
        names = {output["name"]: output for output in case.body.get("outputs", [])}
        if "outputs" in case.body:
            case.body["outputs"] = list(names.values())


def flat(data: list[Any]) -> list[Any]:
    """Return the numbers in a list, however deep they are."""
    return list(chain.from_iterable(flat(item) if isinstance(item, list) else [item] for item in data))
