"""From raw files to an answer in containers: read-only, without capabilities, as a user that is only a number."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.containers.conftest import ALL, FIT, REVISION, USER, Image, Trained
from tests.containers.docker import Container, Engine
from tests.idx_arrays import read_idx

STRANGER = "23456:23456"
"""A user whom no image knows, as some clusters assign."""
MEMORY = "/dev/shm"  # noqa: S108  it is the very place
STOPPED, NO_PROVIDER = 75, 4
"""Exit codes of docs/training.md and docs/operations.md."""


@pytest.fixture(scope="module")
def service(engine: Engine, serve: Image, trained: Trained) -> Iterator[Container]:
    """Serve what was trained, from a volume that it cannot write to, as a stranger."""
    options = [f"--user={STRANGER}", f"--volume={trained.volume}:/glyph:ro", "--health-interval=1s"]
    with engine.started(serve.tag, options=options) as container:
        container.await_health()
        yield container


def test_a_job_that_is_stopped_goes_on_in_another_container(trained: Trained) -> None:
    """SIGTERM ends it with its own exit code and a checkpoint; the next one resumes and publishes."""
    assert trained.stopped.code == STOPPED, trained.stopped.log
    assert "epoch  15" not in trained.stopped.log
    assert trained.finished.code == 0, trained.finished.log
    assert "epoch   1" not in trained.finished.log
    assert "/glyph/models/mnist/1" in trained.finished.log


def test_the_model_states_the_images_revision(service: Container) -> None:
    """There is no .git in the image; the build says what the manifest records."""
    manifest = json.loads(service.execute("cat", "/glyph/models/mnist/1/manifest.json"))
    assert manifest["environment"]["code_revision"] == REVISION


def test_the_command_is_in_the_image(service: Container) -> None:
    """`glyph predict` answers there by the image's variables, as any user, with a read-only root."""
    manifest = json.loads(service.execute("cat", "/glyph/models/mnist/1/manifest.json"))
    answer = json.loads(service.execute("glyph", "predict", "/glyph/models/mnist/1/sample.png"))
    assert answer["predictions"][0]["label"] == manifest["sample_label"]


def test_a_posted_image_is_answered(service: Container, mnist_directory: Path) -> None:
    """A PNG gets its label, and a thousand test images as many right ones as the manifest promises, about."""
    images = read_idx(mnist_directory / "t10k-images-idx3-ubyte", 3)[:1000]
    labels = read_idx(mnist_directory / "t10k-labels-idx1-ubyte", 1)[:1000]
    file = io.BytesIO()
    Pillow.fromarray(images[0]).save(file, format="PNG")
    status, body = service.ask("POST", "/predict", file.getvalue(), "image/png")
    assert (status, json.loads(body)["predictions"][0]["label"]) == (200, str(labels[0]))
    status, body = service.ask("POST", "/predict?top=1", images.tobytes(), "application/octet-stream")
    assert status == 200
    answers = np.array([int(prediction["label"]) for prediction in json.loads(body)["predictions"]])
    manifest = json.loads(service.execute("cat", "/glyph/models/mnist/1/manifest.json"))
    assert (answers == labels).mean() == pytest.approx(manifest["test"]["accuracy"], abs=0.05)


def test_probes_and_metrics_are_on_the_port_beside(service: Container) -> None:
    """Port 8081 has what Kubernetes and Prometheus ask for."""
    for path in ("/livez", "/readyz"):
        assert service.ask("GET", path, port=8081)[0] == 200
    assert b'glyph_workers{state="ready"}' in service.ask("GET", "/metrics", port=8081)[1]


def test_it_listens_beyond_its_own_loopback(service: Container) -> None:
    """The kernel's table has both ports on every address (proc_net_tcp(5): address and port in hexadecimal)."""
    table = service.execute("cat", "/proc/net/tcp").decode()
    assert f"00000000:{8080:04X}" in table
    assert f"00000000:{8081:04X}" in table


def test_the_kernel_knows_it_as_powerless(service: Container) -> None:
    """No capability, no way to any, seccomp's filter, the stranger's number; it is the container's first process."""
    lines = service.execute("cat", "/proc/1/status").decode().splitlines()
    status = {name: text.split() for name, _, text in (line.partition(":") for line in lines)}
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind][0], 16) == 0
    assert status["NoNewPrivs"] == ["1"]
    assert status["Seccomp"] == ["2"]
    assert status["Uid"] == ["23456"] * 4
    assert status["Name"] == ["python"]


def test_it_leaves_nothing_but_its_workers_numbers(service: Container) -> None:
    """What it writes is the memory that the workers share; no library writes a cache or reports home from there."""
    written = service.execute("ls", "-A", MEMORY).decode().split()
    assert len(written) == 1
    assert written[0].startswith("glyph-")


def test_sigterm_ends_the_service_well(engine: Engine, serve: Image, trained: Trained) -> None:
    """The engine's SIGTERM reaches it; it ends by itself with exit code 0, before any SIGKILL."""
    options = [f"--user={USER}", f"--volume={trained.volume}:/glyph:ro", "--health-interval=1s"]
    with engine.started(serve.tag, options=options) as container:
        container.await_health()
        ended = container.stop(60)
    assert ended.code == 0, ended.log
    assert "Shutting down" in ended.log


def test_the_service_waits_for_a_model(engine: Engine, serve: Image) -> None:
    """Without a volume it lives, is not ready, and its health says why."""
    with engine.started(
        serve.tag, options=["--health-interval=1s", "--health-retries=1", "--health-start-period=1ms"]
    ) as it:
        it.await_(lambda: bool(it.state()["Health"]["Status"] == "unhealthy"))
        it.await_(lambda: "no version is published" in it.state()["Health"]["Log"][-1]["Output"])
        assert it.ask("GET", "/livez", port=8081)[0] == 200


def test_the_provider_is_the_images(engine: Engine, serve: Image) -> None:
    """An image for CPUs that is told to use CUDA says so and ends; it does not fall back."""
    ended = engine.run(serve.tag, options=["--env=GLYPH_PROVIDER=cuda"])
    assert ended.code == NO_PROVIDER
    assert "CUDA" in ended.log


@pytest.mark.skipif(not ALL, reason="TEST_IMAGES=all builds the images for GPUs")
def test_an_image_for_gpus_never_serves_from_a_cpu_quietly(
    engine: Engine, serve_cuda: Image, trained: Trained
) -> None:
    """Without a GPU it ends with a sentence; told to, it serves from the CPU."""
    ended = engine.run(serve_cuda.tag)
    assert ended.code == NO_PROVIDER
    assert "NVIDIA driver" in ended.log
    options = [f"--volume={trained.volume}:/glyph:ro", "--health-interval=1s", "--env=GLYPH_PROVIDER=cpu"]
    with engine.started(serve_cuda.tag, options=options) as container:
        container.await_health()


def test_files_are_scored(engine: Engine, score: Image, trained: Trained) -> None:
    """The batch scorer answers all of MNIST's test images into the volume, as many right as the manifest says."""
    paths = ["--input", "/glyph/data/mnist/t10k-images-idx3-ubyte", "--output", "/glyph/scores"]
    options = [f"--user={USER}", f"--volume={trained.volume}:/glyph"]
    ended = engine.run(score.tag, *paths, options=options)
    assert ended.code == 0, ended.log
    program = """
import json, pathlib, numpy, pyarrow.parquet
labels = numpy.frombuffer(pathlib.Path("/glyph/data/mnist/t10k-labels-idx1-ubyte").read_bytes()[8:], numpy.uint8)
table = pyarrow.parquet.read_table("/glyph/scores")
answers = numpy.array([int(label) for label in table["label"].to_pylist()])
manifest = json.loads(pathlib.Path("/glyph/models/mnist/1/manifest.json").read_text())
print(json.dumps([float((answers == labels).mean()), manifest["test"]["accuracy"]]))
"""
    share, promised = engine.python(score.tag, program, f"--volume={trained.volume}:/glyph:ro")
    assert share == pytest.approx(promised, abs=1e-9)


def test_a_setting_that_is_wrong_ends_the_job(engine: Engine, train: Image) -> None:
    """A misuse has the exit code that no job tries again, and no traceback."""
    ended = engine.run(train.tag, *FIT, "--epohcs", "3", options=train.options)
    assert ended.code == 2
    assert "--epochs" in ended.log
    assert "Traceback" not in ended.log


def test_a_signal_reaches_a_job_that_has_not_begun(engine: Engine, train: Image) -> None:
    """The first process of a container is sent only signals that it handles; SIGTERM is one from the start."""
    program = """
import os, signal
from training.interrupts import exit_on_sigterm
with exit_on_sigterm():
    os.kill(1, signal.SIGTERM)
print("went on")
"""
    # The mount is for pydantic alone: what handles the signal knows nothing of PyTorch.
    ended = engine.run(train.tag, "-c", program, options=(*train.options, "--entrypoint=python"))
    assert (ended.code, "went on" in ended.log) == (STOPPED, False)
    assert "stopped by SIGTERM" in ended.log
