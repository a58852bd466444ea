"""Where the microseconds of a prediction go: each phase of the inference worker's way, run alone, in a warm loop.

    python -m bench budget --model models/mnist

Each phase is the service's own function with a real request, the best of five loops: caches are warm and
nothing waits, so a phase is at least this long. In a service phases evict each other's data (two
megabytes of weights pass through the cache for each batch), so the sum is less than
`python -m bench serving` shows as CPU for each answer; the last rows say by how much, if that was
measured. Beside inference stands what the core could do: its weights read once, or its products at peak.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LOOPS = 5
SECONDS = 0.05
PRODUCT_SIDE = 1024


def fastest(work: Callable[[], object]) -> float:
    """Return the seconds of one call: the fastest of some loops of about 50 ms each."""
    work()
    started = time.perf_counter()
    work()
    calls = max(int(SECONDS / max(time.perf_counter() - started, 1e-7)), 1)
    best = float("inf")
    for _ in range(LOOPS):
        started = time.perf_counter()
        for _ in range(calls):
            work()
        best = min(best, (time.perf_counter() - started) / calls)
    return best


def main(arguments: list[str]) -> int:
    """Print the budget and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench budget",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", type=Path, default=Path("models/mnist"), help="directory of a published model"
    )
    options = parser.parse_args(arguments)
    from bundle.errors import BundleError
    from bundle.repository import resolve

    try:
        resolve(options.model)
    except (BundleError, OSError) as error:
        print(f"error: {error}; 'make train' publishes a model, --model names another", file=sys.stderr)
        return 2
    width = 46
    for name, seconds, note in _phases(options.model):
        print(f"{name:{width}} {seconds * 1e6:8.2f} us   {note}".rstrip(), flush=True)
    return 0


def _phases(model: Path) -> list[tuple[str, float, str]]:
    from bundle import images as files
    from serving import predict
    from serving.engine import LARGEST_FLOAT32, padding
    from serving.inference.head import read_ordinary
    from serving.inference.response import Dates, render
    from serving.messages import Answer, Request
    from serving.metrics import Metrics
    from serving.pipeline import Pipeline
    from serving.settings import load_settings
    from serving.state import ModelState

    settings = load_settings({"GLYPH_MODEL": str(model), "GLYPH_PROVIDER": "cpu"})
    metrics = Metrics.create()
    state = ModelState.start(settings, metrics)
    pipeline, engine = Pipeline(settings, state), state.engine()
    png = engine.bundle.read("sample.png")
    fields = "Host: 127.0.0.1\r\nContent-Type: image/png\r\n"
    head = f"POST /predict HTTP/1.1\r\n{fields}Content-Length: {len(png)}\r\n\r\n".encode()
    read = read_ordinary(head)
    if read is None:
        raise AssertionError("the head is ordinary")
    request = Request(method=read.method, path=read.path, headers=read.headers, body=png)
    octets = Request(
        method="POST",
        path="/predict",
        headers={"content-type": "application/octet-stream"},
        body=files.decode(png).tobytes(),
    )

    def exchange() -> object:
        return pipeline.open(request, time.perf_counter())

    work = pipeline.prepare(pipeline.open(request, time.perf_counter()))
    outputs = engine.infer(work.images)
    answer = work.encode(outputs, 0)
    closing = pipeline.open(request, time.perf_counter())
    closing.phases.update(decode=1e-5, queue=1e-5, infer=1e-5, encode=1e-5)
    closing.batch = 1
    dates = Dates()
    whole = pipeline.close(closing, Answer(body=answer.body))

    rows = [
        ("parse the head", fastest(lambda: read_ordinary(head)), "one expression, then split"),
        ("open: id, route, trace", fastest(exchange), ""),
        ("admit and decode a PNG", fastest(lambda: predict.prepare(engine, request, png, settings)), ""),
        ("  of it the file", fastest(lambda: files.decode(png)), "chunks, checksums, inflate, filters"),
        (
            "admit and decode 784 bytes",
            fastest(lambda: predict.prepare(engine, octets, octets.body, settings)),
            "",
        ),
        ("encode", fastest(lambda: work.encode(outputs, 0)), "argmax, orjson"),
        ("close: fields, metrics", fastest(lambda: pipeline.close(closing, Answer(body=answer.body))), ""),
        ("render", fastest(lambda: render(whole, (1, 1), dates.now(), keep_alive=True)), ""),
    ]
    weights = _weights(engine.bundle.read("model.onnx"))
    peak = _peak()
    for count in (1, 16, 64):
        images = np.repeat(work.images, count, axis=0)
        each = fastest(lambda batch=images: engine.infer(batch)) / count  # type: ignore[misc]
        at_peak = 2 * weights * (count + padding(count)) / peak / count
        note = f"{at_peak * 1e6:.2f} us at this core's {peak / 1e9:.0f} GFLOP/s in float32 products"
        kind = "float32" if engine.large is None or count <= LARGEST_FLOAT32 else "integers"
        rows.append((f"infer in {kind}, for each image of {count}", each, note))
        batch_outputs = engine.infer(images)
        counted = fastest(
            lambda batch=images, of=batch_outputs: metrics.batch(engine, batch, of, 0)  # type: ignore[misc]
        )
        rows.append(
            (f"  and its metrics, for each image of {count}", counted / count, "histograms for drift")
        )
    return rows


def _weights(graph: bytes) -> int:
    """Return how many numbers of a graph are multiplied: those of its matrices."""
    import onnx

    tensors = onnx.load_from_string(graph).graph.initializer
    return sum(int(np.prod(tensor.dims)) for tensor in tensors if len(tensor.dims) == 2)


def _peak() -> float:
    """Return the float32 operations/s of a large product, by the service's own runtime on one thread."""
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
