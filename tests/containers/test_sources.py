"""A model that comes by other ways than the volume: as an OCI image that is mounted, or from a web server."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.support.management import await_
from bundle.repository import Bundle
from tests.conftest import ROOT
from tests.containers.cluster import OVERLAY, Cluster, Runs, ask_probe, png, pod_of
from tests.containers.conftest import Image
from tests.containers.docker import Engine
from tests.containers.podman import SCRIPT, Document, Playing, playable
from tests.idx_arrays import read_idx
from tests.k8s.rendering import component

PORT = 8300
"""Of the web server; the pods' network is nobody else's."""
OTHER = "0" * 64
"""A digest that no version has."""


@pytest.fixture(scope="module")
def published(cluster: Cluster, trained_by_pods: Runs) -> Bundle:
    """Return the version that a pod of the training Job published."""
    assert trained_by_pods.second.code == 0, trained_by_pods.second.log
    return Bundle.open(cluster.volume / "models" / "mnist" / "1")


@pytest.fixture(scope="module")
def image(cluster: Cluster, engine: Engine, serve: Image) -> str:
    """Return the service's image, which the init container has too."""
    return cluster.podman.load(engine, serve.tag)


def assert_it_serves(pod: Playing, bundle: Bundle, mnist_directory: Path) -> None:
    """Wait until it is ready, and see it answer by this version."""
    pod.await_(lambda: ask_probe(pod, "readinessProbe") == 200)
    assert json.loads(pod.ask(8081, "/readyz")[1])["model"]["digest"] == bundle.manifest.digest
    images = read_idx(mnist_directory / "t10k-images-idx3-ubyte", 3)
    labels = read_idx(mnist_directory / "t10k-labels-idx1-ubyte", 1)
    status, body = pod.ask(8080, "/predict", png(images[0]))
    assert (status, json.loads(body)["predictions"][0]["label"]) == (200, str(labels[0]))


def test_a_model_is_served_from_an_image(
    cluster: Cluster, engine: Engine, image: str, published: Bundle, mnist_directory: Path
) -> None:
    """The image is made by the line that docs/kubernetes.md shows, and nothing of it can be written."""
    line = next(
        line.strip()
        for line in (ROOT / "docs" / "kubernetes.md").read_text().splitlines()
        if "FROM scratch" in line
    )
    rendering = component("bundle-from-image", on=OVERLAY)
    deployment = rendering.one("Deployment", "glyph")
    (volume,) = pod_of(deployment)["volumes"]
    tag = "glyph-test-model:mnist-1"
    named = line.split("--tag ")[1].split()[0]
    subprocess.run(
        ["bash", "-c", line.replace(named, tag)],
        cwd=cluster.volume,
        env=engine.environment,
        check=True,
        capture_output=True,
    )
    deployment = playable(deployment, image, variables={})
    (volume,) = pod_of(deployment)["volumes"]
    volume["image"]["reference"] = cluster.podman.load(engine, tag)
    with cluster.podman.playing(rendering.one("ConfigMap", "glyph-serve"), deployment) as pod:
        assert_it_serves(pod, published, mnist_directory)
        assert "Read-only file system" in pod.execute("touch", "/glyph/models/mnist/1/new").stderr


@contextmanager
def web_server(cluster: Cluster) -> Iterator[str]:
    """Offer the published versions over HTTP; yield the address."""
    directory = cluster.volume / "models"
    server = [sys.executable, "-m", "http.server", str(PORT), "--bind=127.0.0.1", f"--directory={directory}"]
    with subprocess.Popen(
        [SCRIPT, "run", *server], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            await_(lambda: cluster.podman.ask(PORT, "/mnist/1/manifest.json")[0] == 200)
            yield f"http://127.0.0.1:{PORT}"
        finally:
            process.terminate()


def from_url(image: str, url: str, digest: str) -> tuple[Document, ...]:
    """Return the manifests with the component, its URL and its digest."""
    rendering = component("bundle-from-url", on=OVERLAY)
    settings = rendering.one("ConfigMap", "glyph-bundle")
    assert settings["data"].keys() == {"url", "digest"}
    settings = settings | {"data": {"url": url, "digest": digest}}
    deployment = playable(rendering.one("Deployment", "glyph"), image, variables={})
    return rendering.one("ConfigMap", "glyph-serve"), settings, deployment


def test_a_model_is_served_that_an_init_container_fetched(
    cluster: Cluster, image: str, published: Bundle, mnist_directory: Path
) -> None:
    """From a web server, by its digest."""
    with web_server(cluster) as address:
        documents = from_url(image, f"{address}/mnist/1", published.manifest.digest)
        with cluster.podman.playing(*documents) as pod:
            assert_it_serves(pod, published, mnist_directory)


def test_a_model_with_another_digest_is_not_served(cluster: Cluster, image: str, published: Bundle) -> None:
    """The init container says what it found, and the service does not start."""
    assert published.manifest.digest != OTHER
    with web_server(cluster) as address:
        documents = from_url(image, f"{address}/mnist/1", OTHER)
        with cluster.podman.playing(*documents, starts=False) as pod:
            fetching = Playing(cluster.podman, pod.name.replace("-serve", "-fetch")).ended()
            state = cluster.podman.inspect("container", pod.name)["State"]["Status"]
    assert fetching.code == 1
    assert OTHER in fetching.log
    assert state == "created"  # and never started
