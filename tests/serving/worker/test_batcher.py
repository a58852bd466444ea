"""The batcher: what has arrived is run together, each answer is its own, and nothing is computed for nobody."""

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import orjson
import pytest
import uvloop
from PIL import Image

from bench.support.models import Linear, publish_synthetic
from bench.support.pictures import encoded, png
from bundle.repository import Bundle
from serving.errors import OverloadedError
from serving.model.cuda_graph_thread import graph_thread
from serving.model.engine import BUCKETS, Engine, Outputs, padding
from serving.predict.exchange import Exchange, Request, Response
from serving.predict.pipeline import Pipeline
from serving.settings import ServiceSettings
from serving.telemetry.metrics import Metrics
from serving.telemetry.request_log import RequestLog
from serving.telemetry.request_record import RequestRecord
from serving.web.app import create_app
from serving.worker import batcher
from serving.worker.batcher import TURN_COST, Batcher, QueuedRequest

Pixels = npt.NDArray[np.uint8]
PATIENCE = 120.0
FILES = TURN_COST // 4
"""Image files that are decoded in a turn."""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no turn end early on a slow machine."""
    monkeypatch.setattr(batcher, "TURN_SECONDS", PATIENCE)


@pytest.fixture
def pipeline(bundle: Bundle) -> Pipeline:
    """Return the pipeline of an application, in one arithmetic for batches of every size."""
    app = create_app(ServiceSettings(model=bundle.path.parent, provider="cpu", arithmetic="float32"))
    found = app.extensions["glyph.pipeline"]
    assert isinstance(found, Pipeline)
    return found


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Return a loop that nothing else uses."""
    made = uvloop.new_event_loop()
    yield made
    made.close()


def asked(pipeline: Pipeline, pixels: Pixels, *, age: float = 0.0, **headers: str) -> Exchange:
    """Open the exchange of one image, which arrived so many seconds ago."""
    fields = {"content-type": "image/png"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    request = Request(method="POST", path="/predict", headers=fields, body=png(pixels))
    return pipeline.open(request, time.perf_counter() - age)


@dataclass
class FakePeer:
    """A client by its number."""

    number: int
    is_closed: bool = False
    half_closed: bool = False


def answered(
    loop: asyncio.AbstractEventLoop,
    batcher: Batcher,
    exchanges: list[Exchange],
    gone: frozenset[int] = frozenset(),
    half_closed: frozenset[int] = frozenset(),
) -> list[Response]:
    """Put all of them in one turn of the loop, and return their answers in the same order."""
    answers: dict[int, Response] = {}

    def done(peer: FakePeer, answer: Response) -> None:
        answers[peer.number] = answer
        if len(answers) == len(exchanges):
            loop.stop()

    def put() -> None:
        for number, exchange in enumerate(exchanges):
            batcher.put(
                QueuedRequest(exchange, FakePeer(number, number in gone, number in half_closed), done)
            )

    loop.call_soon(put)
    late = loop.call_later(PATIENCE, loop.stop)  # where an answer never comes
    loop.run_forever()
    late.cancel()
    return [answers[number] for number in range(len(exchanges))]


def images(digit: Pixels, count: int) -> list[Pixels]:
    """Return so many images, each another one."""
    return [np.roll(digit, number, axis=number % 2) for number in range(count)]


def test_what_arrives_together_is_run_together_and_answered_as_if_alone(
    pipeline: Pipeline, loop: asyncio.AbstractEventLoop, digit: Pixels
) -> None:
    """One batch of eleven; each answer has the bytes that it has alone."""
    pixels = images(digit, 11)
    exchanges = [asked(pipeline, one) for one in pixels]
    answers = answered(loop, Batcher(loop, pipeline), exchanges)
    assert {exchange.batch for exchange in exchanges} == {11}
    assert [answer.body for answer in answers] == [
        pipeline.answer(asked(pipeline, one)).body for one in pixels
    ]
    assert set(exchanges[0].phases) == {"queue", "decode", "infer", "encode"}


def test_files_of_all_kinds_and_pixels_in_one_batch_keep_their_places(
    pipeline: Pipeline, loop: asyncio.AbstractEventLoop, digit: Pixels
) -> None:
    """Plain PNGs are made pixels together, all others before; one is inverted, and only that one is warned of."""
    a, b, c, d = images(digit, 4)
    bodies = [
        ("image/png", png(a)),
        ("application/octet-stream", np.stack([b, 255 - c]).tobytes()),
        ("image/png", png(255 - c)),
        ("image/bmp", encoded(Image.fromarray(d), "BMP")),
        ("image/png", encoded(Image.fromarray(a).convert("RGB"), "PNG")),
        ("image/png", png(b)),
    ]

    def opened() -> list[Exchange]:
        return [
            pipeline.open(
                Request(method="POST", path="/predict", headers={"content-type": kind}, body=body),
                time.perf_counter(),
            )
            for kind, body in bodies
        ]

    exchanges = opened()
    answers = answered(loop, Batcher(loop, pipeline), exchanges)
    assert {exchange.batch for exchange in exchanges} == {7}
    assert [answer.body for answer in answers] == [pipeline.answer(exchange).body for exchange in opened()]
    warned = [
        [bool(one["warnings"]) for one in orjson.loads(answer.body)["predictions"]] for answer in answers
    ]
    assert warned == [[False], [False, True], [True], [False], [False], [False]]


def test_a_turn_takes_a_bounded_number(
    pipeline: Pipeline, loop: asyncio.AbstractEventLoop, digit: Pixels
) -> None:
    """Two hundred at once are several batches, so that sockets are looked at in between."""
    exchanges = [asked(pipeline, digit) for _ in range(200)]
    answers = answered(loop, Batcher(loop, pipeline), exchanges)
    assert {answer.status for answer in answers} == {200}
    assert {exchange.batch for exchange in exchanges} == {FILES, 200 % FILES}


def test_a_turn_takes_more_of_what_needs_no_decoding(
    pipeline: Pipeline, loop: asyncio.AbstractEventLoop, digit: Pixels
) -> None:
    """Requests of 64 images of pixels: four are a batch, by either protocol, and as JSON one is."""

    def of(path: str, kind: str, body: bytes) -> Exchange:
        headers = {"content-type": kind, "inference-header-content-length": "0"}
        request = Request(method="POST", path=path, headers=headers, body=body)
        return pipeline.open(request, time.perf_counter())

    pixels = np.repeat(digit[None], 64, axis=0)
    octets = "application/octet-stream"
    for path in ("/predict", "/v2/models/synthetic/infer"):
        exchanges = [of(path, octets, pixels.tobytes()) for _ in range(6)]
        assert {answer.status for answer in answered(loop, Batcher(loop, pipeline), exchanges)} == {200}
        assert [exchange.batch for exchange in exchanges] == [256] * 4 + [128] * 2
    numbers = orjson.dumps({"instances": pixels.tolist()})
    exchanges = [of("/predict", "application/json", numbers) for _ in range(2)]
    assert {answer.status for answer in answered(loop, Batcher(loop, pipeline), exchanges)} == {200}
    assert [exchange.batch for exchange in exchanges] == [64, 64]


def test_a_bad_request_spoils_its_own_answer_only(
    pipeline: Pipeline, loop: asyncio.AbstractEventLoop, digit: Pixels
) -> None:
    """In the middle of others, an image of another size."""
    exchanges = [asked(pipeline, one) for one in (digit, np.zeros((9, 9), np.uint8), digit)]
    assert [answer.status for answer in answered(loop, Batcher(loop, pipeline), exchanges)] == [200, 422, 200]


def test_a_half_closed_peer_waits_behind_the_others(
    pipeline: Pipeline, loop: asyncio.AbstractEventLoop, digit: Pixels
) -> None:
    """The first fifty are of clients that have gone, most likely; the fifty after them need not wait for them."""
    exchanges = [asked(pipeline, digit) for _ in range(100)]
    answers = answered(loop, Batcher(loop, pipeline), exchanges, half_closed=frozenset(range(50)))
    assert {answer.status for answer in answers} == {200}  # for they may be there, and have only said all
    first_batch = {number for number, exchange in enumerate(exchanges) if exchange.batch == FILES}
    assert set(range(50, 100)) < first_batch


def test_a_full_queue_has_room_at_the_cost_of_half_closed_peers(
    pipeline: Pipeline, loop: asyncio.AbstractEventLoop, digit: Pixels
) -> None:
    """Of more than a batch, those that have hung up are still waiting after the first turn; one is refused."""
    batcher = Batcher(loop, pipeline)
    refusal = OverloadedError("there is more than can be answered", remedy="Wait.")
    assert not batcher.shed_half_closed(refusal)
    made: list[bool] = []
    exchanges = [asked(pipeline, digit) for _ in range(100)]
    loop.call_soon(
        lambda: loop.call_soon(lambda: loop.call_soon(lambda: made.append(batcher.shed_half_closed(refusal))))
    )
    answers = answered(loop, batcher, exchanges, half_closed=frozenset(range(50)))
    assert made == [True]
    statuses = [answer.status for answer in answers]
    assert statuses.count(HTTPStatus.SERVICE_UNAVAILABLE) == 1
    assert statuses[50:] == [HTTPStatus.OK] * 50


def test_what_is_late_or_whose_client_has_gone_is_not_computed(
    pipeline: Pipeline, loop: asyncio.AbstractEventLoop, digit: Pixels
) -> None:
    """One has waited longer than it may, one client has gone: the batch is of the others."""
    exchanges = [
        asked(pipeline, digit),
        asked(pipeline, digit, age=2.0, x_request_timeout_ms="1000"),
        asked(pipeline, digit),
        asked(pipeline, digit, age=2.0, x_request_timeout_ms="60000"),
    ]
    answers = answered(loop, Batcher(loop, pipeline), exchanges, gone=frozenset({2}))
    assert [answer.status for index, answer in enumerate(answers) if index != 2] == [200, 504, 200]
    assert [exchange.batch for exchange in exchanges] == [2, 0, 0, 2]
    assert "decode" not in exchanges[1].phases
    assert "decode" not in exchanges[2].phases


def test_a_reload_between_two_requests_mixes_no_models(
    pipeline: Pipeline, loop: asyncio.AbstractEventLoop, digit: Pixels, tmp_path: Path
) -> None:
    """Requests that were decoded for two engines in one turn are answered by their own."""
    other = create_app(ServiceSettings(model=publish_synthetic(tmp_path).path.parent, provider="cpu"))
    engines = [pipeline.store.engine(), other.extensions["glyph"].engine()]
    asking = iter([engines[0], engines[1], engines[0]])
    runs: list[tuple[int, int]] = []
    original = Engine.infer

    def infer(self: Engine, batch: Pixels) -> Outputs:
        runs.append((engines.index(self), len(batch)))
        return original(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "infer", infer)
        patch.setattr(type(pipeline.store), "engine", lambda _self, _version=None: next(asking))
        answered(loop, Batcher(loop, pipeline), [asked(pipeline, digit) for _ in range(3)])
    assert sorted(runs) == [(0, 2), (1, 1)]


def test_an_inference_that_fails_is_500_for_its_batch_and_the_next_is_well(
    pipeline: Pipeline, loop: asyncio.AbstractEventLoop, digit: Pixels
) -> None:
    """A failing session is an answer too."""
    batcher = Batcher(loop, pipeline)

    def fail(_self: Engine, _images: Pixels) -> Outputs:
        raise RuntimeError("no")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "infer", fail)
        answers = answered(loop, batcher, [asked(pipeline, digit) for _ in range(2)])
        assert [answer.status for answer in answers] == [500, 500]
    assert answered(loop, batcher, [asked(pipeline, digit)])[0].status == 200


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Metrics, "batch"), (Metrics, "observe"), (Metrics, "observe_batch"), (RequestLog, "end")],
)
def test_what_cannot_be_recorded_is_answered_all_the_same(
    pipeline: Pipeline,
    loop: asyncio.AbstractEventLoop,
    digit: Pixels,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
) -> None:
    """An error in the metrics or the access log of a batch, a rejected request among it, loses no answer."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(owner, name, fail)
    pipeline.request_log.enabled = True
    exchanges = [asked(pipeline, one) for one in (digit, np.zeros((9, 9), np.uint8), digit)]
    assert [answer.status for answer in answered(loop, Batcher(loop, pipeline), exchanges)] == [200, 422, 200]
    assert pipeline.answer(asked(pipeline, digit)).status == 200


def test_an_error_in_the_record_of_one_request_costs_only_that_one_its_record(
    pipeline: Pipeline, loop: asyncio.AbstractEventLoop, digit: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others of its batch have their answers and their lines in the access log; none stays in flight."""
    exchanges = [asked(pipeline, one) for one in images(digit, 3)]
    logged: list[str] = []

    def end(_self: RequestLog, record: RequestRecord) -> None:
        if record is exchanges[1]:
            raise RuntimeError("no")
        logged.append(record.id)

    monkeypatch.setattr(RequestLog, "end", end)
    pipeline.request_log.enabled = True
    answers = answered(loop, Batcher(loop, pipeline), exchanges)
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert logged == [exchanges[0].id, exchanges[2].id]
    metrics = pipeline.store.metrics
    assert metrics._values[metrics._in_flight] == 0


def test_a_response_that_cannot_be_sent_stops_no_other(
    pipeline: Pipeline, loop: asyncio.AbstractEventLoop, digit: Pixels
) -> None:
    """The first of a batch fails on its way out; those behind it, in this turn and the next, are sent."""
    batcher, sent = Batcher(loop, pipeline), []

    def respond(peer: FakePeer, _response: Response) -> None:
        if peer.number == 0:
            raise RuntimeError("no")
        sent.append(peer.number)
        if len(sent) == FILES + 1:
            loop.stop()

    for number in range(FILES + 2):
        batcher.put(QueuedRequest(asked(pipeline, digit), FakePeer(number), respond))
    late = loop.call_later(PATIENCE, loop.stop)
    loop.run_forever()
    late.cancel()
    assert sent == list(range(1, FILES + 2))


def test_on_cuda_the_loop_decodes_the_next_batch_while_one_runs(
    pipeline: Pipeline, loop: asyncio.AbstractEventLoop, digit: Pixels
) -> None:
    """The inference is held on its thread until all that came later has been decoded, then it is one batch."""
    pipeline.store.provider = "cuda"  # the engine stays on the CPU; the batcher's way is what is tested
    release, threads = threading.Event(), set()
    original = Engine.infer
    decoded = 0

    def infer(self: Engine, batch: Pixels) -> Outputs:
        threads.add(threading.current_thread().name)
        assert release.wait(PATIENCE)
        return original(self, batch)

    prepare = pipeline.prepare

    def counted(exchange: Exchange) -> object:
        nonlocal decoded
        decoded += 1
        if decoded == 6:
            release.set()
        return prepare(exchange)

    exchanges = [asked(pipeline, digit) for _ in range(6)]
    batcher = Batcher(loop, pipeline)
    answers: list[Response] = []

    def done(_: FakePeer, answer: Response) -> None:
        answers.append(answer)
        if len(answers) == 6:
            loop.stop()

    def put(number: int) -> None:
        if number and not threads:  # the first runs alone, however late a turn comes
            loop.call_later(0.001, put, number)
            return
        batcher.put(QueuedRequest(exchanges[number], FakePeer(number), done))
        if number < 5:
            loop.call_later(0.001, put, number + 1)  # each in another turn

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "infer", infer)
        patch.setattr(pipeline, "prepare", counted)
        loop.call_soon(put, 0)
        loop.run_forever()
    batcher.close()
    assert {answer.status for answer in answers} == {200}
    assert [exchange.batch for exchange in exchanges] == [1, 5, 5, 5, 5, 5]
    assert all(name.startswith("inference") for name in threads)


def test_with_cuda_graphs_the_batches_thread_is_theirs(
    bundle: Bundle, loop: asyncio.AbstractEventLoop, digit: Pixels
) -> None:
    """And it goes on when the batcher ends, for it is the process's."""
    settings = ServiceSettings(model=bundle.path.parent, provider="cpu", cuda_graphs=True)
    pipeline: Pipeline = create_app(settings).extensions["glyph.pipeline"]
    pipeline.store.provider = "cuda"  # the engine stays on the CPU; the batcher's way is what is tested
    threads = set()
    original = Engine.infer

    def infer(self: Engine, batch: Pixels) -> Outputs:
        threads.add(threading.current_thread().name)
        return original(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "infer", infer)
        batcher = Batcher(loop, pipeline)
        answers = answered(loop, batcher, [asked(pipeline, digit) for _ in range(3)])
    batcher.close()
    assert [answer.status for answer in answers] == [200] * 3
    assert threads == {"cuda-graphs"} == {graph_thread().call(lambda: threading.current_thread().name)}


def test_batches_are_padded_to_a_few_sizes(pipeline: Pipeline, linear: Linear) -> None:
    """The session sees only those, and no answer depends on how many others were in its batch."""
    engine = pipeline.store.engine()
    seen: set[int] = set()

    class Session:
        def run(self, names: list[str], feed: dict[str, Pixels]) -> object:
            seen.add(len(feed["images"]))
            return engine.session.run(names, feed)

    watched = Engine(bundle=engine.bundle, provider="cpu", session=Session())
    pixels = np.random.default_rng(1).integers(0, 256, (600, 28, 28), dtype=np.uint8)
    whole = watched.infer(pixels)
    assert np.allclose(whole.probabilities, linear.probabilities(pixels), atol=1e-5)
    for count in (1, 2, 3, 7, 33, 100, 256, 257, 600):
        outputs = watched.infer(pixels[:count])
        assert len(outputs) == count
        assert np.array_equal(outputs.probabilities, whole.probabilities[:count])
        assert (count + padding(count)) % BUCKETS[-1] in (0, *BUCKETS)
    assert seen <= set(BUCKETS)


def test_a_turn_ends_when_its_time_is_over(
    pipeline: Pipeline, loop: asyncio.AbstractEventLoop, digit: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that cost more than they are counted for hold nobody up; refused ones do not either."""
    clock = itertools.count()
    monkeypatch.setattr(batcher, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    monkeypatch.setattr(
        batcher, "TURN_SECONDS", 6
    )  # the clock is read at its start, and twice for each request
    exchanges = [asked(pipeline, one) for one in images(digit, 7)]
    exchanges[1].request.body = b"no image"
    answers = answered(loop, Batcher(loop, pipeline), exchanges)
    assert [exchange.batch for exchange in exchanges] == [2, 0, 2, 3, 3, 3, 1]
    assert [answer.status for answer in answers] == [200, 415, 200, 200, 200, 200, 200]
