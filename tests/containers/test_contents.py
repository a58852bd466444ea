"""What is in the images, what is not, and what they say of themselves."""

import functools
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from common.configuration import build, from_environment
from serving.scoring import settings as scoring
from serving.settings import ServiceSettings, load_settings, management_port
from tests.conftest import ROOT
from tests.containers.conftest import ALL, REVISION, USER, Image
from tests.containers.docker import Engine
from training import settings as training

LOOK = Path(__file__).with_name("look.py").read_text()
MEMORY = "/dev/shm"  # noqa: S108  it is the very place
SERVE_MB, OWN_MB = 320, 200
LEFT_OUT = {"triton"}
"""Compilers that a lock names."""
MISSING_DRIVER = "libcuda.so.1: cannot open shared object file: No such file or directory"


@functools.cache
def _look(engine: Engine, image: Image) -> dict[str, Any]:
    found: dict[str, Any] = engine.python(image.tag, LOOK)
    return found


@pytest.fixture
def found(engine: Engine, image: Image) -> dict[str, Any]:
    """Return what `look.py` sees in an image."""
    return _look(engine, image)


def locked(*paths: Path) -> dict[str, str]:
    """Return the versions that locks name for this Python."""
    lines = [line for path in paths for line in path.read_text().splitlines() if "==" in line[:60]]
    pins = [Requirement(line.rstrip(" \\")) for line in lines if not line.startswith((" ", "#"))]
    return {
        canonicalize_name(pin.name): next(iter(pin.specifier)).version
        for pin in pins
        if pin.marker is None or pin.marker.evaluate()
    }


def test_nothing_compiles_installs_or_is_secret(found: dict[str, Any]) -> None:
    """There is no compiler, no pip and no wheel of one, no key, no configuration of the build's."""
    assert (found["tools"], found["installers"], found["secrets"]) == ([], [], [])
    assert not {"pip", "ensurepip", "pytest", "triton"} & set(found["modules"])


def test_each_image_has_its_own_program_only(found: dict[str, Any], image: Image) -> None:
    """No torch where there is no training, no service where there is; readers' libraries for those who read sets."""
    package = "training" if image.program == "train" else "serving"
    assert found["code"] == sorted(["LICENSE", "bundle", "common", "glyph", "imagesets", package])
    wanted = {
        "serve": {"onnxruntime", "serving"},
        "score": {"onnxruntime", "pyarrow", "scipy", "serving"},
        "train": {"matplotlib", "onnxruntime", "pyarrow", "scipy", "torch", "training"}
        if image.whole
        else {"training"},
    }
    assert set(found["modules"]) == wanted[image.program]


def test_what_is_installed_is_what_is_locked(found: dict[str, Any], image: Image) -> None:
    """Every package of the lock is there in the lock's version, and no other."""
    if not image.whole:
        pytest.skip("this image has no packages of its own; TEST_IMAGES=all builds it with them")
    locks = [image.lock, *([ROOT / "lock" / "image-scoring.txt"] if image.program == "score" else [])]
    expected = {name: version for name, version in locked(*locks).items() if name not in LEFT_OUT}
    assert {canonicalize_name(name): version for name, version in found["distributions"].items()} == expected


def test_all_is_readable_and_compiled_and_nothing_can_be_written(found: dict[str, Any]) -> None:
    """A read-only root keeps no bytecode, so all of it is there; what can be written is memory."""
    assert found["unreadable"] == []
    assert [path for path in found["uncompiled"] if "/py312_" not in path] == []
    assert found["writable"] == [MEMORY]
    assert found["user"] == int(USER.partition(":")[0])


def test_its_configuration_is_the_codes(engine: Engine, image: Image) -> None:
    """A numeric user, programs without a shell, ports and variables that the settings know."""
    config = engine.inspect("image", image.tag)["Config"]
    assert config["User"] == USER
    module = {"serve": "serving", "score": "serving.score", "train": "training"}[image.program]
    assert config["Entrypoint"] == ["python", "-m", module]
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    assert labels["title"] == f"glyph-{image.program}"
    assert (labels["version"], labels["revision"]) == ("1.2.3", REVISION)
    assert labels["base.name"] == engine.base
    assert labels["licenses"] == "Apache-2.0"
    environment = dict(line.split("=", 1) for line in config["Env"])
    if image.program == "train":
        values = from_environment(training.TrainingSettings, environment, training.ENVIRONMENT_PREFIX)
        assert build(training.TrainingSettings, [values]).models == Path("/glyph/models")
        assert build(training.TrainingSettings, [values]).code_revision == REVISION
    elif image.program == "score":
        score = from_environment(scoring.ScoreSettings, environment, scoring.ENVIRONMENT_PREFIX)
        assert score.values == {"model": "/glyph/models/mnist", "provider": image.device}
    else:
        serve = load_settings(environment)
        assert (serve.host, serve.management_host, serve.provider) == ("0.0.0.0", "0.0.0.0", image.device)
        defaults = ServiceSettings()
        ports = {f"{port}/tcp" for port in (defaults.port, management_port(defaults))}
        assert set(config["ExposedPorts"]) == ports


def test_the_cpu_image_is_small(engine: Engine, serve: Image) -> None:
    """Whole and without its base, it stays below what was promised."""
    whole, own = engine.sizes[serve.tag]
    assert whole < SERVE_MB * 10**6
    assert own < OWN_MB * 10**6


def test_the_scorer_shares_the_services_packages(engine: Engine, serve: Image, score: Image) -> None:
    """A machine that has one image needs only the rest of the other."""
    layers = [engine.inspect("image", image.tag)["RootFS"]["Layers"] for image in (serve, score)]
    assert layers[0][:-1] == layers[1][: len(layers[0]) - 1]


def test_both_runtimes_have_one_version() -> None:
    """The ONNX Runtime of the image for CPUs answers as the tested one does."""
    cpu, cuda = (locked(ROOT / "lock" / f"image-{device}.txt") for device in ("cpu", "cuda"))
    assert cpu["onnxruntime"] == cuda["onnxruntime-gpu"]


@pytest.mark.skipif(not ALL, reason="TEST_IMAGES=all builds the images for GPUs; they have CUDA's libraries")
def test_the_image_for_gpus_has_cudas_libraries(engine: Engine, serve_cuda: Image) -> None:
    """ONNX Runtime's CUDA provider finds all that it links to, but for the driver, which is the machine's."""
    program = """
import ctypes, json, pathlib, onnxruntime
onnxruntime.preload_dlls()
provider = pathlib.Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
try:
    ctypes.CDLL(str(provider)); print(json.dumps(""))
except OSError as error:
    print(json.dumps(str(error)))
"""
    assert engine.python(serve_cuda.tag, program) in ("", MISSING_DRIVER)
