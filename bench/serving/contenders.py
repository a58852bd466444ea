"""Who takes part: how each server is started, how it is asked, and where its settings are from."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.serving import wire
from bench.serving.environments import PEERS, python_of
from bench.serving.wire import Form

ROOT = Path(__file__).parents[2]
BASELINE = "flask"
GLYPH = "glyph"
GTHREAD = "glyph-gthread"
CONSTANT = "glyph-constant"
WORKLOADS = {
    "png": "one PNG of 28x28",
    "raw": "one raw image, 784 bytes",
    "batch": "64 raw images",
}
"""Name: what a request has."""
TENSORS = "/v2/models/{model}/infer"
IMAGES = {"png": 1, "raw": 1, "batch": 64}


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What a server is started with."""

    port: int
    more_ports: tuple[int, ...]
    """For servers that insist on others besides."""
    workers: int
    """As many as there are cores for the server."""
    bundle: Path
    name: str
    """The model's."""
    directory: Path
    """The server's own, empty."""

    @property
    def graph(self) -> Path:
        """Return the ONNX file that all serve."""
        return self.bundle / "model.onnx"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """One server."""

    name: str
    title: str
    command: Callable[[Setup], list[str]]
    forms: Mapping[str, Form]
    """By workload; one that is missing is not measured."""
    settings: str
    """What was set and who recommends it, for the report."""
    environment: Callable[[Setup], dict[str, str]] = field(default=lambda _: {})
    prepare: Callable[[Setup], list[str] | None] = field(default=lambda _: None)
    """Writes what the server wants to find, and returns a command to be run before it, if one is needed."""
    lock: str | None = None
    """The environment that it runs in, a key of `environments.LOCKS`; None is this one."""
    is_floor: bool = False
    """Answers a constant: what it says is not checked, and it is no peer."""


def _same(path: str, *workloads: str) -> dict[str, Form]:
    """Return forms of one path that takes files and pixels alike."""
    encoders = {"png": wire.file_body, "raw": wire.octets_body, "batch": wire.octets_body}
    return {
        workload: Form(path=path, encode=encoders[workload], decode=wire.predictions)
        for workload in workloads or WORKLOADS
    }


def _gunicorn(application: str) -> Callable[[Setup], list[str]]:
    def command(setup: Setup) -> list[str]:
        return [
            *(
                str(python_of("flask")),
                "-m",
                "gunicorn",
                "--no-control-socket",
                "--bind",
                f"127.0.0.1:{setup.port}",
            ),
            *("--worker-class", "gthread", "--workers", str(setup.workers), "--threads", "4"),
            *("--keep-alive", "75", "--chdir", str(PEERS), application),
        ]

    return command


def _python(lock: str, script: str) -> Callable[[Setup], list[str]]:
    return lambda setup: [str(python_of(lock)), str(PEERS / script), str(setup.port), str(setup.directory)]


def _glyph_environment(worker: str) -> Callable[[Setup], dict[str, str]]:
    def environment(setup: Setup) -> dict[str, str]:
        settings = {
            "model": setup.bundle.parent,
            "host": "127.0.0.1",
            "port": setup.port,
            "management_port": setup.more_ports[0],
            "provider": "cpu",
            "worker": worker,
            "workers": setup.workers,
        }
        return {f"GLYPH_{name.upper()}": str(value) for name, value in settings.items()} | {
            "PYTHONPATH": str(ROOT)
        }

    return environment


def _glyph_forms() -> dict[str, Form]:
    tensors = Form(path=TENSORS, encode=wire.open_inference_binary, decode=wire.tensors)
    return _same("/predict", "png", "raw") | {"batch": tensors}


def _bento(setup: Setup) -> list[str]:
    program = python_of("bentoml").parent / "bentoml"
    address = ("--host", "127.0.0.1", "--port", str(setup.port), "--api-workers", str(setup.workers))
    return [str(program), "serve", "bentoml_service:Classifier", "--working-dir", str(PEERS), *address]


def _fastapi(setup: Setup) -> list[str]:
    return [
        *(str(python_of("fastapi")), "-m", "uvicorn", "--app-dir", str(PEERS), "fastapi_server:app"),
        *("--port", str(setup.port), "--workers", str(setup.workers)),
        *("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"),
    ]


def _mosec(setup: Setup) -> list[str]:
    address = (
        "--address",
        "127.0.0.1",
        "--port",
        str(setup.port),
        "--path",
        str(setup.directory / "sockets"),
    )
    return [str(python_of("mosec")), str(PEERS / "mosec_server.py"), *address, "--log-level", "warning"]


def _prepare_mlserver(setup: Setup) -> None:
    http, grpc, metrics = setup.port, *setup.more_ports[:2]
    settings = {
        "debug": False,
        "parallel_workers": 0,
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
    }
    settings |= {"metrics_port": metrics, "metrics_endpoint": None, "gzip_enabled": False}
    model = {"name": setup.name, "implementation": "mlserver_model.Classifier"}
    (setup.directory / "settings.json").write_text(json.dumps(settings))
    (setup.directory / "model-settings.json").write_text(json.dumps(model))


def _mlserver(setup: Setup) -> list[str]:
    return [str(python_of("mlserver").parent / "mlserver"), "start", str(setup.directory)]


def _kserve(setup: Setup) -> list[str]:
    options = ("--http_port", str(setup.port), "--workers", str(setup.workers), "--log_config_file")
    quiet = setup.directory / "logging.yaml"
    return [str(python_of("kserve")), str(PEERS / "kserve_server.py"), *options, str(quiet)]


def _prepare_kserve(setup: Setup) -> None:
    document = {"version": 1, "disable_existing_loggers": True, "root": {"level": "WARNING"}}
    (setup.directory / "logging.yaml").write_text(json.dumps(document))  # JSON is YAML


def _mlflow(setup: Setup) -> list[str]:
    address = ("--host", "127.0.0.1", "--port", str(setup.port), "--workers", str(setup.workers))
    program = python_of("mlflow").parent / "mlflow"
    return [
        str(program),
        "models",
        "serve",
        "-m",
        str(setup.directory / "model"),
        "--env-manager",
        "local",
        *address,
    ]


def _prepare_mlflow(setup: Setup) -> list[str]:
    return [str(python_of("mlflow")), str(PEERS / "mlflow_model.py"), str(setup.directory / "model")]


def _torchserve(setup: Setup) -> list[str]:
    store = ("--model-store", str(setup.directory), "--ts-config", str(setup.directory / "config.properties"))
    flags = ("--foreground", "--ncs", "--disable-token-auth")
    return [str(python_of("torchserve").parent / "torchserve"), "--start", *flags, *store]


def _prepare_torchserve(setup: Setup) -> list[str]:
    inference, management, metrics = setup.port, *setup.more_ports[:2]
    loaded: dict[str, Any] = {setup.name: {"1.0": {"defaultVersion": True, "marName": f"{setup.name}.mar"}}}
    loaded[setup.name]["1.0"] |= {"minWorkers": setup.workers, "maxWorkers": setup.workers}
    loaded[setup.name]["1.0"] |= {"batchSize": 64, "maxBatchDelay": 1, "responseTimeout": 120}
    snapshot = {"name": "startup.cfg", "modelCount": 1, "models": loaded}
    lines = {
        "inference_address": f"http://127.0.0.1:{inference}",
        "management_address": f"http://127.0.0.1:{management}",
        "metrics_address": f"http://127.0.0.1:{metrics}",
        "grpc_inference_port": setup.more_ports[2],
        "grpc_management_port": setup.more_ports[3],
        "disable_system_metrics": "true",
        "install_py_dep_per_model": "false",
        "model_snapshot": json.dumps(snapshot),
    }
    text = "".join(f"{name}={value}\n" for name, value in lines.items())
    (setup.directory / "config.properties").write_text(text)
    archiver = python_of("torchserve").parent / "torch-model-archiver"
    handler = ("--handler", str(PEERS / "torchserve_handler.py"), "--extra-files", str(PEERS / "classify.py"))
    model = ("--model-name", setup.name, "--version", "1.0", "--export-path", str(setup.directory))
    return [str(archiver), *model, *handler]


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
        environment=_glyph_environment("inference"),
        forms=_glyph_forms(),
        settings="defaults",
    ),
    Contender(
        name=GTHREAD,
        title="Glyph, gthread",
        command=lambda _: [sys.executable, "-m", "serving"],
        environment=_glyph_environment("gthread"),
        forms=_glyph_forms(),
        settings="GLYPH_WORKER=gthread, 4 threads, the default",
    ),
    Contender(
        name="mosec",
        title="Mosec",
        command=_mosec,
        forms=_same("/predict"),
        settings="max_batch_size 64, max_wait_time 1 ms (mosecorg.github.io/mosec/reference/interface)",
        lock="mosec",
    ),
    Contender(
        name="fastapi",
        title="FastAPI + Uvicorn",
        command=_fastapi,
        forms=_same("/predict"),
        settings="uvloop, httptools, no access log, a worker for each core (uvicorn.org/settings); orjson",
        lock="fastapi",
    ),
    Contender(
        name=BASELINE,
        title="naive Flask",
        command=_gunicorn("flask_naive:app"),
        forms=_same("/predict"),
        settings="Gunicorn gthread, 4 threads, keep-alive 75 s",
        lock="flask",
    ),
    Contender(
        name="bentoml",
        title="BentoML",
        command=_bento,
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
        command=_python("litserve", "litserve_server.py"),
        forms=LITSERVE_FORMS,
        settings="max_batch_size 64, batch_timeout 1 ms, fast_queue, an API server for each core "
        "(lightning.ai/docs/litserve/api-reference/litserver)",
        lock="litserve",
    ),
    Contender(
        name="ray",
        title="Ray Serve",
        command=_python("ray", "ray_server.py"),
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
        command=_mlserver,
        prepare=_prepare_mlserver,
        forms=_same("/predict", "png") | {"raw": _as_numbers, "batch": _as_numbers},
        settings="parallel_workers 0, debug off, no metrics, no gzip (docs.seldon.ai/mlserver, Parallel Inference)",
        lock="mlserver",
    ),
    Contender(
        name="kserve",
        title="KServe",
        command=_kserve,
        prepare=_prepare_kserve,
        forms=_same("/v1/models/{model}:predict", "png") | {"raw": _as_bytes, "batch": _as_bytes},
        settings="a Uvicorn worker for each core, no latency log, no gRPC (kserve.model_server's arguments)",
        lock="kserve",
    ),
    Contender(
        name="mlflow",
        title="MLflow",
        command=_mlflow,
        prepare=_prepare_mlflow,
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
        command=_torchserve,
        prepare=_prepare_torchserve,
        forms=_same("/predictions/{model}"),
        settings="batch_size 64, max_batch_delay 1 ms, system metrics off (pytorch.org/serve, Performance Guide)",
        lock="torchserve",
    ),
    Contender(
        name="flask-constant",
        title="floor: constant Flask",
        command=_gunicorn("flask_constant:app"),
        forms=_same("/predict"),
        settings="Gunicorn gthread, 4 threads",
        lock="flask",
        is_floor=True,
    ),
    Contender(
        name="wsgi-constant",
        title="floor: constant WSGI",
        command=_gunicorn("wsgi_constant:app"),
        forms=_same("/predict"),
        settings="Gunicorn gthread, 4 threads",
        lock="flask",
        is_floor=True,
    ),
    Contender(
        name=CONSTANT,
        title="floor: constant Glyph",
        command=lambda _: [
            *(sys.executable, "-m", "gunicorn", "-c", "python:bench.serving.peers.glyph_constant"),
        ],
        environment=_glyph_environment("inference"),
        forms=_glyph_forms(),
        settings="the inference worker, between request and answer nothing",
        is_floor=True,
    ),
)
"""All of them, in the order of the report's first table."""


def environment_of(contender: Contender, setup: Setup) -> dict[str, str]:
    """Return the environment variables that a server is started with, besides this process's."""
    common = {
        "BENCH_MODEL": str(setup.graph),
        "BENCH_NAME": setup.name,
        "BENCH_WORKERS": str(setup.workers),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(PEERS) if contender.lock else "",
    }
    if contender.lock:
        common["PATH"] = f"{python_of(contender.lock).parent}:{os.environ['PATH']}"
    return common | contender.environment(setup)
