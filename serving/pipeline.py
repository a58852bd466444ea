"""What both doors do with a request of a prediction route, in the order in which it happens.

    exchange = pipeline.open(request, arrived)     its id, its route, its deadline
    work     = pipeline.prepare(exchange)          admit and decode: may raise ProblemError
    ...      the door runs the inference: alone (`answer`), or with whatever else has arrived
    answer   = pipeline.encode(exchange, work, outputs)
    answer   = pipeline.refuse(exchange, error)    instead, wherever a ProblemError came up
    answer   = pipeline.close(exchange, answer)    the fields that every answer carries, the metrics, the log

No HTTP library is known here, and nothing waits for anything.
"""

import logging
import time
from dataclasses import dataclass, field

import orjson

from serving import predict
from serving.engine import Outputs
from serving.errors import PROBLEM_MEDIA_TYPE, ProblemError
from serving.messages import Answer, Request
from serving.predict import Work
from serving.settings import ServiceSettings
from serving.state import ModelState

log = logging.getLogger("glyph.serving")


@dataclass(kw_only=True, slots=True)
class Exchange:
    """One request on its way to its answer, and what was measured on the way."""

    request: Request
    arrived: float
    """`time.perf_counter()` when the request was whole."""
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds spent in `decode`, `queue`, `infer` and `encode`, as far as it came."""
    batch: int = 0
    """Images in the batch that it was run in, others' included and padding not."""


class Pipeline:
    """The prediction routes, whatever the door."""

    def __init__(self, settings: ServiceSettings, state: ModelState) -> None:
        self.settings = settings
        self.state = state

    def is_prediction(self, method: str, path: str) -> bool:
        """Tell whether a request is answered here; every other is the Flask application's."""
        return method == "POST" and path == "/predict"

    def open(self, request: Request, arrived: float) -> Exchange:
        """Begin; this never fails, so that every request has an exchange to be refused in."""
        return Exchange(request=request, arrived=arrived)

    def prepare(self, exchange: Exchange) -> Work:
        """Admit and decode.

        Raises:
            ProblemError: the request cannot be answered.
        """
        started = time.perf_counter()
        work = predict.prepare(self.state.engine(), exchange.request, self.settings)
        exchange.phases["decode"] = time.perf_counter() - started
        return work

    def encode(self, exchange: Exchange, work: Work, outputs: Outputs) -> Answer:
        """Return the answer, the outputs for `work.images` in hand."""
        started = time.perf_counter()
        answer = work.encode(outputs)
        exchange.phases["encode"] = time.perf_counter() - started
        return answer

    def refuse(self, exchange: Exchange, error: Exception) -> Answer:
        """Return the answer of a request that failed; what is no ProblemError is logged and answered 500."""
        if not isinstance(error, ProblemError):
            log.error("%s %s failed", exchange.request.method, exchange.request.path, exc_info=error)
            error = ProblemError(
                "an unexpected error; it is in the service's log",
                remedy="Try again; if it stays, tell the operator the time of this answer.",
            )
        return problem(error)

    def close(self, exchange: Exchange, answer: Answer) -> Answer:
        """End: give the answer what every answer carries."""
        return answer

    def answer(self, exchange: Exchange) -> Answer:
        """Do all of it on the calling thread, for a door without a batcher."""
        try:
            work = self.prepare(exchange)
            started = time.perf_counter()
            outputs = work.engine.infer(work.images)
            exchange.phases["infer"] = time.perf_counter() - started
            exchange.batch = len(work.images)
            answer = self.encode(exchange, work, outputs)
        except Exception as error:  # noqa: BLE001  a door must answer whatever happened
            answer = self.refuse(exchange, error)
        return self.close(exchange, answer)


def problem(error: ProblemError) -> Answer:
    """Return an error as RFC 9457 problem details."""
    return Answer(
        body=orjson.dumps(error.document()),
        status=error.status,
        media_type=PROBLEM_MEDIA_TYPE,
        headers=dict(error.headers),
    )
