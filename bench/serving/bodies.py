"""Time of request bodies by format and size on the event loop, and the cost of a thread instead.

    python -m bench bodies

Decoding a body blocks the event loop, so bodies of more than `serving.worker.blocking.LARGE_BODY` bytes or
`FEW_FILES` image files are decoded in a thread. Printed is the median time from request to response for bodies around
that size, and the round trip to a thread, which is overhead for a small body.

The second table has bodies of the most expensive small image files, as many as fit into `LARGE_BODY` and `FEW_FILES` of
them, and whether they are decoded on the event loop.

The third table has the most expensive image files that `?resize=` reduces: ms to decode and resize, on a thread.

The fourth table has the most expensive image files of at most 1 MiB, relative to an ordinary file of their format with
the same decoder. Exits 1 if one takes more than fifty times as long.
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
"""Maximum cost of a file relative to an ordinary one of its format."""
SIZES = (1 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10)


def a_form(size: int) -> tuple[bytes, str]:
    """Return a form with as many image files as fit."""
    from bench.support.pictures import a_digit, png
    from bench.support.processes import Part, form

    part = Part(png(a_digit()))
    each = len(form(part, part)[0]) - len(form(part)[0])
    return form(*[part] * max(1, size // each))


def rows(size: int) -> tuple[bytes, str]:
    """Return JSON with as many images of 28 rows as fit."""
    from bench.support.pictures import a_digit

    image = a_digit().tolist()
    count = max(1, size // len(orjson.dumps(image)))
    return orjson.dumps({"instances": [image] * count}), JSON


def pixels(size: int) -> tuple[bytes, str]:
    """Return raw pixels of as many images as fit."""
    from bench.support.pictures import a_digit

    return a_digit().tobytes() * max(1, size // 784), "application/octet-stream"


KINDS: dict[str, Callable[[int], tuple[bytes, str]]] = {
    "form of PNG files": a_form,
    "JSON of rows": rows,
    "pixels": pixels,
}


def seconds(pipeline: Pipeline, body: bytes, media_type: str, times: int) -> float:
    """Return the median time from request to response.

    Raises:
        RuntimeError: the status is not 200.
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
    """Print the time of forms and JSON of the most expensive small files, and where they are decoded."""
    from bench.support.processes import Part, form
    from bench.support.worst import WORST
    from serving.worker.blocking import FEW_FILES, LARGE_BODY, blocks_loop

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
                where = "on a thread" if blocks_loop(request, Target(request.path)) else "in the loop"
                what = f"  {kind} of {name}, {len(body) / 1024:.0f} KiB"
                print(f"{what:64}{1000 * taken:8.2f}  {where}", flush=True)


def answering_seconds(pipeline: Pipeline, request: Request) -> float:
    """Return the CPU time of a request, whatever its status."""
    started = time.thread_time()
    pipeline.answer(pipeline.open(request, time.perf_counter()))
    return time.thread_time() - started


async def hand_over(times: int) -> float:
    """Return the median round trip to a thread pool."""
    taken = []
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as pool:
        for _ in range(times):
            started = time.perf_counter()
            await loop.run_in_executor(pool, time.perf_counter)
            taken.append(time.perf_counter() - started)
    return median(taken)


def decoding_seconds(data: bytes, times: int) -> float:
    """Return the minimum CPU time of decoding or rejecting a file."""
    from bundle.images.decoding import decode_any
    from bundle.images.errors import ImageError

    taken = []
    for _ in range(times):
        started = time.thread_time()
        with contextlib.suppress(ImageError):
            decode_any(data)
        taken.append(time.thread_time() - started)
    return min(taken)


def large_files(times: int) -> None:
    """Print the CPU time of decoding and resizing the largest files that the service takes."""
    from bench.support.worst import LARGE, SIDE
    from bundle.images.contract import RESIZES
    from bundle.images.decoding import decode
    from bundle.images.hardening import SERVED

    print(
        f"\nCPU ms to resize files of {SIDE}x{SIDE} pixels"
        + " " * 24
        + "".join(f"{how:>8}" for how in RESIZES)
    )
    for name, made in LARGE.items():
        data, least = made(), []
        for how in RESIZES:
            taken = []
            for _ in range(max(3, times // 20)):
                started = time.thread_time()
                decode(data, how, limits=SERVED)
                taken.append(time.thread_time() - started)
            least.append(1000 * min(taken))
        print(
            f"{f'  {name}, {len(data) / 1024:.0f} KiB':64}" + "".join(f"{one:8.2f}" for one in least),
            flush=True,
        )


def worst_files(times: int) -> bool:
    """Print the cost of the most expensive files of each format; return whether all are within bounds."""
    from bench.support.pictures import SAMPLES
    from bench.support.worst import WORST

    print("\nCPU ms to decode or reject a file of at most 1 MiB, and relative to an ordinary file")
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
    from serving.model.store import ModelStore
    from serving.settings import ServiceSettings

    parser = bench_parser("bodies", __doc__)
    parser.add_argument("--model", type=Path, help="directory of a published model; none is a synthetic one")
    parser.add_argument("--times", type=int, default=200, help="repetitions")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        model = options.model or publish_synthetic(Path(name)).path.parent
        settings = ServiceSettings(model=model, provider="cpu", max_files=1024)
        pipeline = Pipeline(settings, ModelStore.start(settings))
        print("ms from request to response, by body size in KiB")
        print(" " * 18 + "".join(f"{size >> 10:>8}" for size in SIZES))
        for kind, made in KINDS.items():
            times = [1000 * seconds(pipeline, *made(size), options.times) for size in SIZES]
            print(f"{kind:18}" + "".join(f"{one:8.2f}" for one in times))
        worst_bodies(pipeline, options.times)
    print(f"round trip to a thread: {1000 * uvloop.run(hand_over(options.times)):.3f} ms")
    large_files(options.times)
    return 0 if worst_files(options.times) else 1
