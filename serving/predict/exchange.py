"""A prediction's way as plain data: request, target, exchange, prepared request, answer.

The inference worker and the Flask application translate to this, and the pipeline does its work on it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from math import inf
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from serving.telemetry.request_record import RequestRecord

if TYPE_CHECKING:  # what needs no model must not import ONNX Runtime
    from serving.model.engine import Engine, Outputs

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
class Response:
    """One HTTP response, whole."""

    body: bytes
    media_type: str = JSON
    status: HTTPStatus = HTTPStatus.OK
    headers: dict[str, str] = field(default_factory=dict)
    """More fields, by name as they are written; content type and length are not among them."""


@dataclass(frozen=True, slots=True)
class Target:
    """What the path of a prediction names."""

    route: str
    """The path as the API's description has it, such as `/v2/models/{model}/infer`."""
    model: str | None = None
    """Of an Open Inference Protocol route, as it was sent; None is `POST /predict`, which asks what is served."""
    version: str | None = None
    """As it was sent, if one was named."""


@dataclass(kw_only=True, slots=True)
class Exchange(RequestRecord):
    """One request on its way to its answer, and what was measured on the way."""

    request: Request
    target: Target
    arrived: float
    """`time.perf_counter()` when the request was whole."""
    deadline: float = inf
    """When it need not be answered any more, on the clock of `arrived`; `Pipeline.prepare` sets it."""


@dataclass(kw_only=True, slots=True)
class PreparedRequest:
    """What one request asks of a model."""

    engine: "Engine"
    images: npt.NDArray[np.uint8] | bytes
    """`uint8[n, 28, 28]`, n at least 1; or a plain PNG's scanlines, which `predict.images_of` makes pixels of."""
    encode: "Callable[[npt.NDArray[np.uint8], Outputs, int], Response]"
    """Makes the answer of a batch's images and outputs, where those of the n images begin at the place given."""
    cost: int
    """What it takes, in some 20 us: 4 for an image that had to be decoded, and for a request of pixels 3 and 1 for
    each image."""

    def __len__(self) -> int:
        """Return the number of its images."""
        return 1 if isinstance(self.images, bytes) else len(self.images)


def combine_fields(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return header fields as `Request.headers` has them."""
    headers: dict[str, str] = {}
    for name, value in fields:
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return headers
