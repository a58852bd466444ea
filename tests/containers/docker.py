"""A Docker engine: building with it, and running in it as Kubernetes would under the restricted profile."""

import contextlib
import json
import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

SCRIPT = Path(__file__).with_name("engine.sh")
UNAVAILABLE = 69
WAIT_SECONDS = 120.0
CONFINED = (
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--network=none",
    "--memory=2g",
    "--pids-limit=256",
)
"""What every container of the tests is started with."""

_ASK = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
headers = {"Content-Type": sys.argv[4]} if len(sys.argv) > 4 else {}
connection.request(sys.argv[2], sys.argv[3], sys.stdin.buffer.read() or None, headers)
response = connection.getresponse()
print(response.status)
sys.stdout.flush()
sys.stdout.buffer.write(response.read())
"""


@dataclass(frozen=True, eq=False)
class Engine:
    """The engine that `engine.sh up` named."""

    base: str
    """The image that the others are built on."""
    build_network: str
    ours: bool
    """Whether `up` started it, so that whoever called that ends it."""
    environment: dict[str, str]
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Bytes of each image that was built: in all, and without the base."""

    @classmethod
    def up(cls) -> "Engine":
        """Start an engine where there is none; skip the test where none can be."""
        done = subprocess.run([SCRIPT, "up"], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode == UNAVAILABLE:
            pytest.skip(
                "no container engine, and none can be brought here: the lines of `engine.sh up` say why"
            )
        assert done.returncode == 0, "engine.sh up failed; its lines above say why"
        exports = dict(shlex.split(line)[1].split("=", 1) for line in done.stdout.splitlines())
        ours = exports["ENGINE_STARTED"] == "yes"
        return cls(exports["BASE"], exports["BUILD_NETWORK"], ours, os.environ | exports)

    def down(self) -> None:
        """End the engine, if `up` started it."""
        if self.ours:
            subprocess.run([SCRIPT, "down"], check=True)

    def docker(
        self, *arguments: str | Path, data: bytes | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the command-line client to its end, with `data` as its standard input."""
        done = subprocess.run(
            ["docker", *arguments],
            env=self.environment,
            input=b"" if data is None else data,
            capture_output=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr.decode()
        return done

    def inspect(self, kind: str, name: str) -> Any:
        """Return what the engine knows of an image or a container."""
        return json.loads(self.docker(kind, "inspect", name).stdout)[0]

    def build(self, dockerfile: str, tag: str, *arguments: str, context: Path = ROOT) -> str:
        """Build an image from the repository and return its tag."""
        with tempfile.NamedTemporaryFile() as log:
            done = subprocess.run(
                [
                    *("docker", "buildx", "build", "--progress=plain", "--load"),
                    *(f"--network={self.build_network}", f"--build-arg=BASE={self.base}"),
                    *(f"--file={context / dockerfile}", f"--tag={tag}", *arguments, str(context)),
                ],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
            assert done.returncode == 0, Path(log.name).read_text()[-4000:]
        whole = int(self.inspect("image", tag)["Size"])
        self.sizes[tag] = (whole, whole - int(self.inspect("image", self.base)["Size"]))
        return tag

    def make_images(self, image: str, registry: str, *settings: str) -> None:
        """Run `make images` for one of them."""
        subprocess.run(
            [
                *("make", "images", f"IMAGES={image}", f"REGISTRY={registry}", *settings),
                *(f"BASE={self.base}", f"BUILD_NETWORK={self.build_network}"),
            ],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            check=True,
        )

    @contextlib.contextmanager
    def volume(self) -> Iterator[str]:
        """Create a volume, and remove it in the end."""
        name = self.docker("volume", "create").stdout.decode().strip()
        try:
            yield name
        finally:
            self.docker("volume", "rm", "--force", name)

    @contextlib.contextmanager
    def started(self, image: str, *command: str, options: Sequence[str] = ()) -> Iterator["Container"]:
        """Start a confined container, and remove it in the end."""
        identifier = (
            self.docker("run", "--detach", *CONFINED, *options, image, *command).stdout.decode().strip()
        )
        try:
            yield Container(self, identifier)
        finally:
            self.docker("rm", "--force", "--volumes", identifier)

    def run(self, image: str, *command: str, options: Sequence[str] = ()) -> "Ended":
        """Run a confined container to its end."""
        with self.started(image, *command, options=options) as container:
            return container.ended()

    def python(self, image: str, program: str, *options: str) -> Any:
        """Run a program in the image's Python, and return the JSON that it prints."""
        done = self.docker(
            "run", "--rm", "--interactive", *CONFINED, *options, "--entrypoint=python", image, "-",
            data=program.encode(),
        )  # fmt: skip
        return json.loads(done.stdout)


@dataclass(frozen=True)
class Ended:
    """What a container left."""

    code: int
    log: str


@dataclass(frozen=True)
class Container:
    """A container that was started."""

    engine: Engine
    identifier: str

    def log(self) -> str:
        """Return both streams of its output so far."""
        done = self.engine.docker("logs", self.identifier)
        return (done.stdout + done.stderr).decode()

    def state(self) -> dict[str, Any]:
        """Return the engine's account of it."""
        state: dict[str, Any] = self.engine.inspect("container", self.identifier)["State"]
        return state

    def await_(self, condition: Callable[[], bool]) -> None:
        """Ask until a condition holds, as long as the container runs; the pause is between tries."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert self.state()["Running"], self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def await_health(self) -> None:
        """Wait until the image's HEALTHCHECK passes."""
        self.await_(lambda: bool(self.state()["Health"]["Status"] == "healthy"))

    def stop(self, seconds: int) -> "Ended":
        """Send what the engine stops containers with, SIGTERM; SIGKILL follows after `seconds`."""
        self.engine.docker("stop", "--time", str(seconds), self.identifier)
        return self.ended()

    def ended(self) -> "Ended":
        """Wait for its end."""
        code = int(self.engine.docker("wait", self.identifier).stdout)
        return Ended(code, self.log())

    def execute(self, *command: str, data: bytes | None = None) -> bytes:
        """Run a command beside its process, and return the standard output."""
        return self.engine.docker("exec", "--interactive", self.identifier, *command, data=data).stdout

    def ask(
        self, method: str, path: str, body: bytes = b"", content_type: str = "", *, port: int = 8080
    ) -> tuple[int, bytes]:
        """Send a request to its loopback address; it may have no other. Return the status and the body."""
        kind = [content_type] if content_type else []
        answer = self.execute("python", "-c", _ASK, str(port), method, path, *kind, data=body)
        status, _, content = answer.partition(b"\n")
        return int(status), content
