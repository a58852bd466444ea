"""The wheel, installed where nothing of this checkout is seen: it has all files, and `glyph` answers there.

The package index is asked by uv, or uv's cache; where neither has what is needed, these tests are skipped.
"""

import json
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.support.models import publish_synthetic
from bench.support.pictures import a_digit, png
from bench.support.processes import running
from bundle import __version__
from bundle.repository import Bundle
from tests.conftest import ROOT
from tests.glyph.calling import SECONDS, environment, error_of, glyph

pytestmark = pytest.mark.system

INSTALL_SECONDS = 600
UV = Path(sys.executable).with_name("uv")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = [pattern.rstrip("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]
OF_THE_PROJECT = ("LICENSE", "README.md", "pyproject.toml")


def uv(*words: object) -> None:
    """Run uv; where it cannot get packages in time, the test is skipped."""
    if not UV.exists():
        pytest.skip("there is no uv beside Python ('make check' installs it)")
    try:
        done = subprocess.run(
            [UV, "--quiet", *map(str, words)],
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"uv did not get the packages within {INSTALL_SECONDS} s")
    if done.returncode and any(word in done.stderr for word in ("error sending request", "Failed to fetch")):
        pytest.skip(f"uv reaches no package index: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel."""

    path: Path

    @property
    def script(self) -> Path:
        """Return the console script."""
        return self.path / "bin" / "glyph"

    def glyph(self, *words: object) -> subprocess.CompletedProcess[bytes]:
        """Run it, far from this checkout."""
        done = subprocess.run(
            [self.script, *map(str, words)],
            cwd=self.path,
            env=environment(),
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheel and the source distribution, built from a copy of the packages."""
    copy, built = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("built")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in OF_THE_PROJECT:
        shutil.copy(ROOT / name, copy)
    uv("build", "--out-dir", built, copy)
    return built


@pytest.fixture(scope="module")
def install(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Installed]:
    """Return what makes an environment with the wheel, given its extras, in the versions of the lock."""
    (wheel,) = built.glob("*.whl")

    def made(extras: str) -> Installed:
        path = tmp_path_factory.mktemp("environment") / "venv"
        uv("venv", "--python", sys.executable, path)
        wanted = f"glyph{extras} @ {wheel.as_uri()}"
        lock = ROOT / "lock" / "run.txt"
        uv("pip", "install", "--python", path / "bin" / "python", "--constraint", lock, wanted)
        return Installed(path)

    return made


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a published version."""
    return publish_synthetic(tmp_path_factory.mktemp("models"))


def test_wheel_and_source_distribution_have_every_file_of_the_packages(built: Path) -> None:
    """Code, the page, the API's description and its template; nothing else but what describes them."""
    files = {
        str(path.relative_to(ROOT))
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {
        "glyph/__main__.py",
        "serving/web/api_docs/openapi.yaml",
        "serving/web/page/assets/main.js",
    } <= files
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == files
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert files | set(OF_THE_PROJECT) <= names


def test_what_an_extra_would_bring_is_named(
    install: Callable[[str], Installed], bundle: Bundle, tmp_path: Path
) -> None:
    """Without any, published models can be read; every other command says what it needs."""
    bare = install("")
    assert bare.glyph("--version").stdout == f"glyph {__version__}\n".encode()
    assert bare.glyph("list", bundle.path.parent).returncode == 0
    assert bare.glyph("verify", bundle.path).returncode == 0
    for words, extra in (
        (["fit"], "training"),
        (["data"], "training"),
        (["study", "all"], "training"),
        (["serve"], "serving"),
        (["check"], "serving"),
        (["score", "--input", tmp_path, "--output", tmp_path / "out"], "serving"),
        (["predict", "digit.png"], "serving"),
        (["predict", "digit.png", "--url", "http://127.0.0.1:1"], "client"),
    ):
        sentence = error_of(bare.glyph(*words), 69)
        assert sentence.startswith(f"'glyph {words[0]}"), sentence
        assert sentence.endswith(f", which is not installed: pip install 'glyph[{extra}]'"), sentence


def test_the_installed_command_serves_and_predicts(
    install: Callable[[str], Installed], bundle: Bundle, tmp_path: Path
) -> None:
    """As this checkout does: in a process of its own, and as a client of a service that has all its pages."""
    served = install("[serving]")
    digit = tmp_path / "digit.png"
    digit.write_bytes(png(a_digit()))
    words = ["predict", digit, "--model", bundle.path.parent]
    answer = served.glyph(*words)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["predictions"][0]["label"] == bundle.manifest.sample_label
    assert answer.stdout == glyph(*words).stdout
    command = ["sh", "-c", f"cd '{served.path}' && exec '{served.script}' serve"]
    with running(tmp_path, until="/readyz", command=command, model=bundle.path.parent) as service:
        asked = served.glyph("predict", digit, "--url", f"http://127.0.0.1:{service.port}")
        assert (asked.returncode, asked.stdout) == (0, answer.stdout)
        for path in ("/", "/docs", "/openapi.json", "/metadata"):
            assert service.ask("GET", path).status == 200, path
