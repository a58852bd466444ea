"""What happens to a request of a prediction route, in this order, under each worker class.

    exchange = pipeline.open(request, arrived)     its id, its route
    prepared     = pipeline.prepare(exchange)          admit and decode: may raise ProblemError
    ...      the worker runs the inference: alone (`answer`), or with whatever else has arrived
    answer   = pipeline.encode(exchange, prepared, images, outputs, start)
    answer   = pipeline.error_response(exchange, error)    instead, wherever a ProblemError came up
    answer   = pipeline.close(exchange, response)    the fields that every answer carries, the metrics, the log

A worker that cannot read a body opens an exchange without it, and refuses that with `malformed_framing` or
`body_too_large`. No HTTP library is known here, and nothing waits for anything.
"""

import logging
import random
import re
import time
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import orjson

from serving.errors import (
    PROBLEM_MEDIA_TYPE,
    RETRY_AFTER_SECONDS,
    BodyTooLargeError,
    DeviceLostError,
    MalformedBodyError,
    NotFoundError,
    OverloadedError,
    ProblemError,
)
from serving.model.engine import Engine, Outputs, padding
from serving.model.store import ModelStore
from serving.predict import content_coding, native, oip
from serving.predict.exchange import Exchange, PreparedRequest, Request, Response, Target
from serving.predict.load_shedding import TIMEOUT_FIELD, check_deadline, deadline
from serving.security.response_headers import Headers, merge
from serving.security.tokens import Authenticator
from serving.settings import ServiceSettings
from serving.telemetry.request_log import RequestLog

log = logging.getLogger("glyph.serving")

PREDICT = "/predict"
_PREDICT_TARGET = Target(PREDICT)
PHASES = ("queue", "decode", "infer", "encode")
"""A request's phases, one after the other."""

_SERVER_TIMING = ", ".join(f"{phase};dur=%.3f" for phase in PHASES) + ', batch;desc="%d"'

_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_WELL_FORMED_ID = re.compile(r"[A-Za-z0-9._~+/=:@-]{1,128}")


def target_of(method: str, path: str) -> Target | None:
    """Return what a request of a prediction route asks; None: the Flask application answers it."""
    if method != "POST":
        return None
    return _PREDICT_TARGET if path == PREDICT else oip.target(path)


def engine_of(store: ModelStore, model: str | None, version: str | None = None) -> Engine:
    """Return the engine that is asked for, by names as they were sent.

    Raises:
        NotReadyError: no model is loaded.
        NotFoundError: the model is another, or the version is not loaded.
    """
    served = store.engine()
    name = served.bundle.manifest.name
    if model is not None and model != name:
        raise NotFoundError(
            f"there is no model '{model[:80]}'", remedy=f"The model that is served is '{name}'."
        )
    if version is None:
        return served
    if not _VERSION.fullmatch(version):
        raise NotFoundError(f"'{version[:40]}' is no version", remedy="Versions are integers from 1 on.")
    return store.engine(int(version))


class Pipeline:
    """The prediction routes, whichever worker class reads HTTP."""

    def __init__(self, settings: ServiceSettings, store: ModelStore) -> None:
        self.settings = settings
        self.store = store
        self.authenticator = Authenticator(settings)
        self.headers = Headers(settings)
        self.request_log = RequestLog(settings)

    def open(self, request: Request, arrived: float, target: Target | None = None) -> Exchange:
        """Begin; this never fails, so that every request has an exchange to be refused in.

        Args:
            request: of a prediction route.
            arrived: `time.perf_counter()` when it was whole.
            target: what its path names, where somebody has looked already.
        """
        self.store.metrics.opened()
        target = target or target_of(request.method, request.path) or _PREDICT_TARGET
        return Exchange(
            request=request,
            target=target,
            arrived=arrived,
            id=request_id(request.headers),
            method=request.method,
            path=request.path,
            route=target.route,
            client=request.client,
            trace=self.request_log.context(request.headers),
        )

    def prepare(self, exchange: Exchange) -> PreparedRequest:
        """Admit and decode, if the request may ask and unless the request's time is over already.

        Raises:
            ProblemError: the request cannot be answered.
        """
        started = time.perf_counter()
        request, settings = exchange.request, self.settings
        headers, body = request.headers, request.body
        if self.authenticator.tokens is not None:
            exchange.holder = self.authenticator.authenticate(headers.get("authorization"))
        asked = headers.get(TIMEOUT_FIELD)
        exchange.deadline = deadline(asked, exchange.arrived, settings.request_timeout_seconds)
        check_deadline(exchange.deadline, started)
        if "content-encoding" in headers:
            body = content_coding.decode(request, settings.max_body_bytes)
            check_deadline(exchange.deadline)
        target = exchange.target
        if target.model is None:
            prepared = native.prepare(self.store.engine(), request, body, settings, exchange.deadline)
        else:
            engine = engine_of(self.store, target.model, target.version)
            prepared = oip.prepare(engine, request, body, settings, exchange.deadline)
        exchange.phases["decode"] = time.perf_counter() - started
        return prepared

    def encode(
        self,
        exchange: Exchange,
        prepared: PreparedRequest,
        images: npt.NDArray[np.uint8],
        outputs: Outputs,
        start: int,
    ) -> Response:
        """Return the response, a batch's images and outputs in hand, where those of `prepared` begin at `start`."""
        started = time.perf_counter()
        response = prepared.encode(images, outputs, start)
        exchange.phases["encode"] = time.perf_counter() - started
        return response

    def error_response(self, exchange: Exchange, error: Exception) -> Response:
        """Return the answer of a request that failed; what is no ProblemError is logged, and answered 500 or 503.

        Where the GPU is lost the process is not ready from now on, and says so.
        """
        if isinstance(error, DeviceLostError):
            error = self.store.lose(str(error))
        if not isinstance(error, ProblemError):
            log.error("%s %s failed", exchange.method, exchange.path, exc_info=error)
            error = internal_error(error)
        exchange.refusal = error.kind
        return problem(error, exchange.path)

    def close(self, exchange: Exchange, response: Response) -> Response:
        """End: give the answer what every answer carries."""
        asked, fields = exchange.request.headers, response.headers
        if "accept-encoding" in asked:
            content_coding.compress(response, asked["accept-encoding"])
        fields["X-Request-ID"] = exchange.id
        if exchange.phases:
            fields["Server-Timing"] = server_timing(exchange)
        merge(fields, self.headers.of(asked))
        # An int, because to look something up by an HTTPStatus calls a function of Python's.
        exchange.status, exchange.seconds = int(response.status), time.perf_counter() - exchange.arrived
        self.store.metrics.observe(exchange)
        if (self.request_log.wanted or exchange.trace is not None) and (
            own := self.request_log.end(exchange)
        ) is not None:
            fields["traceresponse"] = own
        return response

    def answer(self, exchange: Exchange) -> Response:
        """Do all of it on the calling thread, for a worker without a batcher."""
        exchange.phases["queue"] = time.perf_counter() - exchange.arrived
        try:
            prepared = self.prepare(exchange)
            check_deadline(exchange.deadline)
            started = time.perf_counter()
            images = native.images_of([prepared])
            outputs = prepared.engine.infer(images)
            exchange.phases["infer"] = time.perf_counter() - started
            exchange.batch = len(images)
            self.store.metrics.batch(
                prepared.engine.bundle, images, outputs.probabilities, padding(len(images))
            )
            response = self.encode(exchange, prepared, images, outputs, 0)
        except Exception as error:  # noqa: BLE001  a client is answered whatever happened
            response = self.error_response(exchange, error)
        return self.close(exchange, response)


def request_id(headers: Mapping[str, str]) -> str:
    """Return the client's own id where it is well formed (a token that is safe in a log), else a new one."""
    sent = headers.get("x-request-id")
    if sent is not None and _WELL_FORMED_ID.fullmatch(sent):
        return sent
    return f"{random.getrandbits(128):032x}"  # no secret: it has only to be another each time


def server_timing(exchange: Exchange) -> str:
    """Return the phases in milliseconds and the batch's size (W3C Server Timing, section 2)."""
    phases = exchange.phases
    if len(phases) == len(PHASES):  # as of every request that was answered: one formatting costs half of four
        return _SERVER_TIMING % (*[1000 * phases[phase] for phase in PHASES], exchange.batch)
    metrics = [f"{phase};dur={1000 * seconds:.3f}" for phase, seconds in phases.items()]
    if exchange.batch:
        metrics.append(f'batch;desc="{exchange.batch}"')
    return ", ".join(metrics)


def problem(error: ProblemError, path: str = "") -> Response:
    """Return an error as RFC 9457 problem details; of a path of the Open Inference Protocol's, in its form."""
    if oip.is_path(path):
        return oip.problem(error)
    return Response(
        body=orjson.dumps(error.document()),
        status=error.status,
        media_type=PROBLEM_MEDIA_TYPE,
        headers=dict(error.headers),
    )


def internal_error(error: Exception | None = None) -> ProblemError:
    """Return what a client is told of a failure that nobody foresaw: 503 where memory ended, else 500."""
    if isinstance(error, MemoryError):
        return _out_of_memory()
    return ProblemError(
        "an unexpected error; it is in the service's log",
        remedy="Try again; if it stays, tell the operator the time of this answer and its X-Request-ID.",
    )


def _out_of_memory() -> OverloadedError:
    """Return what a client is told when this process has no memory for a request."""
    return OverloadedError(
        "the service has no memory left for this request",
        remedy=f"Ask again after {RETRY_AFTER_SECONDS} s, with fewer images in one request; or give the service "
        "more memory, or lower GLYPH_QUEUE_BYTES and GLYPH_MAX_BODY_BYTES.",
        retry_after=RETRY_AFTER_SECONDS,
    )


def body_too_large(limit: int) -> BodyTooLargeError:
    """Return the refusal of a body of more than `limit` bytes."""
    return BodyTooLargeError(
        f"the body is larger than {limit} bytes",
        remedy="Send fewer or smaller files in one request, or raise GLYPH_MAX_BODY_BYTES.",
    )


def malformed_framing() -> MalformedBodyError:
    """Return the refusal of a body whose framing is broken."""
    return MalformedBodyError(
        "the body ended early or its chunks are malformed",
        remedy="Send as many bytes as Content-Length says, or chunks as in RFC 9112, section 7.1.",
    )
