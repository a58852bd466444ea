"""Which package may know which: read off every import statement, and off real processes."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.bundle.keys import new_key, public_pem
from tests.conftest import ROOT

ALLOWED = {
    # What `make run` installs, since benches are to run then; the three of which a bench says that it does without.
    "bench": {
        "bench",
        "bundle",
        "common",
        "imagesets",
        "serving",
        "training",
        "gunicorn",
        "matplotlib",
        "numpy",
        "onnx",
        "onnxruntime",
        "orjson",
        "PIL",
        "prometheus_client",
        "pyarrow",
        "scipy",
        "torch",
        "torchvision",
        "uvloop",
        "atheris",
        "cv2",
        "ray",
    },
    "bundle": {
        "bundle",
        "common",
        "cryptography",  # an extra, imported where trusted keys are set
        "model_signing",  # an extra, imported where a key to sign with is given
        "numpy",
        "PIL",
        "pydantic",
    },
    "common": {
        "common",
        "numpy",
        "pydantic",
        "PIL",
        "rich",  # for progress, which training and scoring show
        "fsspec",  # for object stores, imported where one is opened
    },
    "glyph": {
        "bundle",
        "common",
        "glyph",
        "serving",
        "training",
        "pydantic",
        "rich",  # for the table of predictions
        "urllib3",  # to ask a service
    },
    "imagesets": {
        "bundle",
        "common",
        "imagesets",
        "numpy",
        "PIL",
        "pyarrow",  # for tables, imported where there is one
        "pydantic",
        "scipy",  # for MATLAB files, imported where there is one
    },
    "serving": {
        "bundle",
        "common",
        "imagesets",
        "serving",
        "cv2",
        "flask",
        "google",  # protobuf, an extra, imported where gRPC is asked for
        "gunicorn",
        "h2",  # the same
        "hyperframe",  # h2's frames
        "numpy",
        "onnxruntime",
        "opentelemetry",  # an extra, imported where tracing is asked for
        "orjson",
        "PIL",
        "prometheus_client",
        "pyarrow",
        "ray",  # an extra, imported where --engine ray asks for it
        "rich",
        "pydantic",
        "urllib3",  # for scoring by --url
        "uvloop",
        "werkzeug",
        "yaml",
    },
    "training": {
        "bundle",
        "common",
        "imagesets",
        "training",
        "matplotlib",
        "numpy",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "optuna",
        "PIL",
        "pydantic",
        "rich",
        "sqlalchemy",  # Optuna's, where a search has a database
        "torch",
        "torchvision",
        "yaml",
    },
}
FORBIDDEN_WHEN_LOADED = {
    "bundle": {"torch", "onnx", "onnxruntime", "flask", "training", "serving"},
    "common": {"torch", "onnx", "onnxruntime", "flask", "bundle", "training", "serving"},
    "imagesets": {"torch", "onnx", "onnxruntime", "flask", "training", "serving"},
    "serving": {"torch", "torchvision", "onnx", "training"},
    "training": {"flask", "gunicorn", "serving"},
}


def imported(path: Path) -> Iterator[str]:
    """Yield the top-level name of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_bytes(), path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module
            yield node.module.split(".")[0]


def modules(package: str) -> list[str]:
    """Return the names of a package's modules that are not programs, those of its folders too."""
    parts = [path.relative_to(ROOT).with_suffix("").parts for path in sorted((ROOT / package).rglob("*.py"))]
    return [".".join(name).removesuffix(".__init__") for name in parts if name[-1] != "__main__"]


def loaded(program: str, settings: Mapping[str, str]) -> set[str]:
    """Return the names of the modules that a fresh interpreter has loaded when it has run a program."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {program}; print(*sys.modules)"],
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("package", ALLOWED)
def test_each_package_imports_only_what_it_may(package: str) -> None:
    """No file imports another layer's package or library, even inside a function."""
    paths = sorted(set((ROOT / package).rglob("*.py")) - set((ROOT / "bench").rglob("peers/*.py")))
    assert len(paths) > 1
    found = {(path.name, name) for path in paths for name in imported(path)}
    strangers = {(file, name) for file, name in found if name not in sys.stdlib_module_names}
    assert {(file, name) for file, name in strangers if name not in ALLOWED[package]} == set()


@pytest.mark.parametrize("package", ["bundle", "common", "imagesets", "serving"])
def test_no_library_brings_a_forbidden_one_along(package: str) -> None:
    """A process that imported every module of the package has not loaded what it must not know."""
    names = [
        name for name in modules(package) if name != "serving.process.gunicorn_conf"
    ]  # acts when imported
    found = loaded(f"import {', '.join(names)}", {})
    assert {name.split(".")[0] for name in found} & FORBIDDEN_WHEN_LOADED[package] == set()


@pytest.mark.parametrize("worker", ["inference", "gthread"])
def test_what_the_arbiter_imports_brings_neither_onnx_runtime_nor_flask(worker: str, tmp_path: Path) -> None:
    """A worker forked after ONNX Runtime's import can hang when it ends; Gunicorn's own way of loading is taken."""
    program = (
        "from gunicorn.app.wsgiapp import WSGIApplication; "
        "sys.argv[1:] = ['--config', 'python:serving.process.gunicorn_conf']; service = WSGIApplication(); "
        "service.cfg.worker_class; service.cfg.logger_class"
    )
    keys = tmp_path / "trusted.pem"
    keys.write_bytes(public_pem(new_key()))
    asked = {"GLYPH_WORKER": worker, "GLYPH_PROVIDER": "cpu", "GLYPH_LOG_FORMAT": "json"}
    asked["GLYPH_TRUSTED_KEYS"] = str(keys)
    found = loaded(program, asked)
    workers = {"inference": "serving.worker.inference_worker", "gthread": "serving.worker.thread_worker"}
    assert {
        "serving.process.gunicorn_conf",
        "serving.process.management_process",
        "serving.telemetry.logs",
        workers[worker],
    } <= found
    assert {name.split(".")[0] for name in found} & {"cryptography", "flask", "onnxruntime"} == set()


def test_readers_bring_the_libraries_of_formats_only_where_a_file_needs_them() -> None:
    """Whoever has IDX files or images waits for neither pyarrow nor SciPy, and can do without them."""
    found = loaded("import imagesets.image_set, serving.scoring.inputs.sources, training.data.reading", {})
    assert "imagesets.opening" in found
    assert {name.split(".")[0] for name in found} & {"pyarrow", "scipy"} == set()


def test_the_service_reads_no_image_sets() -> None:
    """Its image is to have no pyarrow and no SciPy, and its workers nothing that they do not use."""
    program = "import serving.wsgi, serving.worker.inference_worker, serving.management.server, serving.check"
    found = loaded(program, {})
    assert "serving.predict.pipeline" in found
    assert {name.split(".")[0] for name in found} & {"imagesets", "pyarrow", "scipy"} == set()


def test_a_service_without_grpc_brings_none_of_its_libraries() -> None:
    """GLYPH_GRPC_PORT is unset by default, and h2 and protobuf are an extra."""
    found = loaded("import serving.wsgi, serving.worker.inference_worker, serving.worker.connections", {})
    assert {"serving.worker.connection", "serving.worker.rpc"} & found == {"serving.worker.connection"}
    assert {name.split(".")[0] for name in found} & {"google", "grpc", "h2", "hpack", "hyperframe"} == set()


@pytest.mark.parametrize("module", ["serving.model.engine", "training.release.export"])
def test_onnx_runtime_does_not_report_home(module: str, tmp_path: Path) -> None:
    """A session leaves no identifier and no store of events where ONNX Runtime would keep them."""
    model = (
        "from onnx import TensorProto, helper; value = helper.make_tensor_value_info('x', TensorProto.FLOAT, [1]); "
        "other = helper.make_tensor_value_info('y', TensorProto.FLOAT, [1]); "
        "graph = helper.make_graph([helper.make_node('Identity', ['x'], ['y'])], 'g', [value], [other]); "
        "model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)"
    )
    program = (
        f"import {module}; {model}; import onnxruntime; "
        "onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])"
    )
    places = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=kept | places, check=True)
    assert not [
        path for path in tmp_path.rglob("*") if "microsoft" in str(path).lower() or path.name == ".ses"
    ]
