"""The servers that are compared, in the order of the report's first table."""

import os
import subprocess
import sys
from dataclasses import replace

from bench.comparison import commands
from bench.comparison.contender import (
    BASELINE,
    CONSTANT,
    FLOAT32,
    GLYPH,
    GTHREAD,
    ROOT,
    TENSORS,
    WORKLOADS,
    Contender,
)
from bench.comparison.environments import PEERS
from bench.load import wire
from bench.load.wire import Form


def _same(path: str, *workloads: str) -> dict[str, Form]:
    """Return the forms of a server with one path for image files and raw pixels."""
    encoders = {"png": wire.file_body, "raw": wire.octets_body, "batch": wire.octets_body}
    return {
        workload: Form(path=path, encode=encoders[workload], decode=wire.predictions)
        for workload in workloads or WORKLOADS
    }


def _glyph_forms() -> dict[str, Form]:
    tensors = Form(path=TENSORS, encode=wire.open_inference_binary, decode=wire.tensors)
    return _same("/predict", "png", "raw") | {"batch": tensors}


def _base64_json(images: wire.Images) -> dict[str, str]:
    return {"image_data": wire.base64_of_octets(images)}


LITSERVE_FORMS = {
    "png": Form(
        path="/predict",
        encode=wire.json_body(lambda images: {"image_data": wire.base64_of_file(images)}),
        decode=wire.predictions,
    ),
    "raw": Form(path="/predict", encode=wire.json_body(_base64_json), decode=wire.predictions),
    "batch": Form(path="/predict", encode=wire.json_body(_base64_json), decode=wire.predictions),
}
_as_numbers = Form(path=TENSORS, encode=wire.json_body(wire.open_inference_json), decode=wire.tensors)
_as_bytes = Form(path=TENSORS, encode=wire.open_inference_binary, decode=wire.tensors)
_mlflow_numbers = Form(
    path="/invocations",
    encode=wire.json_body(lambda images: {"inputs": images.tolist()}),
    decode=wire.bare_predictions,
)

CONTENDERS = (
    Contender(
        name=GLYPH,
        title="Glyph",
        command=lambda _: [sys.executable, "-m", "serving"],
        environment=commands.glyph_environment("inference"),
        forms=_glyph_forms(),
        settings="defaults",
    ),
    Contender(
        name=FLOAT32,
        title="Glyph, float32",
        command=lambda _: [sys.executable, "-m", "serving"],
        environment=lambda setup: (
            commands.glyph_environment("inference")(setup) | {"GLYPH_ARITHMETIC": "float32"}
        ),
        forms=_glyph_forms(),
        settings="GLYPH_ARITHMETIC=float32: the graph of the other servers",
    ),
    Contender(
        name=GTHREAD,
        title="Glyph, gthread",
        command=lambda _: [sys.executable, "-m", "serving"],
        environment=commands.glyph_environment("gthread"),
        forms=_glyph_forms(),
        settings="GLYPH_WORKER=gthread, 4 predictions at once, the default",
    ),
    Contender(
        name="mosec",
        title="Mosec",
        command=commands.mosec,
        forms=_same("/predict"),
        settings="max_batch_size 64, max_wait_time 1 ms (mosecorg.github.io/mosec/reference/interface)",
        lock="mosec",
    ),
    Contender(
        name="mosec-decoder",
        title="Mosec, Glyph's decoder",
        command=commands.mosec,
        environment=lambda _: {"BENCH_DECODER": "glyph", "PYTHONPATH": f"{PEERS}{os.pathsep}{ROOT}"},
        forms=_same("/predict"),
        settings="as Mosec, with Glyph's `bundle.images.plain_png` as decoder instead of Pillow",
        lock="mosec",
        borrows=True,
    ),
    Contender(
        name="fastapi",
        title="FastAPI + Uvicorn",
        command=commands.fastapi,
        forms=_same("/predict"),
        settings="uvloop, httptools, no access log, a worker for each core (uvicorn.org/settings); orjson",
        lock="fastapi",
    ),
    Contender(
        name=BASELINE,
        title="naive Flask",
        command=commands.gunicorn("flask_naive:app"),
        forms=_same("/predict"),
        settings="Gunicorn gthread, 4 threads, keep-alive 75 s",
        lock="flask",
    ),
    Contender(
        name="bentoml",
        title="BentoML",
        command=commands.bento,
        forms=_same("/predict", "png")
        | {
            name: Form(path="/pixels", encode=wire.octets_body, decode=wire.predictions)
            for name in ("raw", "batch")
        },
        environment=lambda _: {"BENTOML_DO_NOT_TRACK": "True"},
        settings="a worker for each core, no access log, metrics or tracing "
        "(docs.bentoml.com/en/latest/reference/bentoml/configurations)",
        lock="bentoml",
    ),
    Contender(
        name="litserve",
        title="LitServe",
        command=commands.python("litserve", "litserve_server.py"),
        forms=LITSERVE_FORMS,
        settings="max_batch_size 64, batch_timeout 1 ms, fast_queue, an API server for each core "
        "(lightning.ai/docs/litserve/api-reference/litserver)",
        lock="litserve",
    ),
    Contender(
        name="ray",
        title="Ray Serve",
        command=commands.python("ray", "ray_server.py"),
        forms=_same("/predict"),
        environment=lambda _: {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            "RAY_raylet_start_wait_time_s": "120",
        },
        settings="HAProxy and the throughput-optimized mode (docs.ray.io, Enable High Throughput on Ray Serve), "
        "serve.batch of 64 with 1 ms, no access log",
        lock="ray",
    ),
    Contender(
        name="mlserver",
        title="MLServer",
        command=commands.mlserver,
        prepare=commands.prepare_mlserver,
        forms=_same("/predict", "png") | {"raw": _as_numbers, "batch": _as_numbers},
        settings="parallel_workers 0, debug off, no metrics, no gzip (docs.seldon.ai/mlserver, Parallel Inference)",
        lock="mlserver",
    ),
    Contender(
        name="kserve",
        title="KServe",
        command=commands.kserve,
        prepare=commands.prepare_kserve,
        forms=_same("/v1/models/{model}:predict", "png") | {"raw": _as_bytes, "batch": _as_bytes},
        settings="a Uvicorn worker for each core, no latency log, no gRPC (kserve.model_server's arguments)",
        lock="kserve",
    ),
    Contender(
        name="mlflow",
        title="MLflow",
        command=commands.mlflow,
        prepare=commands.prepare_mlflow,
        forms={
            "png": Form(
                path="/invocations",
                encode=wire.json_body(lambda images: {"inputs": [wire.base64_of_file(images)]}),
                decode=wire.bare_predictions,
            ),
            "raw": _mlflow_numbers,
            "batch": _mlflow_numbers,
        },
        environment=lambda _: {"MLFLOW_DISABLE_TELEMETRY": "true"},
        settings="mlflow models serve, a worker for each core (mlflow.org, Deploy MLflow Model as a Local Server)",
        lock="mlflow",
    ),
    Contender(
        name="torchserve",
        title="TorchServe",
        command=commands.torchserve,
        prepare=commands.prepare_torchserve,
        forms=_same("/predictions/{model}"),
        settings="batch_size 64, max_batch_delay 1 ms, system metrics off (pytorch.org/serve, Performance Guide)",
        lock="torchserve",
    ),
    Contender(
        name="triton",
        title="Triton, Python backend",
        command=commands.triton,
        prepare=commands.prepare_triton,
        environment=commands.triton_environment,
        forms={
            "png": Form(
                path="/v2/models/{model}-png/infer", encode=wire.open_inference_file, decode=wire.tensors
            ),
            "raw": _as_bytes,
            "batch": _as_bytes,
        },
        settings="its own server from PyTriton's package, an instance for each core, dynamic batching of 64 requests "
        "with 1 ms, no metrics, no gRPC (docs.nvidia.com, Triton Inference Server, Batchers)",
        lock="triton",
        package="nvidia-pytriton",
    ),
    Contender(
        name="flask-constant",
        title="floor: constant Flask",
        command=commands.gunicorn("flask_constant:app"),
        forms=_same("/predict"),
        settings="Gunicorn gthread, 4 threads",
        lock="flask",
        is_floor=True,
    ),
    Contender(
        name="wsgi-constant",
        title="floor: constant WSGI",
        command=commands.gunicorn("wsgi_constant:app"),
        forms=_same("/predict"),
        settings="Gunicorn gthread, 4 threads",
        lock="flask",
        is_floor=True,
    ),
    Contender(
        name=CONSTANT,
        title="floor: constant Glyph",
        command=lambda _: [
            *(sys.executable, "-m", "gunicorn", "-c", "python:bench.comparison.peers.glyph_constant"),
        ],
        environment=commands.glyph_environment("inference"),
        forms=_glyph_forms(),
        settings="the inference worker, without decoding or inference",
        is_floor=True,
    ),
)
"""All servers, in the order of the report's first table."""


def with_python(python: str) -> Contender:
    """Return Glyph as another Python runs it, whose environment has the packages of this one.

    Raises:
        OSError: there is no such program.
        subprocess.CalledProcessError: it cannot tell its version.
    """
    asked = [python, "-c", "import platform; print(platform.python_version())"]
    version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    (usual,) = (contender for contender in CONTENDERS if contender.name == GLYPH)
    named = f"Glyph, Python {version}"
    return replace(usual, name=named, title=named, command=lambda _: [python, "-m", "serving"])
