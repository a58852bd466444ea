"""The Open Inference Protocol over gRPC beside REST: requests/s, and the worker's CPU time for one.

    python -m bench grpc --model models/mnist

One image of raw pixels in a request, answered with raw logits and probabilities, by one inference worker: over REST
with the binary tensor extension, and over gRPC, in turns. Service and load client are pinned to different CPUs; each
connection asks again when it is answered. Printed are medians of the rounds. Exits 1 if a request failed. It needs the
extra `grpc`.
"""

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.load import calls, client
from bench.serving.overload import cpu_seconds, cpus
from bench.support.options import bench_parser, model_missing
from bundle.errors import BundleError
from bundle.repository import resolve

CONNECTIONS = (1, 16, 64)


def rest_request(model: str, pixels: bytes) -> bytes:
    """Return the bytes of a request over HTTP."""
    return (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: bench\r\nContent-Type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: 0\r\nContent-Length: {len(pixels)}\r\n\r\n"
    ).encode() + pixels


def message_of(model: str, pixels: bytes) -> bytes:
    """Return the message of a request over gRPC."""
    from serving.worker.rpc.messages import message_class

    message = message_class("inference.ModelInferRequest")(model_name=model, raw_input_contents=[pixels])
    message.inputs.add(name="images", datatype="UINT8", shape=[1, 28, 28])
    serialized: bytes = message.SerializeToString()
    return serialized


def main(arguments: list[str]) -> int:
    """Run the bench and return its exit code."""
    from bench.support.processes import free_port, running

    parser = bench_parser("grpc", __doc__, model=True)
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    try:
        bundle = resolve(options.model)
    except BundleError as error:
        return model_missing(error)
    name, port = bundle.manifest.name, free_port()
    pixels = np.random.default_rng(0).integers(0, 256, 784, dtype=np.uint8).tobytes()
    rest, message = rest_request(name, pixels), message_of(name, pixels)
    service_cpu, load_cpu = cpus()
    failures = 0
    with tempfile.TemporaryDirectory() as directory:
        os.sched_setaffinity(0, {service_cpu})  # inherited by the service
        settings: dict[str, Any] = {"model": bundle.path.parent, "grpc_port": port, "log_level": "error"}
        with running(Path(directory), until="/readyz", **settings) as service:
            os.sched_setaffinity(0, {load_cpu})

            def measure(way: str, connections: int) -> tuple[float, float]:
                """Return requests/s and microseconds of CPU time for each."""
                nonlocal failures
                before, started = cpu_seconds(service.process.pid), time.perf_counter()
                if way == "REST":
                    tally = asyncio.run(
                        client.load(
                            service.port, rest, seconds=options.seconds, connections=connections, rate=None
                        )
                    )
                    good = tally.answers[200]
                    failures += tally.answers.total() - good
                else:
                    good, failed = asyncio.run(
                        calls.load(
                            port,
                            "/inference.GRPCInferenceService/ModelInfer",
                            message,
                            seconds=options.seconds,
                            connections=connections,
                        )
                    )
                    failures += failed
                elapsed = time.perf_counter() - started
                return good / elapsed, 1e6 * (cpu_seconds(service.process.pid) - before) / max(good, 1)

            print(f"{'connections':>11} {'':4} {'requests/s':>10} {'us of CPU':>10}")
            for connections in CONNECTIONS:
                found: dict[str, list[tuple[float, float]]] = {"REST": [], "gRPC": []}
                for _ in range(options.rounds):
                    for way, measured in found.items():
                        measured.append(measure(way, connections))
                medians = {
                    way: [statistics.median(column) for column in zip(*measured, strict=True)]
                    for way, measured in found.items()
                }
                for way, (rate, spent) in medians.items():
                    print(f"{connections:11} {way} {rate:10.0f} {spent:10.0f}")
                print(f"{'gRPC / REST':>16} {medians['gRPC'][0] / medians['REST'][0]:10.2f}", end=" ")
                print(f"{medians['gRPC'][1] / medians['REST'][1]:10.2f}", flush=True)
    if failures:
        print(f"error: {failures} requests failed")
    return int(failures > 0)
