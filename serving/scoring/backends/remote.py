"""`--url`: the remote backend, a running service by the Open Inference Protocol with binary tensors.

The scoring threads share urllib3's connection pool. Every request is a full batch, padded with black images, so the
service runs the same batches as `LocalBackend`, however it groups concurrent requests, and the results have the same
bits on the same device.

Temporary failures (408, 425, 429, 502, 503, 504, a broken connection) are retried: after `Retry-After` (RFC 9110,
section 10.2.3), else with exponential backoff, until `--patience-seconds` have passed. `urllib3.Retry` is not enough:
it counts attempts instead of time, its pauses cannot be interrupted and have no jitter at their maximum, one thread's
`Retry-After` does not hold for the others, and it reads a response of any size. Redirects are not followed.
"""

import contextlib
import http.client
import random
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import urllib3
from urllib3.exceptions import HTTPError, InvalidHeader, ProtocolError
from urllib3.util import parse_url

from bundle.images.contract import Resize
from bundle.manifest import Polarity
from serving.client import ClientError, read_token, service_url
from serving.model.engine import padded
from serving.predict.oip import HEADER_LENGTH, INPUT, OCTET_STREAM
from serving.scoring.errors import BackendError
from serving.scoring.records import Images
from serving.scoring.settings import MAX_REMOTE_BATCH, ScoreSettings

FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 10.0
LONGEST_RETRY_AFTER_SECONDS = 300
GRACE_SECONDS = 5.0
"""How much longer than the service's own deadline the connection waits for its response."""
MAX_RESPONSE_BYTES = 64 << 20
RETRYABLE = frozenset({408, 425, 429, 502, 503, 504})
"""Statuses that are retried; predictions have no side effects, so a retry is safe."""
_RETRY = urllib3.Retry(retry_after_max=LONGEST_RETRY_AFTER_SECONDS)
REMEDIES = {
    401: "give a valid token with --token-file",
    403: "give a token with the permission by --token-file",
    404: "the service may have another version now: run again with a new output",
    413: "the service's limits are too small: raise its GLYPH_MAX_BODY_BYTES and GLYPH_MAX_IMAGES",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """A complete response."""

    status: int
    headers: Mapping[str, str]
    """Case-insensitive."""
    body: bytes

    def message(self) -> str:
        """Return the status with the error message of the body, if its format is known."""
        with contextlib.suppress(ValueError, AttributeError):
            document = orjson.loads(self.body)
            detail = document.get("error") or f"{document.get('detail')}. {document.get('remedy', '')}"
            return f"{self.status}: {' '.join(str(detail).split())[:300]}"
        return f"{self.status} {http.client.responses.get(self.status, '')}".strip()


class Client:
    """A thread-safe HTTP client of one service."""

    def __init__(self, settings: ScoreSettings) -> None:
        assert settings.url is not None  # noqa: S101  checked by the caller
        self.url = settings.url.rstrip("/")
        self.patience = settings.patience_seconds
        self._headers = {
            "User-Agent": "glyph-score",
            "X-Request-Timeout-Ms": str(max(1, int(settings.timeout_seconds * 1000))),
        }
        try:
            if settings.token_file is not None:
                self._headers["Authorization"] = f"Bearer {read_token(settings.token_file)}"
            self._pool = open_pool(self.url, settings)
        except ClientError as error:
            raise BackendError(str(error)) from error
        self._prefix = parse_url(self.url).path or ""
        """The URL's path, as behind a proxy, without a trailing slash."""
        self._not_before = 0.0
        """No thread sends a request before this time; from `Retry-After`."""
        self._closed = threading.Event()

    def close(self) -> None:
        """Close the connections, and wake the threads that wait for a retry; these raise BackendError."""
        self._closed.set()
        self._pool.close()

    def request(
        self, method: str, path: str, body: bytes = b"", fields: Mapping[str, str] | None = None
    ) -> Response:
        """Return the response with status 200; retry temporary failures until `patience` seconds have passed.

        Raises:
            BackendError: the request failed.
        """
        problem, delays = "", _backoff_delays()
        deadline: float | None = None
        while True:
            self._wait(self._not_before - time.monotonic())
            wait = next(delays)
            try:
                response = self._exchange(method, path, body, fields or {})
            except HTTPError as error:
                reason = error.__cause__ or error.args[-1]  # the OS error that urllib3 wraps
                if isinstance(reason, ssl.SSLCertVerificationError):
                    raise BackendError(
                        f"{self.url} has an untrusted certificate ({reason.verify_message}): give its authority by "
                        "--ca-file, and the host name that the certificate has"
                    ) from error
                idle = isinstance(error, ProtocolError) and not problem
                problem = f"it cannot be reached: {reason}"
                if idle:  # the server may have closed an idle connection: retry at once on a new one
                    continue
            else:
                if response.status == http.client.OK:
                    return response
                problem = f"it answered {response.message()}"
                if response.status not in RETRYABLE:
                    remedy = REMEDIES.get(response.status)
                    raise BackendError(f"{self.url}: {problem}" + (f"; {remedy}" if remedy else ""))
                asked = retry_after(response.headers.get("Retry-After"))
                if asked is not None:
                    wait = asked
                    self._not_before = max(self._not_before, time.monotonic() + asked)
            now = time.monotonic()
            deadline = now + self.patience if deadline is None else deadline
            if now + wait > deadline:
                raise BackendError(
                    f"{self.url}: {problem}; retried for {self.patience:g} s. Written parts are kept: the same "
                    "command resumes the run when the service is back (--patience-seconds retries longer)"
                )
            self._wait(wait)

    def _wait(self, seconds: float) -> None:
        if self._closed.wait(max(0.0, seconds)):
            raise BackendError("the run was stopped")

    def _exchange(self, method: str, path: str, body: bytes, fields: Mapping[str, str]) -> Response:
        """Send the request and read the response."""
        with contextlib.closing(
            self._pool.urlopen(
                method,
                self._prefix + path,
                body or None,
                {**self._headers, **fields},
                retries=False,
                redirect=False,  # the token must not be sent to another host
                preload_content=False,
            )
        ) as answer:
            content = answer.read(MAX_RESPONSE_BYTES + 1)
            if len(content) > MAX_RESPONSE_BYTES:
                raise HTTPError(f"a response of more than {MAX_RESPONSE_BYTES} bytes")
            return Response(status=answer.status, headers=answer.headers, body=content)


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteBackend:
    """A service's model, pinned to the version that was served when the run started."""

    client: Client
    name: str
    version: int
    digest: str
    classes: Sequence[str]
    polarity: Polarity
    provider: str
    arithmetic: str
    """Precision of the first layer for a full batch."""
    concurrency: int
    batch: int = MAX_REMOTE_BATCH
    resize: Resize | None = None

    @property
    def identity(self) -> Mapping[str, str]:
        """Return the service's provider and precision."""
        return {"provider": self.provider, "arithmetic": self.arithmetic}

    def score(self, images: Images) -> npt.NDArray[np.float32]:
        """Return the service's probabilities.

        Raises:
            BackendError: the service cannot be reached, rejects the request, or violates the protocol.
        """
        full = images if len(images) == self.batch else padded(images, self.batch)
        response = self.client.request("POST", self._path, *infer_request(full))
        return infer_response(response, self.version, (len(full), len(self.classes)))[: len(images)]

    def close(self) -> None:
        """Close the client."""
        self.client.close()

    @property
    def _path(self) -> str:
        return f"/v2/models/{self.name}/versions/{self.version}/infer"


def open_remote(settings: ScoreSettings) -> RemoteBackend:
    """Open the model that a service has.

    Raises:
        BackendError: the service cannot be reached, rejects the token, or is not Glyph.
    """
    client = Client(settings)
    try:
        return _open(client, settings)
    except BackendError:
        client.close()
        raise


def _open(client: Client, settings: ScoreSettings) -> RemoteBackend:
    response = client.request("GET", "/metadata")
    try:
        document: Any = orjson.loads(response.body)
        model = document["model"]
        return RemoteBackend(
            client=client,
            name=str(model["name"]),
            version=int(model["version"]),
            digest=str(model["digest"]),
            classes=tuple(map(str, document["classes"])),
            polarity=document["input"]["polarity"],
            provider=str(document["provider"]),
            # An older service has no other than float32; one that is "mixed" computes full batches in integers.
            arithmetic="float32" if document.get("arithmetic", "float32") == "float32" else "integer",
            concurrency=settings.connections,
            batch=settings.batch or MAX_REMOTE_BATCH,
            resize=document["input"].get("resize"),  # none from an older service
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BackendError(
            f"{client.url}/metadata is not the response of a Glyph service: give the service's address"
        ) from error


def infer_request(images: Images) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of an inference request for `uint8[n, 28, 28]`.

    Source: Triton's docs/protocol/extension_binary_data.md.
    """
    pixels = images.tobytes()
    document = {
        "inputs": [
            {
                "name": INPUT,
                "shape": images.shape,
                "datatype": "UINT8",
                "parameters": {"binary_data_size": len(pixels)},
            }
        ],
        "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}],
    }
    header = orjson.dumps(document)
    return header + pixels, {HEADER_LENGTH: str(len(header)), "Content-Type": OCTET_STREAM}


def infer_response(response: Response, version: int, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return a response's probabilities, `float32[n, classes]`.

    Raises:
        BackendError: the response does not match the request.
    """
    try:
        length = int(response.headers[HEADER_LENGTH])
        document: Any = orjson.loads(response.body[:length])
        (output,) = document["outputs"]
        actual = (output["name"], output["datatype"], tuple(output["shape"]), document["model_version"])
        probabilities = np.frombuffer(response.body[length:], "<f4").reshape(shape)
    except (ValueError, KeyError, TypeError) as error:
        raise BackendError(
            f"the response does not follow the Open Inference Protocol with binary data ({error})"
        ) from error
    if actual != ("probabilities", "FP32", shape, str(version)):
        raise BackendError(f"the response has {actual}, which the request did not ask for")
    return probabilities


def open_pool(url: str, settings: ScoreSettings) -> urllib3.HTTPConnectionPool:
    """Return a connection pool for a URL; it connects with the first request.

    Raises:
        ClientError: the URL is invalid.
        BackendError: the CA file cannot be read.
    """
    tls: dict[str, Any] = {}
    if service_url(url).scheme == "https":
        try:
            tls["ssl_context"] = ssl.create_default_context(cafile=settings.ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise BackendError(
                f"--ca-file {settings.ca_file} cannot be read: {error.strerror or error}"
            ) from error
    elif settings.ca_file is not None:
        raise BackendError("--ca-file requires an https --url: this one is http")
    return urllib3.connection_from_url(
        url, maxsize=settings.connections, timeout=settings.timeout_seconds + GRACE_SECONDS, **tls
    )


def retry_after(field: str | None) -> float | None:
    """Return the seconds of a `Retry-After` field, at most 300; None if it is missing or invalid."""
    try:
        return None if field is None else _RETRY.parse_retry_after(field)
    except (InvalidHeader, ValueError, OverflowError):  # the last two for a number or date that is too large
        return None


def _backoff_delays() -> Iterator[float]:
    """Yield exponentially growing delays with jitter, so that threads do not retry in step."""
    pause = FIRST_BACKOFF_SECONDS
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311  not for security
        pause = min(2 * pause, LONGEST_BACKOFF_SECONDS)
