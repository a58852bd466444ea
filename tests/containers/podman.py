"""Podman 5, which runs the pods of rendered manifests: `podman kube play`, in namespaces of its own."""

import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.containers.docker import UNAVAILABLE, WAIT_SECONDS, Ended, Engine

SCRIPT = Path(__file__).with_name("podman.sh")
HOST = "/host"
"""Where podman sees this machine's files."""
Document = dict[str, Any]

_ASK = """
import sys, urllib.request
body = sys.stdin.buffer.read() or None
request = urllib.request.Request(sys.argv[1], body, {"Content-Type": "image/png"} if body else {})
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    response = opener.open(request, timeout=30)
except urllib.error.HTTPError as error:
    response = error
except OSError:
    sys.exit(1)
print(response.status)
sys.stdout.flush()
sys.stdout.buffer.write(response.read())
"""


@dataclass(frozen=True)
class Podman:
    """Podman, up."""

    root: Path

    @classmethod
    def up(cls) -> "Podman":
        """Make podman ready; skip the test where it cannot be."""
        done = subprocess.run([SCRIPT, "up"], check=False)
        if done.returncode == UNAVAILABLE:
            pytest.skip("no podman 5, and none can be made here: the lines of `podman.sh up` say why")
        assert done.returncode == 0, "podman.sh up failed; its lines above say why"
        root = Path(os.environ.get("GLYPH_PODMAN", "/var/tmp/glyph-podman")) / "root"  # noqa: S108  the script's
        return cls(root)

    def down(self) -> None:
        """End it, and every container with it."""
        self.podman("pod", "rm", "--all", "--force", "--time=0")
        self.podman("volume", "rm", "--all", "--force")
        subprocess.run([SCRIPT, "down"], check=True)

    def podman(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run podman to its end."""
        done = subprocess.run([SCRIPT, "podman", *arguments], capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done

    def inspect(self, kind: str, name: str) -> Any:
        """Return what podman knows of a container or a volume."""
        found = json.loads(self.podman(kind, "inspect", name).stdout)
        return found[0] if isinstance(found, list) else found

    def load(self, engine: Engine, tag: str) -> str:
        """Bring an image over from the engine that built it, and return its name here."""
        with subprocess.Popen(
            ["docker", "save", tag], env=engine.environment, stdout=subprocess.PIPE
        ) as saving:
            loading = subprocess.run(
                [SCRIPT, "podman", "load", "--quiet"],
                stdin=saving.stdout,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
        assert saving.returncode == 0
        name = loading.stdout.strip().removeprefix("Loaded image: ")
        assert name.endswith(f"/{tag}"), loading.stdout
        return name

    def volume(self, name: str, user: int) -> Path:
        """Create a volume that belongs to a group as fsGroup would let it, and return where it is."""
        self.podman("volume", "create", name)
        mountpoint: str = self.inspect("volume", name)["Mountpoint"]
        path = self.root / mountpoint.lstrip("/")
        os.chown(path, user, user)
        return path

    def ask(self, port: int, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Ask a pod without a network of its own; return the status (0: it does not answer) and the body."""
        done = subprocess.run(
            [SCRIPT, "run", sys.executable, "-c", _ASK, f"http://127.0.0.1:{port}{path}"],
            input=body,
            capture_output=True,
            check=False,
        )
        status, _, content = done.stdout.partition(b"\n")
        return int(status or 0), content

    def network(self, name: str, subnet: str) -> str:
        """Create a network of pods, in podman's own namespace."""
        self.podman("network", "rm", "--force", name)
        self.podman("network", "create", f"--subnet={subnet}", name)
        return name

    @contextmanager
    def playing(
        self, *documents: Document, network: str = "host", starts: bool = True
    ) -> Iterator["Playing"]:
        """Start the one pod of some manifests, or see that it does not start; and remove it in the end."""
        (workload,) = (document for document in documents if document["kind"] != "ConfigMap")
        pod = f"{workload['metadata']['name']}-pod"  # podman's name for it
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(yaml.safe_dump_all(documents))
            file.flush()
            done = self.podman("kube", "play", f"--network={network}", f"{HOST}{file.name}", check=False)
        try:
            assert (done.returncode == 0) == starts, done.stderr
            yield Playing(self, f"{pod}-{container['name']}")
        finally:
            self.podman("pod", "rm", "--force", "--time=0", pod)


@dataclass(frozen=True)
class Playing:
    """The container of a pod."""

    podman: Podman
    name: str

    def log(self) -> str:
        """Return both streams of its output so far."""
        done = self.podman.podman("logs", self.name)
        return done.stdout + done.stderr

    def await_(self, condition: Callable[[], bool]) -> None:
        """Ask until a condition holds, as long as the container runs; the pause is between tries."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert self.podman.inspect("container", self.name)["State"]["Running"], self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.2)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside its process."""
        return self.podman.podman("exec", self.name, *command, check=False)

    def ask(self, port: int, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Ask it as `Podman.ask` does."""
        return self.podman.ask(port, path, body)

    def stop(self, seconds: int) -> Ended:
        """End it as a kubelet does: SIGTERM, and SIGKILL after the grace period."""
        self.podman.podman("stop", f"--time={seconds}", self.name)
        return self.ended()

    def ended(self) -> Ended:
        """Wait for its end."""
        code = int(self.podman.podman("wait", self.name).stdout)
        return Ended(code, self.log())


def playable(
    document: Document, image: str, *, variables: Mapping[str, str], packages: str | None = None
) -> Document:
    """Return a Job or a Deployment as podman can run it here.

    The image is the one that was built. Probes are left out: podman would run curl in the container for
    them, which is not there; the tests ask for themselves. A training image without packages gets them
    by a mount.
    """
    document = copy.deepcopy(document)
    spec = document["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    for each in (*spec.get("initContainers", ()), container):
        each |= {"image": image, "imagePullPolicy": "Never"}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        container.pop(probe, None)
    container.setdefault("env", []).extend({"name": n, "value": v} for n, v in variables.items())
    for volume in spec["volumes"]:
        if "emptyDir" in volume:  # podman would take the claim's volume for it, if that has the same name
            for each in (*spec.get("initContainers", ()), container):
                for mount in each["volumeMounts"]:
                    mount["name"] += "-empty" if mount["name"] == volume["name"] else ""
            volume["name"] += "-empty"
    if packages:
        outside, inside = packages.split(":")[:2]
        container["volumeMounts"].append({"name": "packages", "mountPath": inside, "readOnly": True})
        spec["volumes"].append({"name": "packages", "hostPath": {"path": f"{HOST}{outside}"}})
    return document
