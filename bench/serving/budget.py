"""CPU time of a prediction in the inference worker: each phase alone, and the whole request path.

    python -m bench budget --model models/mnist

Each phase is the service's own function, run over requests with the bundle's golden examples as PNG files: with a
single file the CPU predicts every branch, and decoding appears twice as fast. The figure is the best of several loops,
in CPU time. "The whole path" is the worker's code from the bytes of a request to the bytes of its response for many
connections, without sockets; it takes longer than the sum of its phases, because they evict each other from the caches
and because of the code between them. Inference has a second figure, the time at the core's peak float32 rate.
"""

import functools
import sys
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from bench.support.options import bench_parser, model_missing
from bench.support.pictures import png

if TYPE_CHECKING:
    import asyncio

    from serving.predict.pipeline import Pipeline

LOOPS = 12
SECONDS = 0.02
PRODUCT_SIDE = 1024
PATH_REQUESTS = 1280
RAW_IMAGES = 64
RAW_ROUNDS, RAW_REQUESTS = 3, 40

T = TypeVar("T")


def fastest(work: Callable[[], object]) -> float:
    """Return the CPU seconds of one call, in the fastest of several loops."""
    return fastest_of(lambda _: work(), (None,))


def fastest_of(work: Callable[[T], object], inputs: Sequence[T]) -> float:
    """Return the CPU seconds of one call, in the fastest of several loops over all inputs."""
    started = time.process_time()
    for one in inputs:
        work(one)
    calls = max(int(SECONDS / max(time.process_time() - started, 1e-6)), 1)
    best = float("inf")
    for _ in range(LOOPS):
        started = time.process_time()
        for _ in range(calls):
            for one in inputs:
                work(one)
        best = min(best, (time.process_time() - started) / calls / len(inputs))
    return best


def main(arguments: list[str]) -> int:
    """Print the budget and return the exit code."""
    parser = bench_parser("budget", __doc__, model=True)
    options = parser.parse_args(arguments)
    from bundle.errors import BundleError
    from bundle.repository import resolve

    try:
        resolve(options.model)
    except (BundleError, OSError) as error:
        return model_missing(error)
    from serving.model.store import ModelStore
    from serving.predict.pipeline import Pipeline
    from serving.settings import load_settings
    from serving.telemetry.metrics import Metrics

    settings = load_settings({"GLYPH_MODEL": str(options.model), "GLYPH_PROVIDER": "cpu"})
    pipeline = Pipeline(settings, ModelStore.start(settings, Metrics.create()))
    width = 46
    for name, seconds, note in [*_phases(pipeline), *_inference(pipeline), *_whole_path(pipeline)]:
        print(f"{name:{width}} {seconds * 1e6:8.2f} us   {note}".rstrip(), flush=True)
    return 0


def _golden(pipeline: "Pipeline") -> npt.NDArray[np.uint8]:
    """Return the images of the bundle's golden examples, `uint8[n, 28, 28]`."""
    from bundle.golden import GoldenExamples

    bundle = pipeline.store.engine().bundle
    return GoldenExamples.from_bytes(bundle.read("golden.npz"), bundle.manifest).images


def requests_of(pipeline: "Pipeline") -> list[bytes]:
    """Return the bytes of a request for each golden example."""
    requests = []
    for image in _golden(pipeline):
        body = png(image)
        fields = f"Host: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n"
        requests.append(f"POST /predict HTTP/1.1\r\n{fields}\r\n".encode() + body)
    return requests


def _phases(pipeline: "Pipeline") -> list[tuple[str, float, str]]:
    from bundle.images import decoding as files
    from bundle.images import plain_png
    from serving.predict import native
    from serving.predict.exchange import Request, Response
    from serving.worker.http11.request_head import read_fast
    from serving.worker.http11.response import Dates, render

    engine, settings = pipeline.store.engine(), pipeline.settings
    heads, requests, octets = [], [], []
    for whole in requests_of(pipeline):
        head, _, body = whole.partition(b"\r\n\r\n")
        read = read_fast(head + b"\r\n\r\n")
        if read is None:
            raise AssertionError("the head is ordinary")
        heads.append(head + b"\r\n\r\n")
        requests.append(Request(method=read.method, path=read.path, headers=read.headers, body=body))
        raw = {"content-type": "application/octet-stream"}
        octets.append(Request(method="POST", path="/predict", headers=raw, body=files.decode(body).tobytes()))
    exchanges = [pipeline.open(request, time.perf_counter()) for request in requests]
    works = [pipeline.prepare(exchange) for exchange in exchanges]
    images = native.images_of(works)
    outputs = engine.infer(images)
    places = list(enumerate(works))
    answers = [work.encode(images, outputs, place) for place, work in places]
    for exchange in exchanges:
        exchange.phases.update(queue=1e-5, infer=1e-5, encode=1e-5)
        exchange.batch = len(works)
    pairs = list(zip(exchanges, answers, strict=True))
    dates = Dates()
    closed = [pipeline.close(exchange, Response(body=answer.body)) for exchange, answer in pairs]

    def prepare(request: Request) -> object:
        return native.prepare(engine, request, request.body, settings)

    return [
        ("parse the request head", fastest_of(read_fast, heads), "one regular expression, then split"),
        (
            "open the exchange: id, route, trace context",
            fastest_of(lambda r: pipeline.open(r, 0.0), requests),
            "",
        ),
        ("admit and decode 784 bytes", fastest_of(prepare, octets), ""),
        ("admit and decode a PNG", fastest_of(prepare, requests), ""),
        (
            "  of it the file",
            fastest_of(lambda r: plain_png.scanlines(r.body), requests),
            "checks, inflate",
        ),
        ("encode", fastest_of(lambda each: each[1].encode(images, outputs, each[0]), places), "from pieces"),
        (
            "close: headers, Server-Timing, metrics",
            fastest_of(lambda pair: pipeline.close(pair[0], Response(body=pair[1].body)), pairs),
            "",
        ),
        ("render", fastest_of(lambda a: render(a, (1, 1), dates.now(), keep_alive=True), closed), ""),
    ]


def _inference(pipeline: "Pipeline") -> list[tuple[str, float, str]]:
    from bundle.golden import GoldenExamples
    from bundle.images.plain_png import scanlines, unfiltered
    from serving.model.engine import padding

    engine, metrics = pipeline.store.engine(), pipeline.store.metrics
    golden = GoldenExamples.from_bytes(engine.bundle.read("golden.npz"), engine.bundle.manifest).images
    weights = _weights(engine.bundle.read("model.onnx"))
    peak = _peak()
    rows = []
    for count in (1, 16, 64):
        images = np.resize(golden, (count, 28, 28))
        each = fastest(functools.partial(engine.infer, images)) / count
        at_peak = 2 * weights * (count + padding(count)) / peak / count
        note = f"{at_peak * 1e6:.2f} us at this core's float32 peak of {peak / 1e9:.0f} GFLOP/s"
        lines = [scanlines(png(image)) or b"" for image in images]
        rows.append(
            (
                f"undo PNG filters, per image of {count}",
                fastest(functools.partial(unfiltered, lines)) / count,
                "",
            )
        )
        rows.append((f"inference in {engine.precision}, per image of {count}", each, note))
        outputs = engine.infer(images)
        counted = fastest(functools.partial(metrics.batch, engine.bundle, images, outputs.probabilities, 0))
        rows.append((f"  and its metrics, per image of {count}", counted / count, ""))
    return rows


def _whole_path(pipeline: "Pipeline") -> list[tuple[str, float, str]]:
    rows = [
        (
            f"the whole path, {count} connections",
            RequestPath(pipeline, count, requests_of(pipeline)).seconds(),
            "all of the above and the code between them, without sockets",
        )
        for count in (1, 16, 64)
    ]
    return [*rows, *_many_images(pipeline)]


def _many_images(pipeline: "Pipeline") -> list[tuple[str, float, str]]:
    """Compare a request of raw pixels with the inference of its images, beyond which no server could be faster."""
    fields = "Host: 127.0.0.1\r\nContent-Type: application/octet-stream\r\n"
    images = np.resize(_golden(pipeline), (RAW_IMAGES, 28, 28))
    head = f"POST /predict HTTP/1.1\r\n{fields}Content-Length: {images.nbytes}\r\n\r\n".encode()
    whole, alone = [], []
    for _ in range(RAW_ROUNDS):  # alternately, as the clock rate of a core changes
        whole.append(RequestPath(pipeline, 1, [head + images.tobytes()], RAW_REQUESTS).seconds() / RAW_IMAGES)
        alone.append(fastest(functools.partial(pipeline.store.engine().infer, images)) / RAW_IMAGES)
    share = min(alone) / min(whole)
    return [
        (f"inference, per image of {RAW_IMAGES}", min(alone), "beside the next row"),
        (f"the whole path, per image of {RAW_IMAGES} raw ones", min(whole), f"{share:.0%} of it inference"),
    ]


class _Transport:
    """A transport that records what is written."""

    def __init__(self) -> None:
        self.written = b""

    def get_extra_info(self, _name: str) -> tuple[str, int]:
        return "127.0.0.1", 1

    def set_write_buffer_limits(self, _high: int) -> None:
        pass

    def write(self, data: bytes) -> None:
        self.written = data


class _Loop:
    """The part of an event loop that the worker's code uses without errors."""

    def __init__(self) -> None:
        self._due: list[Callable[[], None]] = []

    def call_soon(self, function: Callable[[], None]) -> None:
        self._due.append(function)

    def time(self) -> float:
        return time.monotonic()

    def turn(self) -> None:
        while self._due:
            due, self._due = self._due, []
            for function in due:
                function()


class RequestPath:
    """The inference worker's objects for several connections, each of which repeats its request after a response."""

    def __init__(
        self, pipeline: "Pipeline", connections: int, requests: list[bytes], repeats: int = PATH_REQUESTS
    ) -> None:
        from gunicorn.config import Config

        from serving.worker.connections import Connections
        from serving.worker.dispatcher import Dispatcher

        worker = SimpleNamespace(
            wsgi=SimpleNamespace(extensions={"glyph.pipeline": pipeline}),
            cfg=Config(),
            log=SimpleNamespace(access_log_enabled=False),
            nr=0,
            max_requests=sys.maxsize,
        )
        self._loop = _Loop()
        dispatcher = Dispatcher(worker, cast("asyncio.AbstractEventLoop", self._loop))
        self._transports = [_Transport() for _ in range(connections)]
        made = Connections(dispatcher)
        self._connections = [made.connect() for _ in self._transports]
        for connection, transport in zip(self._connections, self._transports, strict=True):
            connection.connection_made(transport)
        self._requests, self._repeats = requests, repeats
        self._next = 0

    def _turn(self) -> None:
        for connection in self._connections:
            connection.data_received(self._requests[self._next])
            self._next = (self._next + 1) % len(self._requests)
        self._loop.turn()

    def seconds(self, loops: int = LOOPS) -> float:
        """Return the CPU seconds per request, in the fastest of several loops."""
        turns = max(1, self._repeats // len(self._connections))
        best = float("inf")
        for _ in range(loops):
            started = time.process_time()
            for _ in range(turns):
                self._turn()
            best = min(best, (time.process_time() - started) / turns / len(self._connections))
        for transport in self._transports:
            if not transport.written.startswith(b"HTTP/1.1 200 "):
                raise AssertionError(f"not answered: {transport.written[:200]!r}")
        return best


def _weights(graph: bytes) -> int:
    """Return the number of weights in a graph's matrices."""
    import onnx

    tensors = onnx.load_from_string(graph).graph.initializer
    return sum(int(np.prod(tensor.dims)) for tensor in tensors if len(tensor.dims) == 2)


def _peak() -> float:
    """Return the float32 operations/s of a large matrix product by ONNX Runtime on one thread."""
    import onnxruntime
    from onnx import TensorProto, helper

    def value(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [PRODUCT_SIDE, PRODUCT_SIDE])

    product = helper.make_node("MatMul", ["a", "b"], ["c"])
    graph = helper.make_graph([product], "product", [value("a"), value("b")], [value("c")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    side = np.ones((PRODUCT_SIDE, PRODUCT_SIDE), np.float32)
    return 2 * PRODUCT_SIDE**3 / fastest(lambda: session.run(None, {"a": side, "b": side}))
