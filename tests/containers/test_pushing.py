"""`make images` pushes: to a registry on this machine, from which an image is had again by its digest."""

import gzip
import hashlib
import http.client
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bench.support.management import await_
from bench.support.processes import free_port
from bundle import __version__
from tests.containers.conftest import Image
from tests.containers.docker import Engine

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIGURATION = """
version: 0.1
storage:
  filesystem: {{rootdirectory: {directory}}}
http:
  addr: 127.0.0.1:{port}
"""


def get(address: str, path: str) -> tuple[int, bytes]:
    """Ask the registry; return the status (0: it does not answer) and the body."""
    with closing(http.client.HTTPConnection(address, timeout=60)) as connection:
        try:
            connection.request("GET", path, headers={"Accept": MANIFEST})
            response = connection.getresponse()
        except ConnectionError:
            return 0, b""
        return response.status, response.read()


@pytest.fixture
def registry(engine: Engine, tmp_path: Path) -> Iterator[str]:
    """Run a registry on the loopback address, which engines take for one without TLS; return its address."""
    program = shutil.which("docker-registry", path=engine.environment["PATH"])
    if program is None:
        pytest.skip("there is no docker-registry to push to: on Debian apt-get install docker-registry")
    port = free_port()
    configuration = tmp_path / "registry.yml"
    configuration.write_text(CONFIGURATION.format(directory=tmp_path / "registry", port=port))
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen([program, "serve", configuration], stdout=log, stderr=log) as process,
    ):
        try:
            await_(lambda: get(f"127.0.0.1:{port}", "/v2/")[0] == 200)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def test_what_is_pushed_can_be_pulled_by_its_digest(engine: Engine, serve: Image, registry: str) -> None:
    """Under both tags there is what was built, byte by byte, and an engine takes it from there."""
    name = f"{registry}/team/glyph-serve"
    tags = ["cpu", f"{__version__}-cpu"]
    engine.make_images("serve-cpu", f"{registry}/team/", "PUSH=1", "REVISION=of-this-test-only")
    built = engine.inspect("image", f"{name}:cpu")
    status, listed = get(registry, "/v2/team/glyph-serve/tags/list")
    assert (status, sorted(json.loads(listed)["tags"])) == (200, sorted(tags))
    (manifest,) = {get(registry, f"/v2/team/glyph-serve/manifests/{tag}")[1] for tag in tags}
    layers = [layer["digest"] for layer in json.loads(manifest)["layers"]]
    pushed = [gzip.decompress(get(registry, f"/v2/team/glyph-serve/blobs/{digest}")[1]) for digest in layers]
    assert [sha256(layer) for layer in pushed] == built["RootFS"]["Layers"]
    assert built["RootFS"]["Layers"] == engine.inspect("image", serve.tag)["RootFS"]["Layers"]
    engine.docker("rmi", *(f"{name}:{tag}" for tag in tags))
    assert engine.docker("image", "inspect", built["Id"], check=False).returncode != 0
    by_digest = f"{name}@{sha256(manifest)}"
    engine.docker("pull", by_digest)
    assert engine.inspect("image", by_digest)["Id"] == built["Id"]
    engine.docker("rmi", by_digest)


def sha256(content: bytes) -> str:
    """Return a digest as registries write it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
