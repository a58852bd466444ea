"""The Python that `make run` takes: one of this machine, else one that uv downloads, else a sentence."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT

LOWEST, ABOVE = map(
    int,
    re.findall(
        r"3\.(\d+)", tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    ),
)
"""The minor versions of requires-python: `>=3.LOWEST,<3.ABOVE`."""
VERSIONS = f"Python 3.{LOWEST} to 3.{ABOVE - 1}"
COMMANDS = ("dirname", "env", "ln", "make", "mkdir", "sed", "sh", "tail", "touch")
"""What a machine has that has no Python."""

PYTHON = """\
#!/bin/sh
echo "$0 $*" >>{log}
case "$*" in
  "-c "*) exec {python} -c 'import sys; sys.version_info = (3, {minor}, 0); {before}; exec(sys.argv[2])' "$@" ;;
  "-m venv "*) {venv} && mkdir -p "$3/bin" && ln -sf {stub} "$3/bin/python" && touch "$3/bin/pip" ;;
  *pip*"install --require-hashes"*) {pip} || exit
    case "$*" in *"--target "*) for to; do :; done ;; *) to=${{0%/bin/*}} ;; esac
    mkdir -p "$to/bin" && ln -sf {uv} "$to/bin/uv" ;;
esac
"""
"""A Python of another version, without one thing or another; it makes environments with a copy of itself."""

UV = """\
#!/bin/sh
echo "uv $*, retries: $UV_HTTP_RETRIES" >>{log}
case "$1 $2" in
  "python find") echo "{found}" ;;
  "python install")
    test -n "{downloads}" || {{ printf 'error: Failed to install\\n  cause: no route to host\\n' >&2; exit 1; }}
    mkdir -p "$UV_PYTHON_INSTALL_DIR/cpython-3.14.0-linux/bin"
    ln -s "{downloads}" "$UV_PYTHON_INSTALL_DIR/cpython-3.14.0-linux/bin/python3" ;;
esac
"""


class Machine:
    """A clone on a machine of which only the PATH's programs are known."""

    def __init__(self, folder: Path) -> None:
        """Bring the commands that the Makefile asks for, and no Python."""
        self.clone, self.path, self.aside = folder / "clone", folder / "path", folder / "aside"
        self._log = folder / "log"
        for place in (self.clone, self.path, self.aside):
            place.mkdir()
        for name in COMMANDS:
            (self.path / name).symlink_to(shutil.which(name) or name)
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy(ROOT / name, self.clone)
        shutil.copytree(ROOT / "lock", self.clone / "lock")

    def python(
        self,
        name: str,
        minor: int,
        *,
        ensurepip: bool = True,
        venv: bool = True,
        pip: bool = True,
        aside: bool = False,
    ) -> Path:
        """Install a Python, which brings uv where it is asked to: on the PATH, or where only uv looks."""
        stub = (self.aside if aside else self.path) / name
        stub.write_text(
            PYTHON.format(
                log=self._log,
                python=sys.executable,
                minor=minor,
                before="pass" if ensurepip else 'sys.modules["ensurepip"] = None',
                venv="true" if venv else "false",
                pip="true" if pip else "false",
                stub=stub,
                uv=self.aside / "uv",
            )
        )
        stub.chmod(0o755)
        return stub

    def uv(self, *, found: Path | str = "", downloads: Path | str = "", aside: bool = False) -> None:
        """Install uv: on the PATH, or where pip takes it from."""
        stub = (self.aside if aside else self.path) / "uv"
        stub.write_text(UV.format(log=self._log, found=found, downloads=downloads))
        stub.chmod(0o755)

    def make(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run make with this machine's PATH and nothing else in the environment."""
        return subprocess.run(
            [self.path / "make", *words],
            cwd=self.clone,
            env={"PATH": str(self.path)},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def log(self) -> list[str]:
        """Return what the programs were asked, in order, without their folders."""
        if not self._log.exists():
            return []
        return [re.sub(r"\S*/", "", line) for line in self._log.read_text().splitlines()]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine without a Python."""
    return Machine(tmp_path)


def environment(machine: Machine, *words: str) -> list[str]:
    """Make the environment of `make run`; return the programs that made environments."""
    done = machine.make(".venv/bin/pip", *words)
    assert done.returncode == 0, done.stderr
    assert (machine.clone / ".venv/bin/pip").exists()
    return [line.split()[0] for line in machine.log() if line.endswith("-m venv .venv")]


def error(machine: Machine, *words: str) -> str:
    """Ask for `make run`, which must end with one sentence; return it."""
    done = machine.make("run", *words)
    assert done.returncode == 2
    *before, sentence, last = done.stderr.splitlines()
    assert last.startswith("make: ***")
    assert all(line.startswith("downloading Python into .venv-python") for line in before), before
    assert sentence.startswith("error: ")
    assert not (machine.clone / ".venv").exists()
    return sentence


@pytest.mark.parametrize("minor", range(LOWEST, ABOVE))
@pytest.mark.parametrize("name", ["python3", "python3.{minor}"])
def test_every_version_of_requires_python_is_taken(machine: Machine, minor: int, name: str) -> None:
    """By its own name or as python3."""
    machine.python(name.format(minor=minor), minor)
    assert environment(machine) == [name.format(minor=minor)]


def test_the_newest_is_taken(machine: Machine) -> None:
    """Of those that the locks are for, whatever python3 is."""
    machine.python("python3", ABOVE)
    for minor in range(LOWEST - 1, ABOVE + 1):
        machine.python(f"python3.{minor}", minor)
    assert environment(machine) == [f"python3.{ABOVE - 1}"]


def test_a_python_without_venv_is_passed_over(machine: Machine) -> None:
    """Debian packs ensurepip by itself; an older Python that has it will do."""
    machine.python(f"python3.{ABOVE - 1}", ABOVE - 1, ensurepip=False)
    machine.python(f"python3.{LOWEST}", LOWEST)
    assert environment(machine) == [f"python3.{LOWEST}"]


def test_the_one_that_is_named_is_taken_or_refused(machine: Machine) -> None:
    """Never another in its place."""
    machine.python(f"python3.{ABOVE - 1}", ABOVE - 1)
    machine.python("mine", LOWEST)
    assert environment(machine, "PYTHON=mine") == ["mine"]
    shutil.rmtree(machine.clone / ".venv")
    machine.python("old", LOWEST - 1)
    for name in ("old", "nowhere"):
        assert f"{name} is not {VERSIONS} with venv" in error(machine, f"PYTHON={name}")


def test_uv_tells_of_a_python_that_is_not_on_the_path(machine: Machine) -> None:
    """One that it downloaded for another project, for example; nothing is downloaded."""
    machine.uv(found=machine.python("python3.12", 12, aside=True))
    assert environment(machine) == ["python3.12"]
    assert not any("install" in line for line in machine.log())


def test_uv_downloads_one(machine: Machine) -> None:
    """Into the clone, once: the next environment finds it there."""
    machine.uv(downloads=machine.python("python3.14", 14, aside=True))
    assert environment(machine) == ["python3"]
    assert [line for line in machine.log() if "install" in line] == [
        f"uv python install >=3.{LOWEST},<3.{ABOVE}, retries: 1"
    ]
    shutil.rmtree(machine.clone / ".venv")
    (machine.path / "uv").unlink()
    assert environment(machine) == ["python3"] * 2


@pytest.mark.parametrize(("venv", "minor"), [(True, LOWEST - 2), (True, ABOVE), (False, LOWEST - 2)])
def test_a_python_of_another_version_brings_uv(machine: Machine, venv: bool, minor: int) -> None:
    """From the lock, by hash; into an environment, or beside one where it can make none."""
    machine.python("python3", minor, ensurepip=venv, venv=venv)
    machine.uv(downloads=machine.python("python3.14", 14, aside=True), aside=True)
    environment(machine)
    assert (machine.clone / ".venv-python/uv.txt").read_text().startswith("uv==")
    asked = [line for line in machine.log() if " install --require-hashes -r uv.txt" in line]
    assert [line.split()[0] for line in asked] == ["python" if venv else "python3"]


def test_where_nothing_can_be_had_one_sentence_says_what_to_install(machine: Machine) -> None:
    """No Python at all; one that cannot install uv; uv without a network."""
    missing = f"error: {VERSIONS} with venv is needed, and is not here"
    remedy = (
        "; install one, on Debian by apt-get install python3-venv, or name one: make PYTHON=/path/to/python3"
    )
    assert error(machine) == f"{missing}, nor uv, which would download one{remedy}"
    machine.python("python3", LOWEST - 1, pip=False)
    assert error(machine) == f"{missing}, nor uv, which would download one{remedy}"
    machine.python("python3", LOWEST - 1)
    machine.uv(aside=True)
    for _ in range(2):
        assert error(machine) == f"{missing}, and uv cannot download one (no route to host){remedy}"


def test_an_environment_that_was_half_made_is_made_to_the_end(machine: Machine) -> None:
    """Where making it was killed before it had pip."""
    stub = machine.python("python3", LOWEST)
    (machine.clone / ".venv/bin").mkdir(parents=True)
    (machine.clone / ".venv/bin/python").symlink_to(stub)
    assert environment(machine) == ["python3"]


def test_every_place_names_the_versions_of_requires_python() -> None:
    """What users read, and what the checks and the locks start from."""
    for name in ("README.md", "Dockerfile.serve", "Dockerfile.train", "docker-bake.hcl", "lock/compile.sh"):
        said = re.findall(r"Python 3\.\d+(?:,? (?:to|or|and)?.?3\.\d+)+", (ROOT / name).read_text())
        assert set(said) == {VERSIONS}, name
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    assert ruff["target-version"] == f"py3{LOWEST}"
    compiled = re.findall(r"--python-version[ =](\S+)", (ROOT / "lock/compile.sh").read_text())
    assert set(compiled) == {f"3.{LOWEST}"}


def test_the_make_of_macos_runs_the_check_too(machine: Machine) -> None:
    """Make 3.81 has no --output-sync, and says by .FEATURES what it has."""
    for features, option in (
        ("target-specific order-only jobserver", []),
        ("output-sync", ["--output-sync"]),
    ):
        done = machine.make("--dry-run", "check", f".FEATURES={features}")
        (line,) = re.findall(r".* --jobs .*", done.stdout)
        assert [word for word in line.split() if word == "--output-sync"] == option


def test_commands_have_no_option_of_gnu_alone() -> None:
    """What `make run` starts is macOS', where sed knows no tab, and has no `-i` without a suffix."""
    for name in ("Makefile", "lock/python.sh", "lock/compile.sh"):
        text = (ROOT / name).read_text()
        assert (
            re.findall(r"sed [^|\n]*\\t|sed (?:-\S+ )*-i|grep -\w*P|\b(?:expand|nproc|tac|flock)\b", text)
            == []
        )
        assert (
            re.findall(r"readlink -f|realpath|xargs -r|date -d|stat -c|cp -\w*[al]|mktemp --|sort -V", text)
            == []
        )


@pytest.mark.parametrize(
    ("fit", "passed"),
    [
        ("", ["--resume"]),
        ("--epochs 5", ["--resume"]),
        ("--restart --epochs 5", ["--restart"]),
        ("--no-resume", ["--no-resume"]),
    ],
)
@pytest.mark.parametrize("target", ["run", "train"])
def test_an_interrupted_training_goes_on(machine: Machine, target: str, fit: str, passed: list[str]) -> None:
    """`make run` and `make train` resume, unless FIT says otherwise: without either option `fit` would only ask."""
    done = machine.make("--dry-run", target, f"FIT={fit}")
    (line,) = re.findall(r".*-m training fit .*", done.stdout)
    assert [word for word in line.split() if word in ("--resume", "--no-resume", "--restart")] == passed
