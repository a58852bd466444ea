"""How long bodies of each kind and size take in the inference worker's loop, and what a thread costs instead.

    python -m bench bodies

While a body is decoded in the loop, nothing else is answered; beyond `serving.inference.door.LARGE_BODY` bytes
it is decoded on a thread. Printed is the time from a whole request to its answer, the median of many, for
bodies around that size; and the time of handing over to a thread and back, which is lost with a small one.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import orjson
import uvloop

from serving.messages import JSON, Request
from serving.pipeline import Pipeline

SIZES = (1 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10)


def a_form(size: int) -> tuple[bytes, str]:
    """Return a form of as many image files as fit."""
    from tests.pictures import a_digit, png
    from tests.serving.processes import Part, form

    part = Part(png(a_digit()))
    each = len(form(part, part)[0]) - len(form(part)[0])
    return form(*[part] * max(1, size // each))


def rows(size: int) -> tuple[bytes, str]:
    """Return JSON of as many images of 28 rows as fit."""
    from tests.pictures import a_digit

    image = a_digit().tolist()
    count = max(1, size // len(orjson.dumps(image)))
    return orjson.dumps({"instances": [image] * count}), JSON


def pixels(size: int) -> tuple[bytes, str]:
    """Return the pixels of as many images as fit."""
    from tests.pictures import a_digit

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


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    from serving.settings import ServiceSettings
    from serving.state import ModelState
    from tests.serving.models import publish_synthetic

    parser = argparse.ArgumentParser(
        prog="python -m bench bodies",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    print(f"a thread and back: {1000 * uvloop.run(hand_over(options.times)):.3f} ms")
    return 0
