"""Fuzz the decoder with damaged images and the service with damaged requests; each must be rejected or answered.

    python -m bench fuzz --inputs 1000000
    python -m bench fuzz --seconds 3600

Each input is generated from a seed (`bench.fuzzing.hostile`): of ten, six go to the decoder, three as complete requests
through the pipeline, and one through a running service, half by each worker class. The run fails if decoding returns
neither an array nor an `ImageError`, on a status of 5xx, a response that does not match its media type, a process that
dies, or growing memory; the input is written to a file.

With `--seconds`, the targets of `bench.fuzzing` take turns instead for that long: the parsers of request heads, chunks,
images, forms and JSON, with coverage-guided inputs from Atheris (`pip install atheris`; wheels for Linux on x86-64).
"""

import contextlib
import http.client
import importlib.util
import itertools
import math
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import orjson

from bench.fuzzing import TARGETS, command, hostile
from bench.memory.resident import Growth, children
from bench.support.models import publish_synthetic
from bench.support.options import bench_parser
from bench.support.processes import Service, running
from bundle.images.decoding import decode
from bundle.images.errors import ImageError
from serving.model.store import ModelStore
from serving.predict.exchange import Request, Response
from serving.predict.pipeline import Pipeline
from serving.settings import ServiceSettings

Target = Callable[[Random], str]
"""Processes a random input and returns the outcome as a word; raises if the outcome is a failure."""

SAMPLES_TAKEN = 50
"""Minimum number of memory samples."""
ALLOWED_MIB = 8.0
"""Growth that does not count as a leak: thirty bytes for each of the 300,000 inputs after the decoder's warm-up."""
TURN_SECONDS = 60
"""Duration of a target's turn."""
TURN_INPUTS = 200_000
"""Inputs in a turn: Atheris (3.0) leaks some kilobytes with each input that compares arrays."""


class BadlyTakenError(AssertionError):
    """An input caused a failure; it has been written to a file."""


def keep(taken: bytes | Request, why: str) -> BadlyTakenError:
    """Write an input to a file (a request as Python source), and return an error with the file's name."""
    data = taken if isinstance(taken, bytes) else repr(taken).encode()
    with tempfile.NamedTemporaryFile(prefix="glyph-fuzz-", delete=False) as file:
        file.write(data)
    return BadlyTakenError(f"{why}; the input is in {file.name}")


def feed_decoder(random: Random) -> str:
    """Decode one file."""
    data = hostile.file(random)
    try:
        pixels = decode(data)
    except ImageError as error:
        return error.kind.name.lower()
    except BaseException as error:
        raise keep(data, f"the decoder raised {error!r}") from error
    if pixels.shape != (28, 28) or pixels.dtype != np.uint8:
        raise keep(data, f"the decoder returned {pixels.dtype}{pixels.shape}")
    return "decoded"


def judge(request: Request, status: int, media_type: str, body: bytes) -> str:
    """Check a response against the API."""
    if not 200 <= status < 500:
        raise keep(request, f"the answer is {status}: {body[:300]!r}")
    if media_type == "application/octet-stream":  # a binary tensor after a JSON header
        return str(status)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise keep(request, f"the answer {status} is no JSON: {body[:300]!r}") from error
    if status >= 400:
        named = document.get("error") if request.path.startswith("/v2") else document.get("remedy")
        if not isinstance(named, str) or not named:
            raise keep(request, f"the refusal {status} says nothing: {body[:300]!r}")
    for prediction in document.get("predictions", []):
        values = prediction["probabilities"].values()
        if "top" not in request.query and not math.isclose(sum(values), 1, abs_tol=1e-4):
            raise keep(request, f"probabilities that sum to {sum(values)}")
    return str(status)


def through_pipeline(pipeline: Pipeline) -> Target:
    """Return a target that runs requests through the pipeline in this process."""

    def feed(random: Random) -> str:
        request = hostile.request(random)
        answer: Response = pipeline.answer(pipeline.open(request, time.perf_counter()))
        return judge(request, int(answer.status), answer.media_type, answer.body)

    return feed


@contextlib.contextmanager
def through_service(service: Service) -> Iterator[Target]:
    """Yield a target that sends requests to a running service over a keep-alive connection."""
    connection = service.connect()

    def feed(random: Random) -> str:
        request = hostile.request(random)
        fields = {
            name: value.encode("utf-8") if not value.isascii() else value
            for name, value in request.headers.items()
        }
        target = "/" + "/".join(_escaped(part) for part in request.path[1:].split("/"))
        if request.query:
            target += f"?{request.query}"
        for attempt in (1, 2):
            try:
                connection.request("POST", target, request.body, fields)
                response = connection.getresponse()
                body = response.read()
                break
            except (http.client.RemoteDisconnected, ConnectionError) as error:
                connection.close()  # the service may have closed the idle connection, nothing else
                if attempt == 2:
                    raise keep(request, f"the service hung up: {error!r}") from error
        return judge(request, response.status, response.headers.get("Content-Type", ""), body)

    with contextlib.closing(connection):
        yield feed


def _escaped(part: str) -> str:
    return "".join(chr(byte) if byte < 128 else f"%{byte:02X}" for byte in part.encode())


def run(name: str, target: Target, inputs: int, first_seed: int, *pids: int) -> tuple[Counter[str], float]:
    """Run a target, and return the outcomes and the memory growth in MiB.

    Raises:
        BadlyTakenError: one was taken badly.
    """
    taken: Counter[str] = Counter()
    growth, started = Growth(), time.perf_counter()
    between = max(1, inputs // SAMPLES_TAKEN)
    for number in range(1, inputs + 1):
        taken[target(Random(first_seed + number))] += 1  # noqa: S311  no secret
        if number % between == 0 or number == inputs:
            growth.sample(*pids)
    seconds = time.perf_counter() - started
    grown = growth.mebibytes()
    told = ", ".join(f"{word} {count}" for word, count in taken.most_common())
    print(f"{name}: {taken.total()} inputs in {seconds:.0f} s, memory {grown:+.1f} MiB: {told}", flush=True)
    return taken, grown


@contextlib.contextmanager
def a_pipeline(directory: Path) -> Iterator[Pipeline]:
    """Yield a pipeline in this process, with a small model."""
    bundle = publish_synthetic(directory / "models")
    values: Any = {"model": bundle.path.parent, "provider": "cpu"}
    configured = ServiceSettings(**values)
    yield Pipeline(configured, ModelStore.start(configured))


def guided(seconds: int, corpus: Path, seed: int) -> int:
    """Fuzz each target of `bench.fuzzing` in turn, starting from its corpus; return the exit code."""
    inputs: Counter[str] = Counter()
    ends = time.monotonic() + seconds
    for number, target in enumerate(itertools.cycle(TARGETS)):
        left = math.ceil(ends - time.monotonic())
        if left <= 0:
            break
        found = corpus / target
        found.mkdir(parents=True, exist_ok=True)
        options = (
            f"-max_total_time={min(TURN_SECONDS, math.ceil(seconds / len(TARGETS)), left)}",
            f"-runs={TURN_INPUTS}",
            f"-seed={seed + number + 1}",
            f"-artifact_prefix={tempfile.gettempdir()}/glyph-fuzz-{target}-",
        )
        ran = subprocess.run(command(target, found, *options), capture_output=True, text=True, check=False)
        if ran.returncode:
            print(
                f"{target}: an input was taken badly; `python -m bench.fuzzing {target} FILE` takes it again"
            )
            print(ran.stdout[-4000:], ran.stderr[-4000:], sep="\n")
            return 1
        inputs[target] += int(re.findall(r"Done (\d+) runs", ran.stderr)[-1])
        reached = re.findall(r"cov: (\d+)", ran.stderr)[-1]
        print(f"{target}: {inputs[target]} inputs, {reached} branches, no failure", flush=True)
    return 0


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    parser = bench_parser("fuzz", __doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="number of inputs over all targets")
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs")
    parser.add_argument("--seconds", type=int, help="duration of coverage-guided fuzzing")
    parser.add_argument(
        "--corpus", type=Path, help="folder to keep the corpus of --seconds; default: temporary"
    )
    options = parser.parse_args(arguments)
    if options.seconds:
        if importlib.util.find_spec("atheris") is None:
            print(
                "error: --seconds needs Atheris: pip install atheris; it has wheels for Linux on x86-64 alone",
                file=sys.stderr,
            )
            return 2
        with tempfile.TemporaryDirectory() as name:
            return guided(options.seconds, options.corpus or Path(name), options.seed)
    tenth = options.inputs // 10
    results: dict[str, float] = {}
    total = 0
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        taken, results["decoder"] = run("decoder", feed_decoder, options.inputs - 4 * tenth, options.seed)
        total += taken.total()
        with a_pipeline(directory) as pipeline:
            taken, results["pipeline"] = run(
                "pipeline", through_pipeline(pipeline), 3 * tenth, options.seed + 1_000_000_007
            )
            total += taken.total()
            model = pipeline.settings.model
        for number, (worker, inputs) in enumerate(
            (("inference", tenth - tenth // 2), ("gthread", tenth // 2)), 2
        ):
            with (
                running(directory, until="/readyz", model=model, worker=worker) as service,
                through_service(service) as target,
            ):
                workers = children(service.process.pid)
                first_seed = options.seed + number * 1_000_000_007
                taken, results[worker] = run(f"service, {worker}", target, inputs, first_seed, *workers)
                total += taken.total()
                if children(service.process.pid) != workers:
                    print("a process of the service died")
                    return 1
    grown = {name: round(value, 1) for name, value in results.items() if value > ALLOWED_MIB}
    print(
        f"{total} inputs, no answer of 5xx, no crash; memory grew beyond {ALLOWED_MIB} MiB: {grown or 'nowhere'}"
    )
    return 1 if grown else 0
