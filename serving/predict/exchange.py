"""Plain data of the pipeline: request, target, exchange, prepared request, response.

The inference worker and the Flask application convert from HTTP and WSGI to these types.
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

if TYPE_CHECKING:  # the management process imports this module, and must not import ONNX Runtime
    from serving.model.engine import Engine, Outputs
    from serving.model.store import ModelStore
    from serving.settings import ServiceSettings

JSON = "application/json"
HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%]+)(?::[0-9]*)?")
"""The value of a Host field (RFC 9110, section 7.2; RFC 3986, section 3.2.2); an http URI needs a host."""


@dataclass(kw_only=True, slots=True)
class Request:
    """One complete HTTP request, its transfer coding decoded.

    Immutable by convention: a frozen dataclass would cost a call for each field of every request.
    """

    method: str
    path: str
    """Percent-decoded, without the query."""
    query: str = ""
    """As the client sent it, without the question mark."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """By lower-case name; the values of a repeated field are joined by a comma and a space (RFC 9110, section 5.3)."""
    body: bytes = b""
    client: str = ""
    """The peer's address; behind proxies, that of the last proxy."""


@dataclass(kw_only=True, slots=True)
class Response:
    """One complete HTTP response."""

    body: bytes
    media_type: str = JSON
    status: HTTPStatus = HTTPStatus.OK
    headers: dict[str, str] = field(default_factory=dict)
    """Header fields by name, in the case in which they are sent, without content type and length."""


@dataclass(frozen=True, slots=True)
class Target:
    """What the path of a prediction route names."""

    route: str
    """The path's template in the API's description, such as `/v2/models/{model}/infer`."""
    model: str | None = None
    """As the client wrote it in an Open Inference Protocol path; None for `POST /predict`: the served model."""
    version: str | None = None
    """As the client wrote it; None for the served version."""
    prepare: "Callable[[ModelStore, Request, bytes, ServiceSettings, float], PreparedRequest] | None" = None
    """Decodes a request whose body names the model, as gRPC's messages do; `model` is not None then."""


@dataclass(kw_only=True, slots=True)
class Exchange(RequestRecord):
    """One request while it is answered, with what is measured."""

    request: Request
    target: Target
    arrived: float
    """`time.perf_counter()` when the request was complete."""
    deadline: float = inf
    """After it the request is not computed any more; on the clock of `arrived`, set by `Pipeline.prepare`."""


@dataclass(kw_only=True, slots=True)
class PreparedRequest:
    """A decoded request, ready for inference."""

    engine: "Engine"
    images: npt.NDArray[np.uint8] | bytes
    """`uint8[n, 28, 28]`, n at least 1; or a plain PNG's filtered scanlines, which `native.images_of` decodes."""
    encode: "Callable[[npt.NDArray[np.uint8], Outputs, int], Response]"
    """Makes the response, given a batch's images and outputs and the index at which the n images begin."""
    cost: int
    """Estimated time in units of about 20 us: 4 for each decoded image; for a request of raw pixels 3, plus 1 for
    each image."""

    def __len__(self) -> int:
        """Return the number of its images."""
        return 1 if isinstance(self.images, bytes) else len(self.images)


def combine_fields(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return header fields in the form of `Request.headers`."""
    headers: dict[str, str] = {}
    for name, value in fields:
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return headers
