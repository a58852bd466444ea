"""The servers' command lines, and the files that they need before they start."""

import json
import sys
import sysconfig
from collections.abc import Callable
from typing import Any

from bench.comparison.contender import ROOT, Setup
from bench.comparison.environments import PEERS, cache, python_of

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
TRITON = cache() / f"triton/lib/python{PYTHON}/site-packages/pytriton"
TRITON_BATCH = 64 * 64
"""Images: 64 requests of 64, as the other servers with dynamic batching may run as one."""


def gunicorn(application: str) -> Callable[[Setup], list[str]]:
    """Return the command of a WSGI application on Gunicorn's gthread worker."""

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


def python(lock: str, script: str) -> Callable[[Setup], list[str]]:
    """Return the command of a script in a peer's environment, with port and directory as arguments."""
    return lambda setup: [str(python_of(lock)), str(PEERS / script), str(setup.port), str(setup.directory)]


def glyph_environment(worker: str) -> Callable[[Setup], dict[str, str]]:
    """Return Glyph's settings for a worker class."""

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


def bento(setup: Setup) -> list[str]:
    """Return BentoML's command."""
    program = python_of("bentoml").parent / "bentoml"
    address = ("--host", "127.0.0.1", "--port", str(setup.port), "--api-workers", str(setup.workers))
    return [str(program), "serve", "bentoml_service:Classifier", "--working-dir", str(PEERS), *address]


def fastapi(setup: Setup) -> list[str]:
    """Return Uvicorn's command."""
    return [
        *(str(python_of("fastapi")), "-m", "uvicorn", "--app-dir", str(PEERS), "fastapi_server:app"),
        *("--port", str(setup.port), "--workers", str(setup.workers)),
        *("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"),
    ]


def mosec(setup: Setup) -> list[str]:
    """Return Mosec's command."""
    address = (
        "--address",
        "127.0.0.1",
        "--port",
        str(setup.port),
        "--path",
        str(setup.directory / "sockets"),
    )
    return [str(python_of("mosec")), str(PEERS / "mosec_server.py"), *address, "--log-level", "warning"]


def prepare_mlserver(setup: Setup) -> None:
    """Write MLServer's settings and the model's."""
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


def mlserver(setup: Setup) -> list[str]:
    """Return MLServer's command."""
    return [str(python_of("mlserver").parent / "mlserver"), "start", str(setup.directory)]


def kserve(setup: Setup) -> list[str]:
    """Return KServe's command."""
    options = ("--http_port", str(setup.port), "--workers", str(setup.workers), "--log_config_file")
    quiet = setup.directory / "logging.yaml"
    return [str(python_of("kserve")), str(PEERS / "kserve_server.py"), *options, str(quiet)]


def prepare_kserve(setup: Setup) -> None:
    """Write a quiet logging configuration."""
    document = {"version": 1, "disable_existing_loggers": True, "root": {"level": "WARNING"}}
    (setup.directory / "logging.yaml").write_text(json.dumps(document))  # JSON is YAML


def mlflow(setup: Setup) -> list[str]:
    """Return MLflow's command."""
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


def prepare_mlflow(setup: Setup) -> list[str]:
    """Return the command that saves the model in MLflow's format."""
    return [str(python_of("mlflow")), str(PEERS / "mlflow_model.py"), str(setup.directory / "model")]


def torchserve(setup: Setup) -> list[str]:
    """Return TorchServe's command."""
    store = ("--model-store", str(setup.directory), "--ts-config", str(setup.directory / "config.properties"))
    flags = ("--foreground", "--ncs", "--disable-token-auth")
    return [str(python_of("torchserve").parent / "torchserve"), "--start", *flags, *store]


def prepare_torchserve(setup: Setup) -> list[str]:
    """Write TorchServe's configuration; return the command that creates its model archive."""
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


def triton(setup: Setup) -> list[str]:
    """Return the command of Triton's own server, from the package that has it."""
    root = TRITON / "tritonserver"
    return [
        *(str(root / "bin/tritonserver"), "--backend-directory", str(root / "backends")),
        *("--model-repository", str(setup.directory / "models"), "--disable-auto-complete-config"),
        *("--http-address", "127.0.0.1", "--http-port", str(setup.port)),
        *("--allow-grpc", "false", "--allow-metrics", "false", "--log-info", "false"),
    ]


def triton_environment(_setup: Setup) -> dict[str, str]:
    """Return where the Python backend finds this interpreter's library; packages it finds by PATH."""
    return {"LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR"))}


def prepare_triton(setup: Setup) -> None:
    """Write Triton's model repository: a model for pixels, and one for image files.

    The Python backend runs models in a process of its own, whose program is looked for beside the backend.
    """
    stub = TRITON / "tritonserver/backends/python/triton_python_backend_stub"
    stub.unlink(missing_ok=True)
    stub.symlink_to(TRITON / "tritonserver/python_backend_stubs" / PYTHON / stub.name)
    inputs = {
        setup.name: ("images", "TYPE_UINT8", "28, 28"),
        f"{setup.name}-png": ("file", "TYPE_STRING", "1"),
    }
    for name, (tensor, kind, shape) in inputs.items():
        model = setup.directory / "models" / name
        (model / "1").mkdir(parents=True)
        (model / "1/model.py").symlink_to(PEERS / "triton_model.py")
        (model / "1/classify.py").symlink_to(PEERS / "classify.py")
        (model / "config.pbtxt").write_text(
            f'name: "{name}"\nbackend: "python"\nmax_batch_size: {TRITON_BATCH}\n'
            f'input {{ name: "{tensor}" data_type: {kind} dims: [{shape}] }}\n'
            'output { name: "probabilities" data_type: TYPE_FP32 dims: [-1] }\n'
            f"instance_group {{ kind: KIND_CPU count: {setup.workers} }}\n"
            "dynamic_batching { max_queue_delay_microseconds: 1000 }\n"
        )
