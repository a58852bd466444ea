"""What is said of a driver that is too old or incomplete: by one of a few lines of C, in processes of their own."""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bench.support.management import await_
from bench.support.processes import ROOT, environment, free_port, running, serving_command
from bundle.repository import Bundle
from serving.model import cuda
from serving.model.cuda import LEAST_DRIVER
from serving.system.cpus import usable_cpus

COMPILER = shutil.which("cc")
pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C compiler"),
    pytest.mark.skipif(find_spec("nvidia") is None, reason="no libraries of CUDA"),
]
DRIVER = """
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
"""
WHOLE = "int cuTensorMapEncodeTiled(void) { return 1; }\n"
"""What ONNX Runtime's CUDA provider wants to find beside them."""
OPEN = (
    "import sys; from pathlib import Path; from bundle.repository import Bundle\n"
    "from serving.model import cuda, engine\n"
    "cuda.missing_library()\n"
    "try: engine.open_engine(Bundle.open(Path(sys.argv[1])), 'cuda', 0)\n"
    "except engine.ProviderError as error: print(error)\n"
)


def with_driver(directory: Path, version: int, source: str = DRIVER + WHOLE) -> dict[str, str]:
    """Return an environment in which this driver is installed."""
    text, library = directory / "driver.c", directory / "libcuda.so.1"
    text.write_text(source)
    command = ["cc", "-shared", "-fPIC", f"-DVERSION={version}", "-Wl,-soname,libcuda.so.1", "-o"]
    subprocess.run([*command, library, text], check=True)
    return environment(provider="auto") | {"LD_LIBRARY_PATH": str(directory)}


def run(variables: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in it."""
    return subprocess.run(
        [sys.executable, *words], env=variables, cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_an_older_driver_is_named_with_the_one_to_install(tmp_path: Path) -> None:
    """By the child that the arbiter asks, too, so that it starts the workers for the CPU."""
    done = run(with_driver(tmp_path, 12040), "-m", "serving.model.cuda")
    assert done.returncode == 1
    assert "the NVIDIA driver supports CUDA 12.4 at most" in done.stdout
    assert "needs CUDA 13: install driver 580 or newer" in done.stdout


@pytest.mark.parametrize("version", [13000, 13010, 14000])
def test_a_driver_of_the_same_major_version_or_a_later_one_will_do(tmp_path: Path, version: int) -> None:
    """Within a major version an older one runs what was built for a newer one."""
    variables = with_driver(tmp_path, version)
    assert run(variables, "-m", "serving.model.cuda").returncode == 0
    done = run(variables, "-c", "from serving.model import cuda; print(cuda.missing(0))")
    assert done.stdout == "None\n"


@pytest.mark.parametrize("version", ["", "cuda_version = ''"])
def test_an_onnxruntime_for_cpus_alone_is_no_gpu_for_the_arbiter_either(tmp_path: Path, version: str) -> None:
    """Whatever the driver says: the workers will take the CPU, and there is to be one for each."""
    facts = tmp_path / "onnxruntime" / cuda.BUILD_INFO
    facts.parent.mkdir(parents=True)
    (tmp_path / "onnxruntime" / "__init__.py").write_text("raise AssertionError('it need not be imported')")
    facts.write_text(f"__version__ = '1.31.1'\n{version}\n")
    variables = with_driver(tmp_path, 13000) | {"PYTHONPATH": str(tmp_path)}
    done = run(variables, "-m", "serving.model.cuda")
    assert (done.returncode, done.stdout) == (1, "no onnxruntime with CUDA is installed\n")


def test_the_table_knows_the_cuda_that_is_installed() -> None:
    """A newer onnxruntime for another CUDA needs another line."""
    assert int(cuda._build_info()["cuda_version"].partition(".")[0]) in LEAST_DRIVER


def test_a_driver_that_lacks_a_function_is_said_in_the_loaders_words(tmp_path: Path) -> None:
    """The provider's library cannot be loaded, though no file is missing."""
    variables = with_driver(tmp_path, 13000, DRIVER)
    done = run(variables, "-c", "from serving.model import cuda; print(cuda.missing(0))")
    assert "CUDA provider cannot be loaded" in done.stdout
    assert "undefined symbol: cuTensorMapEncodeTiled" in done.stdout


@pytest.mark.parametrize(
    ("version", "said"), [(12040, "CUDA driver version is insufficient"), (13000, "CUDA failure")]
)
def test_what_a_session_fails_of_is_what_is_said(
    bundle: Bundle, tmp_path: Path, version: int, said: str
) -> None:
    """And not what came of another try on the CPU, which was never asked for."""
    done = run(with_driver(tmp_path, version), "-c", OPEN, str(bundle.path))
    assert done.returncode == 0, done.stderr
    assert "CUDA was found, but the model cannot be loaded on it" in done.stdout
    assert said in done.stdout
    assert "Conflicting session configuration" not in done.stdout
    assert "Falling back" not in done.stdout
    assert "hostname" not in done.stdout  # clients can read it on /readyz


def test_a_service_for_cuda_ends_with_the_reason(bundle: Bundle, tmp_path: Path) -> None:
    """With the exit code for providers, whether the driver is too old or fails later."""
    for version, said in ((12040, "driver 580 or newer"), (13000, "CUDA failure")):
        values = environment(provider="cuda", model=bundle.path.parent, workers=1, port=free_port())
        driver = with_driver(tmp_path, version)["LD_LIBRARY_PATH"]
        done = subprocess.run(
            serving_command(),
            env=values | {"LD_LIBRARY_PATH": driver},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 4, done.stderr
        assert said in done.stderr


def test_auto_serves_on_the_cpu_and_logs_the_reason(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a worker for each CPU, as where there is no GPU."""
    monkeypatch.setenv("LD_LIBRARY_PATH", with_driver(tmp_path, 12040)["LD_LIBRARY_PATH"])
    settings: dict[str, Any] = {"provider": "auto", "model": bundle.path.parent, "workers": "none"}
    with running(tmp_path, until="/readyz", **settings) as service:
        assert service.ask("GET", "/readyz").json()["provider"] == "cpu"
        assert "install driver 580 or newer" in service.log()
        await_(lambda: service.log().count("Booting worker") == usable_cpus(), service.log)
