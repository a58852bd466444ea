"""How long bodies of each kind and size take in the inference worker's loop, and what a thread costs instead.

    python -m bench bodies

While a body is decoded in the loop, nothing else is answered; beyond `serving.worker.dispatcher.LARGE_BODY` bytes
or `FEW_FILES` image files it is decoded on a thread. Printed is the time from a whole request to its answer, the
median of many, for bodies around that size; and the time of handing over to a thread and back, which is lost with
a small one.

Then bodies of as many of the worst small image files as fit into `LARGE_BODY`, and of `FEW_FILES` of them, and whether
they are decoded in the loop.

Then the image files of 1 MiB at most that cost a decoder most, beside an ordinary file of their format, by the same
decoder. The exit code is 1 if one takes more than fifty times as long.
"""

import asyncio
import base64
import contextlib
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import orjson
import uvloop

from bench.support.options import bench_parser
from serving.predict.exchange import JSON, Request, Target
from serving.predict.pipeline import Pipeline

MOST_TIMES = 50
"""What the worst file of a format may take, in ordinary ones."""
SIZES = (1 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10)


def a_form(size: int) -> tuple[bytes, str]:
    """Return a form of as many image files as fit."""
    from bench.support.pictures import a_digit, png
    from bench.support.processes import Part, form

    part = Part(png(a_digit()))
    each = len(form(part, part)[0]) - len(form(part)[0])
    return form(*[part] * max(1, size // each))


def rows(size: int) -> tuple[bytes, str]:
    """Return JSON of as many images of 28 rows as fit."""
    from bench.support.pictures import a_digit

    image = a_digit().tolist()
    count = max(1, size // len(orjson.dumps(image)))
    return orjson.dumps({"instances": [image] * count}), JSON


def pixels(size: int) -> tuple[bytes, str]:
    """Return the pixels of as many images as fit."""
    from bench.support.pictures import a_digit

    return a_digit().tobytes() * max(1, size // 784), "application/octet-stream"


KINDS: dict[str, Callable[[int], tuple[bytes, str]]] = {
    "form of PNG files": a_form,
    "JSON of rows": rows,
    "pixels": pixels,
}


def seconds(pipeline: Pipeline, body: bytes, media_type: str, times: int) -> float:
    """Return the median time of answering a body.

    Raises:
        RuntimeError: it is not answered with 200.
    """
    request = Request(method="POST", path="/predict", headers={"content-type": media_type}, body=body)
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        answer = pipeline.answer(pipeline.open(request, started))
        taken.append(time.perf_counter() - started)
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {answer.body[:300]!r}")
    return median(taken)


def worst_bodies(pipeline: Pipeline, times: int) -> None:
    """Print what forms and JSON of small files take that cost most for their size, and where they are decoded."""
    from bench.support.processes import Part, form
    from bench.support.worst import WORST
    from serving.worker.dispatcher import FEW_FILES, LARGE_BODY, takes_long

    print("\nms of bodies of the worst small files")
    for name in ("image/tiff: tile", "image/tiff: entries", "image/png: lines of a text", "image/bmp: runs"):
        data = WORST[name]()
        string = base64.b64encode(data).decode()
        for most in (LARGE_BODY, FEW_FILES):
            made = form(*[Part(data, content_type=None)] * min(most, LARGE_BODY // (len(data) + 100)))
            strings = [string] * min(most, LARGE_BODY // (len(string) + 4))
            for kind, (body, media_type) in {
                "form": made,
                "JSON": (orjson.dumps({"instances": strings}), JSON),
            }.items():
                headers = {"content-type": media_type}
                request = Request(method="POST", path="/predict", headers=headers, body=body)
                taken = min(answering_seconds(pipeline, request) for _ in range(max(3, times // 20)))
                where = "on a thread" if takes_long(request, Target(request.path)) else "in the loop"
                what = f"  {kind} of {name}, {len(body) / 1024:.0f} KiB"
                print(f"{what:64}{1000 * taken:8.2f}  {where}", flush=True)


def answering_seconds(pipeline: Pipeline, request: Request) -> float:
    """Return the CPU time of answering a request, whatever the answer is."""
    started = time.thread_time()
    pipeline.answer(pipeline.open(request, time.perf_counter()))
    return time.thread_time() - started


async def hand_over(times: int) -> float:
    """Return the median time of having nothing done on a thread of a pool."""
    taken = []
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as pool:
        for _ in range(times):
            started = time.perf_counter()
            await loop.run_in_executor(pool, time.perf_counter)
            taken.append(time.perf_counter() - started)
    return median(taken)


def decoding_seconds(data: bytes, times: int) -> float:
    """Return the least CPU time of decoding a file, or of refusing it."""
    from bundle.images.decoding import decode_any
    from bundle.images.errors import ImageError

    taken = []
    for _ in range(times):
        started = time.thread_time()
        with contextlib.suppress(ImageError):
            decode_any(data)
        taken.append(time.thread_time() - started)
    return min(taken)


def worst_files(times: int) -> bool:
    """Print what the worst files of each format take, and tell whether that is within bounds."""
    from bench.support.pictures import SAMPLES
    from bench.support.worst import WORST

    print("\nms of CPU to decode or refuse a file of 1 MiB at most, and that in ordinary files")
    worst = 0.0
    for media_type, sample in SAMPLES.items():
        ordinary = decoding_seconds(sample, times)
        print(f"{media_type:64}{1000 * ordinary:8.3f}")
        for name, made in WORST.items():
            if name.startswith(media_type):
                data = made()
                taken = decoding_seconds(data, max(3, times // 20))
                worst = max(worst, taken / ordinary)
                what = f"  {name.partition(': ')[2]}, {len(data) / 1024:.0f} KiB"
                print(f"{what:64}{1000 * taken:8.3f}{taken / ordinary:7.0f}", flush=True)
    print(f"at most {worst:.0f} times an ordinary file of the format; {MOST_TIMES} are allowed")
    return worst <= MOST_TIMES


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    from bench.support.models import publish_synthetic
    from serving.model.store import ModelState
    from serving.settings import ServiceSettings

    parser = bench_parser("bodies", __doc__)
    parser.add_argument("--model", type=Path, help="directory of a published model; none is a synthetic one")
    parser.add_argument("--times", type=int, default=200, help="how often each body is answered")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        model = options.model or publish_synthetic(Path(name)).path.parent
        settings = ServiceSettings(model=model, provider="cpu", max_files=1024)
        pipeline = Pipeline(settings, ModelState.start(settings))
        print("ms from request to answer, by the body's size in KiB")
        print(" " * 18 + "".join(f"{size >> 10:>8}" for size in SIZES))
        for kind, made in KINDS.items():
            times = [1000 * seconds(pipeline, *made(size), options.times) for size in SIZES]
            print(f"{kind:18}" + "".join(f"{one:8.2f}" for one in times))
        worst_bodies(pipeline, options.times)
    print(f"a thread and back: {1000 * uvloop.run(hand_over(options.times)):.3f} ms")
    return 0 if worst_files(options.times) else 1
