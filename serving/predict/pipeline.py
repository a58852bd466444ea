"""The steps of a prediction request, in order, under each worker class.

    exchange = pipeline.open(request, arrived)      request id and route
    prepared = pipeline.prepare(exchange)           authenticate and decode; may raise ProblemError
    ...                                             inference: for one request (`answer`), or batched by the worker
    response = pipeline.encode(exchange, prepared, images, outputs, start)
    response = pipeline.error_response(exchange, error)     instead, after an exception in any of these steps
    response = pipeline.close(exchange, response)   common header fields, metrics, access log and spans;
                                                    `close_batch` for the answered requests of a batch

A worker that cannot read a body opens an exchange without it and answers with the error: `malformed_framing` or
`body_too_large`. The pipeline uses no HTTP library and never blocks.
"""

import logging
import random
import re
import time
from collections.abc import Mapping, Sequence

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
from serving.predict import content_coding, native, oip, tf_serving
from serving.predict.exchange import Exchange, PreparedRequest, Request, Response, Target
from serving.predict.load_shedding import TIMEOUT_FIELD, check_deadline, deadline
from serving.security.response_headers import Headers
from serving.security.tokens import Authenticator
from serving.settings import ServiceSettings
from serving.telemetry.request_log import RequestLog

log = logging.getLogger("glyph.serving")

PREDICT = "/predict"
INVOCATIONS = "/invocations"
"""`POST /predict` as SageMaker asks for it (docs.aws.amazon.com/sagemaker, Use Your Own Inference Code with Hosting
Services)."""
PREDICTION_ROUTES = frozenset((PREDICT, INVOCATIONS, *oip.ROUTES, oip.GRPC_INFER, *tf_serving.ROUTES))
"""The templates of all prediction routes, as `Target.route` and the metrics have them."""
_PREDICT_TARGET, _INVOCATIONS_TARGET = Target(PREDICT), Target(INVOCATIONS)
PHASES = ("queue", "decode", "infer", "encode")
"""The phases of a request, in order."""

_SERVER_TIMING = ", ".join(f"{phase};dur=%.3f" for phase in PHASES) + ', batch;desc="%d"'

_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_WELL_FORMED_ID = re.compile(r"[A-Za-z0-9._~+/=:@-]{1,128}")


def target_of(method: str, path: str, predict_route: str | None = None) -> Target | None:
    """Return what a prediction route names; None if the Flask application answers the request.

    Args:
        method: the request's.
        path: percent-decoded, without the query.
        predict_route: one more path of `POST /predict`, by the settings.
    """
    if method != "POST":
        return None
    if path == PREDICT:
        return _PREDICT_TARGET
    if path == INVOCATIONS:
        return _INVOCATIONS_TARGET
    found = oip.target(path) or tf_serving.target(path)
    return _PREDICT_TARGET if found is None and path == predict_route else found


def engine_of(store: ModelStore, model: str | None, version: str | None = None) -> Engine:
    """Return the engine for a model and version as the client wrote them.

    Raises:
        NotReadyError: no model is loaded.
        NotFoundError: the model is another, or the version is not loaded.
    """
    served = store.engine()
    name = served.bundle.manifest.name
    if model is not None and model != name:
        raise NotFoundError(f"there is no model '{model[:80]}'", remedy=f"The served model is '{name}'.")
    if version is None:
        return served
    if not _VERSION.fullmatch(version):
        raise NotFoundError(f"'{version[:40]}' is not a version", remedy="Versions are integers from 1.")
    return store.engine(int(version))


class Pipeline:
    """Answers prediction requests, whichever worker class reads HTTP."""

    def __init__(self, settings: ServiceSettings, store: ModelStore) -> None:
        self.settings = settings
        self.store = store
        self.authenticator = Authenticator(settings)
        self.headers = Headers(settings)
        self.request_log = RequestLog(settings)

    def open(self, request: Request, arrived: float, target: Target | None = None) -> Exchange:
        """Begin. This never fails, so that every request has an exchange, which an error response needs too.

        Args:
            request: of a prediction route.
            arrived: `time.perf_counter()` when it was complete.
            target: what its path names, if the caller has parsed it already.
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
        """Authenticate the request, check its deadline, and decode its body.

        Raises:
            ProblemError: the request is rejected.
        """
        started = time.perf_counter()
        request, settings = exchange.request, self.settings
        headers, body = request.headers, request.body
        if self.authenticator.tokens is not None:
            exchange.holder = self.authenticator.authenticate(headers.get("authorization"))
        timeout = headers.get(TIMEOUT_FIELD)
        exchange.deadline = deadline(timeout, exchange.arrived, settings.request_timeout_seconds)
        check_deadline(exchange.deadline, started)
        if "content-encoding" in headers:
            body = content_coding.decode(request, settings.max_body_bytes)
            check_deadline(exchange.deadline)
        target = exchange.target
        if target.model is None:
            prepared = native.prepare(self.store.engine(), request, body, settings, exchange.deadline)
        elif target.prepare is not None:
            prepared = target.prepare(self.store, request, body, settings, exchange.deadline)
        else:
            engine = engine_of(self.store, target.model, target.version)
            protocol = tf_serving if tf_serving.is_path(target.route) else oip
            prepared = protocol.prepare(engine, request, body, settings, exchange.deadline)
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
        """Return the response, given a batch's images and outputs; those of `prepared` begin at index `start`."""
        started = time.perf_counter()
        response = prepared.encode(images, outputs, start)
        exchange.phases["encode"] = time.perf_counter() - started
        return response

    def error_response(self, exchange: Exchange, error: Exception) -> Response:
        """Return the response to a request that failed; an unexpected exception is logged, and becomes 500 or 503.

        If the GPU is lost, the process is not ready from now on, and the response is 503.
        """
        if isinstance(error, DeviceLostError):
            error = self.store.lose_device(str(error))
        if not isinstance(error, ProblemError):
            log.error("%s %s failed", exchange.method, exchange.path, exc_info=error)
            error = internal_error(error)
        exchange.refusal = error.kind
        return problem(error, exchange.path)

    def close(self, exchange: Exchange, response: Response) -> Response:
        """Finish: add the fields of every response, and record the request in metrics, access log and spans.

        This never fails, and neither does `close_batch`: an error in a record is logged, and costs no answer.
        """
        self._complete(exchange, response)
        try:
            self.store.metrics.observe(exchange)
        except Exception:
            log.exception("a request could not be counted: %s", exchange.id)
        return response

    def close_batch(self, answered: Sequence[tuple[Exchange, Response]]) -> None:
        """Finish as `close`, for the requests of a batch that have passed all phases, in one update of the metrics."""
        for exchange, response in answered:
            self._complete(exchange, response)
        try:
            self.store.metrics.observe_batch([exchange for exchange, _ in answered])
        except Exception:
            log.exception("%d requests could not all be counted", len(answered))

    def count_inference(self, engine: Engine, images: npt.NDArray[np.uint8], outputs: Outputs) -> None:
        """Count an inference and what it found in the metrics; an error in that is logged, and costs no answer."""
        try:
            self.store.metrics.batch(engine.bundle, images, outputs.probabilities, padding(len(images)))
        except Exception:
            log.exception("an inference of %d images could not be counted", len(images))

    def _complete(self, exchange: Exchange, response: Response) -> None:
        """Add the fields of every response, and record the request in access log and spans."""
        sent, fields = exchange.request.headers, response.headers
        try:
            fields["X-Request-ID"] = exchange.id
            if exchange.phases:
                fields["Server-Timing"] = server_timing(exchange)
            fields.update(self.headers.of(sent))
            # An int: hashing an HTTPStatus, as a dictionary lookup does, calls a Python function.
            exchange.status, exchange.seconds = int(response.status), time.perf_counter() - exchange.arrived
            if self.request_log.enabled or exchange.trace is not None:
                span = self.request_log.end(exchange)
                if span is not None:
                    fields["traceresponse"] = span
        except Exception:
            log.exception("a request could not be recorded: %s", exchange.id)

    def answer(self, exchange: Exchange) -> Response:
        """Run all steps after `open` on the calling thread, for a worker without a batcher."""
        exchange.phases["queue"] = time.perf_counter() - exchange.arrived
        try:
            prepared = self.prepare(exchange)
            check_deadline(exchange.deadline)
            started = time.perf_counter()
            images = native.images_of([prepared])
            outputs = prepared.engine.infer(images)
            exchange.phases["infer"] = time.perf_counter() - started
            exchange.batch = len(images)
            self.count_inference(prepared.engine, images, outputs)
            response = self.encode(exchange, prepared, images, outputs, 0)
        except Exception as error:  # noqa: BLE001  every failure becomes a response
            response = self.error_response(exchange, error)
        return self.close(exchange, response)


def request_id(headers: Mapping[str, str]) -> str:
    """Return the client's X-Request-ID if it is well formed, and so safe in a log, else a new id."""
    sent = headers.get("x-request-id")
    if sent is not None and _WELL_FORMED_ID.fullmatch(sent):
        return sent
    return random.randbytes(16).hex()  # noqa: S311  unique, not secret


def server_timing(exchange: Exchange) -> str:
    """Return the value of Server-Timing: phases in milliseconds, batch size (W3C Server Timing, section 2)."""
    phases = exchange.phases
    if len(phases) == len(PHASES):  # the usual case: one formatting takes half the time of four
        return _SERVER_TIMING % (
            1000 * phases["queue"],
            1000 * phases["decode"],
            1000 * phases["infer"],
            1000 * phases["encode"],
            exchange.batch,
        )
    metrics = [f"{phase};dur={1000 * seconds:.3f}" for phase, seconds in phases.items()]
    if exchange.batch:
        metrics.append(f'batch;desc="{exchange.batch}"')
    return ", ".join(metrics)


def problem(error: ProblemError, path: str = "") -> Response:
    """Return an error as RFC 9457 problem details, or as the protocol defines errors that the path belongs to."""
    if oip.is_path(path) or tf_serving.is_path(path):  # both define the same
        return oip.problem(error)
    return Response(
        body=orjson.dumps(error.document()),
        status=error.status,
        media_type=PROBLEM_MEDIA_TYPE,
        headers=dict(error.headers),
    )


def internal_error(error: Exception | None = None) -> ProblemError:
    """Return the error for an unexpected exception: 503 if memory was exhausted, else 500."""
    if not isinstance(error, MemoryError):
        return ProblemError()
    return OverloadedError(
        "the service has no memory left for this request",
        remedy=f"Retry after {RETRY_AFTER_SECONDS} s with fewer images per request; the operator can give the "
        "service more memory, or lower GLYPH_QUEUE_BYTES and GLYPH_MAX_BODY_BYTES.",
        retry_after=RETRY_AFTER_SECONDS,
    )


def body_too_large(limit: int) -> BodyTooLargeError:
    """Return the error for a body of more than `limit` bytes."""
    return BodyTooLargeError(f"the body is larger than {limit} bytes")


def malformed_framing() -> MalformedBodyError:
    """Return the error for a body whose framing is broken."""
    return MalformedBodyError(
        "the body ended early or its chunked coding is malformed",
        remedy="Send exactly Content-Length bytes, or chunks as defined by RFC 9112, section 7.1.",
    )
