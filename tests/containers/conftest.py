"""The images, built once for all tests, and a model that was trained in one of them.

By default PyTorch's five gigabytes are not installed into the training image: its packages are left out of the build
and mounted from the environment that runs the tests. `make test-images` (TEST_IMAGES=all) builds it whole, and the
images for GPUs as well.
"""

import io
import os
import shutil
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.containers.cluster import SHORT, Cluster, Runs, manifest, pod_of
from tests.containers.docker import Ended, Engine
from tests.containers.podman import Podman, playable

ALL = os.environ.get("TEST_IMAGES") == "all"
REVISION = "0123456789abcdef0123456789abcdef01234567"
USER = "10001:10001"
FIT = ("fit", "--epochs", "15", "--hidden", "32", "--threads", "1", "--seed", "5")
LABELS = (f"--build-arg=REVISION={REVISION}", "--build-arg=VERSION=1.2.3")
_ENGINES: list[Engine] = []


@dataclass(frozen=True)
class Image:
    """An image that was built."""

    tag: str
    lock: Path
    program: str
    device: str
    """`cpu` or `cuda`; the training image has both."""
    options: tuple[str, ...] = ()
    """What `docker run` needs besides."""
    whole: bool = True
    """Whether its packages are in it."""

    @property
    def packages(self) -> str | None:
        """What is mounted, from where to where, if they are not."""
        return None if self.whole else self.options[0].removeprefix("--volume=")


@dataclass(frozen=True)
class Trained:
    """What two containers left, of which the first was stopped in the middle of training."""

    volume: str
    stopped: Ended
    finished: Ended


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Return an engine; end it if it was brought for these tests."""
    engine = Engine.up()
    _ENGINES.append(engine)
    yield engine
    engine.down()


def _of_dockerfile_serve(engine: Engine, program: str, device: str) -> Image:
    tag = engine.build(
        "Dockerfile.serve",
        f"glyph-test-{program}:{device}",
        f"--target={program}",
        f"--build-arg=DEVICE={device}",
        *LABELS,
    )
    return Image(tag, ROOT / "lock" / f"image-{device}.txt", program, device)


@pytest.fixture(scope="session")
def serve(engine: Engine) -> Image:
    """Build the service's image for CPUs."""
    return _of_dockerfile_serve(engine, "serve", "cpu")


@pytest.fixture(scope="session")
def score(engine: Engine, serve: Image) -> Image:
    """Build the batch scorer's image for CPUs, which shares the service's layers."""
    return _of_dockerfile_serve(engine, "score", "cpu")


@pytest.fixture(scope="session")
def serve_cuda(engine: Engine) -> Image:
    """Build the service's image for GPUs."""
    return _of_dockerfile_serve(engine, "serve", "cuda")


@pytest.fixture(scope="session")
def score_cuda(engine: Engine, serve_cuda: Image) -> Image:
    """Build the batch scorer's image for GPUs."""
    return _of_dockerfile_serve(engine, "score", "cuda")


@pytest.fixture(scope="session")
def train(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Build the training image, whole or to be completed by a mount."""
    lock = ROOT / "lock" / "training.txt"
    asked = (
        engine.docker("run", "--rm", "--network=none", engine.base, "python", "-V").stdout.decode().split()
    )
    if ALL or asked[1].split(".")[:2] != [str(part) for part in sys.version_info[:2]]:
        return Image(
            engine.build("Dockerfile.train", "glyph-test-train:whole", *LABELS), lock, "train", "both"
        )
    packages = tmp_path_factory.mktemp("packages")
    environment = packages / "opt" / "venv"
    site = environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    site.mkdir(parents=True)
    (environment / "bin").mkdir()
    (environment / "bin" / "python").symlink_to("/usr/local/bin/python")
    torchrun = environment / "bin" / "torchrun"  # what its package has for it is a line of the same meaning
    torchrun.write_text("#!/opt/venv/bin/python\nfrom torch.distributed.run import main\n\nmain()\n")
    torchrun.chmod(0o755)
    (environment / "pyvenv.cfg").write_text("home = /usr/local/bin\n")
    tag = engine.build(
        "Dockerfile.train", "glyph-test-train:thin", f"--build-context=packages={packages}", *LABELS
    )
    mounted = f"--volume={sysconfig.get_path('purelib')}:/{site.relative_to(packages)}:ro"
    return Image(tag, lock, "train", "both", (mounted,), whole=False)


IMAGES = ["serve", "score", "train", *(["serve_cuda", "score_cuda"] if ALL else [])]


@pytest.fixture(params=IMAGES)
def image(request: pytest.FixtureRequest) -> Image:
    """Return each image in turn."""
    built: Image = request.getfixturevalue(request.param)
    return built


@pytest.fixture(scope="session")
def trained(engine: Engine, train: Image, mnist_directory: Path) -> Iterator[Trained]:
    """Train on MNIST, be stopped after the second epoch, go on in another container, publish."""
    with engine.volume() as volume:
        options = (*train.options, f"--user={USER}", f"--volume={volume}:/glyph")
        engine.docker(
            *("run", "--rm", "--interactive", "--network=none", *options),
            *("--entrypoint=tar", train.tag, "-xC", "/glyph"),
            data=_archive(mnist_directory),
        )
        with engine.started(train.tag, *FIT, options=options) as job:
            job.await_(lambda: "epoch   2" in job.log())
            stopped = job.stop(60)
        finished = engine.run(train.tag, *FIT, "--resume", options=options)
        yield Trained(volume, stopped, finished)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Return podman, with the volume that the claim asks for."""
    podman = Podman.up()
    try:
        podman.podman("pod", "rm", "--all", "--force", "--time=0")
        podman.podman("volume", "rm", "--all", "--force")
        user = pod_of(manifest("train", "Job", "glyph-train"))["securityContext"]["fsGroup"]
        claim = manifest("common", "PersistentVolumeClaim", "glyph")["metadata"]["name"]
        yield Cluster(podman, podman.volume(claim, user), user)
    finally:
        podman.down()


@pytest.fixture(scope="session")
def trained_by_pods(cluster: Cluster, engine: Engine, train: Image, mnist_directory: Path) -> Runs:
    """Run the Job with a wrong setting; then evict it in the middle of training, and start it again."""
    shutil.copytree(mnist_directory, cluster.volume / "data" / "mnist")
    cluster.give()
    job = manifest("train", "Job", "glyph-train")
    settings = manifest("train", "ConfigMap", "glyph-train")
    image = cluster.podman.load(engine, train.tag)
    wrong = playable(job, image, variables=SHORT | {"GLYPH_TRAIN_EPOCHS": "none"}, packages=train.packages)
    right = playable(job, image, variables=SHORT, packages=train.packages)
    with cluster.podman.playing(settings, wrong) as pod:
        ended_wrong = pod.ended()
    with cluster.podman.playing(settings, right) as pod:
        pod.await_(lambda: "epoch   3" in pod.log())
        evicted = pod.stop(pod_of(job)["terminationGracePeriodSeconds"])
    with cluster.podman.playing(settings, right) as pod:
        second = pod.ended()
    return Runs(ended_wrong, evicted, second)


def _archive(directory: Path) -> bytes:
    """Return MNIST's files as the volume has them."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in sorted(directory.glob("*-ubyte")):
            member = archive.gettarinfo(path, f"data/mnist/{path.name}")
            member.uid = member.gid = int(USER.partition(":")[0])
            with path.open("rb") as file:
                archive.addfile(member, file)
    return packed.getvalue()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the sizes of the images that were built."""
    sizes = {tag: size for engine in _ENGINES for tag, size in engine.sizes.items()}
    if not sizes:
        return
    terminalreporter.section(f"sizes of images, on {_ENGINES[0].base}")
    for tag, (whole, own) in sizes.items():
        note = ", its packages left out" if tag.endswith(":thin") else ""
        terminalreporter.line(f"{tag:<28} {whole / 1e6:7.0f} MB, own layers {own / 1e6:6.0f} MB{note}")
