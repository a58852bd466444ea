"""`--url`: a running service computes, asked by the Open Inference Protocol with binary tensors.

The threads that score share urllib3's pool of kept connections. A request is always of a full batch,
padded with black images: so the service runs the very batches that `LocalEngine` runs, however it
groups the requests that arrive together, and the answers have the same bits on the same device.

What is refused for a time (429, 502, 503, 504, a connection that breaks) is asked again: when
`Retry-After` says so (RFC 9110, section 10.2.3), else after a growing pause, until the patience ends.
The loop that does it is ours: `urllib3.Retry` counts tries where a run has a time, its pauses end with no run and
are alike in all threads where they are longest, what `Retry-After` tells one thread it keeps from the others, and it
reads an answer whole, however large. No redirect is followed.
"""

import contextlib
import http.client
import random
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import urllib3
from urllib3.exceptions import HTTPError, InvalidHeader, ProtocolError
from urllib3.util import parse_url

from bundle.manifest import Polarity
from serving.model.engine import padded
from serving.predict.oip import HEADER_LENGTH, INPUT, OCTET_STREAM
from serving.scoring.errors import EngineError
from serving.scoring.records import Images
from serving.scoring.settings import LARGEST_ASKED, ScoreSettings

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 10.0
LONGEST_RETRY_AFTER_SECONDS = 300
GRACE_SECONDS = 5.0
"""The service is asked to give up at the deadline; the connection waits for it to say so."""
MAX_ANSWER_BYTES = 64 << 20
AGAIN = frozenset({408, 425, 429, 502, 503, 504})
"""Statuses that another time may not have; the questions have no effect, so asking twice is safe."""
MAX_TOKEN_BYTES = 1 << 14
_RETRY = urllib3.Retry(retry_after_max=LONGEST_RETRY_AFTER_SECONDS)
REMEDIES = {
    401: "give a valid token with --token-file",
    403: "give a token that may ask with --token-file",
    404: "another version may be served by now: run it again, into a new output",
    413: "the service takes smaller requests only: raise its GLYPH_MAX_BODY_BYTES and GLYPH_MAX_IMAGES",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """An answer, whole."""

    status: int
    headers: Mapping[str, str]
    """By names in any case."""
    body: bytes

    def message(self) -> str:
        """Return what the service said was wrong, in its own words where it used any that are known."""
        with contextlib.suppress(ValueError, AttributeError):
            document = orjson.loads(self.body)
            detail = document.get("error") or f"{document.get('detail')}. {document.get('remedy', '')}"
            return f"{self.status}: {' '.join(str(detail).split())[:300]}"
        return f"{self.status} {http.client.responses.get(self.status, '')}".strip()


class Client:
    """Asks one service, from any number of threads."""

    def __init__(self, settings: ScoreSettings) -> None:
        assert settings.url is not None  # noqa: S101  the caller looked
        self.url = settings.url.rstrip("/")
        self.patience = settings.patience_seconds
        self._fields = {
            "User-Agent": "glyph-score",
            "X-Request-Timeout-Ms": str(max(1, int(settings.timeout_seconds * 1000))),
        }
        if settings.token_file is not None:
            self._fields["Authorization"] = f"Bearer {read_token(settings.token_file)}"
        self._pool = open_pool(self.url, settings)
        self._prefix = parse_url(self.url).path or ""
        """What the service's paths begin with, as behind a proxy; without a last slash."""
        self._not_before = 0.0
        """What `Retry-After` asked of one thread holds for all of them."""
        self._closed = threading.Event()

    def close(self) -> None:
        """End the connections, and wake who waits to ask again; they raise EngineError."""
        self._closed.set()
        self._pool.close()

    def ask(
        self, method: str, path: str, body: bytes = b"", fields: Mapping[str, str] | None = None
    ) -> Response:
        """Return the answer with status 200, after as many tries as patience allows.

        Raises:
            EngineError: there is none.
        """
        trouble, pauses = "", _pauses()
        deadline: float | None = None
        while True:
            self._wait(self._not_before - time.monotonic())
            wait = next(pauses)
            try:
                response = self._exchange(method, path, body, fields or {})
            except HTTPError as error:
                said = error.__cause__ or error.args[-1]  # what the system said, which urllib3 wraps
                if isinstance(said, ssl.SSLCertVerificationError):
                    raise EngineError(
                        f"{self.url} shows a certificate that cannot be trusted ({said.verify_message}): name who "
                        "signed it with --ca-file, and the host as the certificate does"
                    ) from error
                idle = isinstance(error, ProtocolError) and not trouble
                trouble = f"it cannot be reached: {said}"
                if idle:  # it may have been closed while nothing was asked; a new one tells more
                    continue
            else:
                if response.status == http.client.OK:
                    return response
                trouble = f"it answered {response.message()}"
                if response.status not in AGAIN:
                    remedy = REMEDIES.get(response.status)
                    raise EngineError(f"{self.url}: {trouble}" + (f"; {remedy}" if remedy else ""))
                asked = retry_after(response.headers.get("Retry-After"))
                if asked is not None:
                    wait = asked
                    self._not_before = max(self._not_before, time.monotonic() + asked)
            now = time.monotonic()
            deadline = now + self.patience if deadline is None else deadline
            if now + wait > deadline:
                raise EngineError(
                    f"{self.url}: {trouble}; tried for {self.patience:g} s. What is written stays: the same "
                    "command goes on when the service is back (--patience-seconds waits longer)"
                )
            self._wait(wait)

    def _wait(self, seconds: float) -> None:
        if self._closed.wait(max(0.0, seconds)):
            raise EngineError("the run ends, and nothing more is asked")

    def _exchange(self, method: str, path: str, body: bytes, fields: Mapping[str, str]) -> Response:
        """Send the request and read the answer; the connection stays open if the service keeps it open."""
        with contextlib.closing(
            self._pool.urlopen(
                method,
                self._prefix + path,
                body or None,
                {**self._fields, **fields},
                retries=False,
                redirect=False,  # a token goes to no other host
                preload_content=False,
            )
        ) as answer:
            content = answer.read(MAX_ANSWER_BYTES + 1)
            if len(content) > MAX_ANSWER_BYTES:
                raise HTTPError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
            return Response(status=answer.status, headers=answer.headers, body=content)


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteEngine:
    """A service's model; the version is the one that was served at the start, and no other one answers."""

    client: Client
    name: str
    version: int
    digest: str
    classes: Sequence[str]
    polarity: Polarity
    provider: str
    arithmetic: str
    """Of a full batch."""
    concurrency: int
    batch: int = LARGEST_ASKED

    @property
    def identity(self) -> Mapping[str, str]:
        """Return what the service computes with, as a local engine would."""
        return {"provider": self.provider, "arithmetic": self.arithmetic}

    def score(self, images: Images) -> npt.NDArray[np.float32]:
        """Return the probabilities as the service gives them.

        Raises:
            EngineError: it cannot be reached, refuses, or answers what the protocol does not have.
        """
        full = images if len(images) == self.batch else padded(images, self.batch)
        response = self.client.ask("POST", self._path, *question(full))
        return answer(response, self.version, (len(full), len(self.classes)))[: len(images)]

    def close(self) -> None:
        """Stop asking."""
        self.client.close()

    @property
    def _path(self) -> str:
        return f"/v2/models/{self.name}/versions/{self.version}/infer"


def open_remote(settings: ScoreSettings) -> RemoteEngine:
    """Ask a service what it serves.

    Raises:
        EngineError: it cannot be reached, lets us not in, or is no Glyph service.
    """
    client = Client(settings)
    try:
        return _served(client, settings)
    except EngineError:
        client.close()
        raise


def _served(client: Client, settings: ScoreSettings) -> RemoteEngine:
    response = client.ask("GET", "/metadata")
    try:
        document: Any = orjson.loads(response.body)
        model = document["model"]
        return RemoteEngine(
            client=client,
            name=str(model["name"]),
            version=int(model["version"]),
            digest=str(model["digest"]),
            classes=tuple(map(str, document["classes"])),
            polarity=document["input"]["polarity"],
            provider=str(document["provider"]),
            # An older service has no other than float32; one that is mixed computes full batches in integers.
            arithmetic="float32" if document.get("arithmetic", "float32") == "float32" else "integer",
            concurrency=settings.connections,
            batch=settings.batch or LARGEST_ASKED,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"{client.url}/metadata does not answer as a Glyph service does: give the service's own address"
        ) from error


def question(images: Images) -> tuple[bytes, dict[str, str]]:
    """Return the body and the fields of a request for the probabilities of `uint8[n, 28, 28]`.

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


def answer(response: Response, version: int, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return the probabilities in a response, `float32[n, classes]`.

    Raises:
        EngineError: it is not what was asked for.
    """
    try:
        length = int(response.headers[HEADER_LENGTH])
        document: Any = orjson.loads(response.body[:length])
        (output,) = document["outputs"]
        told = (output["name"], output["datatype"], tuple(output["shape"]), document["model_version"])
        probabilities = np.frombuffer(response.body[length:], "<f4").reshape(shape)
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"the service's answer is not one of the Open Inference Protocol with binary data ({error})"
        ) from error
    if told != ("probabilities", "FP32", shape, str(version)):
        raise EngineError(f"the service answered {told}, which was not asked for")
    return probabilities


def open_pool(url: str, settings: ScoreSettings) -> urllib3.HTTPConnectionPool:
    """Return what asks the service at an address, on a kept connection for each thread; it connects when asked.

    Raises:
        EngineError: it is no address, or the file of certificates cannot be read.
    """
    try:
        parts = parse_url(url)
    except ValueError as error:
        raise EngineError(f"--url {url!r} is no address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.host or parts.query is not None or parts.auth:
        raise EngineError(
            f"--url {url!r} is no address of a service: give one as http://host:8080, or https://host; "
            "a token goes into --token-file"
        )
    tls: dict[str, Any] = {}
    if parts.scheme == "https":
        try:
            tls["ssl_context"] = ssl.create_default_context(cafile=settings.ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise EngineError(
                f"--ca-file {settings.ca_file} cannot be read: {error.strerror or error}"
            ) from error
    elif settings.ca_file is not None:
        raise EngineError("--ca-file is for an https --url: this one is http")
    return urllib3.connection_from_url(
        url, maxsize=settings.connections, timeout=settings.timeout_seconds + GRACE_SECONDS, **tls
    )


def read_token(path: Path) -> str:
    """Return the token in a file, whose only line it is; it is repeated in no message.

    Raises:
        EngineError: there is none.
    """
    try:
        with path.open("rb") as file:
            token = file.read(MAX_TOKEN_BYTES).strip()
    except OSError as error:
        raise EngineError(f"--token-file {path} cannot be read: {error.strerror}") from error
    if not token or not all(33 <= byte < 127 for byte in token):
        raise EngineError(
            f"--token-file {path} holds no token: it should have one line, as serving.token prints it"
        )
    return token.decode("ascii")


def retry_after(field: str | None) -> float | None:
    """Return the seconds that a `Retry-After` field asks for, at most 300; None if it is missing or none."""
    try:
        return None if field is None else _RETRY.parse_retry_after(field)
    except (InvalidHeader, ValueError, OverflowError):  # the last two of a number or a date that is too large
        return None


def _pauses() -> Iterator[float]:
    """Yield pauses that double, each with chance in it, so that threads do not come back in step."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311  nothing is hidden by it
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
