"""Whole runs by other backends: a service through both worker classes, and Ray; the same bytes as in this process."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.support.jobs import rows_of
from bench.support.models import Linear
from bench.support.pictures import png
from bench.support.processes import ROOT, Service, environment
from bundle.repository import Bundle
from imagesets.errors import DataError
from serving.errors import DeviceLostError
from serving.model import engine as sessions
from serving.score import main
from serving.scoring import ray_backend
from serving.scoring import run as job
from serving.scoring.backends import local
from serving.scoring.errors import BackendError, BackendLostError, BadImageError, ModelError
from serving.scoring.output.integrity import read_record
from serving.scoring.output.manifest import Outcome
from serving.scoring.reporting.console import ConsoleObserver
from serving.scoring.reporting.progress import ProgressMeter
from serving.scoring.settings import MAX_REMOTE_BATCH, ScoreSettings
from tests.serving.scoring.parts import some_images

COUNT = 700
PART_ROWS = 300
NO_RAY = "Ray Data is not installed: pip install 'glyph[ray]'"


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with images as .npy, some of them as PNG files with one that is none, and labels."""
    directory = tmp_path_factory.mktemp("material")
    images = some_images(COUNT)
    np.save(directory / "images.npy", images)
    np.save(directory / "labels.npy", np.arange(COUNT + 21) % 10)
    (directory / "files").mkdir()
    for place in range(20):
        (directory / "files" / f"{place:02}.png").write_bytes(png(images[place]))
    (directory / "files" / "bad.png").write_bytes(b"no image")
    return directory


def settings_of(bundle: Bundle, material: Path, output: Path, **more: Any) -> ScoreSettings:
    """Return the settings of a run over all of the material."""
    given = {
        "input": (str(material / "images.npy"), str(material / "files")),
        "model": bundle.path.parent,
        "provider": "cpu",
        "part_rows": PART_ROWS,
        "labels": str(material / "labels.npy"),
    }
    return ScoreSettings(output=output, **(given | more))


def run(settings: ScoreSettings) -> tuple[Outcome, list[str]]:
    """Run a job as the command does; return its outcome and what it printed."""
    said: list[str] = []
    watch = ConsoleObserver(settings, meter=ProgressMeter(), show=said.append)
    outcome = job.run(settings, watch, environment={})
    watch.on_end(outcome)
    return outcome, said


def content(folder: Path) -> dict[str, Any]:
    """Return the SHA-256 of a job's parts and what their receipts say, but for which job they are of."""
    found: dict[str, Any] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("part-*")
    }
    for path in folder.glob("_receipts/*"):
        found[path.name] = read_record(path)
        del found[path.name]["job"]
    return found


@pytest.fixture(scope="module")
def here(bundle: Bundle, material: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Return the output of a run in this process, and what it printed."""
    output = tmp_path_factory.mktemp("here") / "scores"
    outcome, said = run(settings_of(bundle, material, output))
    assert (outcome.complete, outcome.errors) == (True, 1)
    return output, said


def test_the_summary_of_a_run(here: tuple[Path, list[str]], linear: Linear, material: Path) -> None:
    """A whole run counts and compares what NumPy computes of the same images."""
    images = np.load(material / "images.npy")
    predicted = linear.logits(images).argmax(axis=1)
    predicted = np.concatenate([predicted, predicted[:20]])  # the PNG files are the first of them
    true = np.arange(COUNT + 20) % 10  # the one that is no image sorts last
    right = int((predicted == true).sum())
    said = "\n".join(here[1])
    assert "721 rows, 720 scored, 1 with an error" in said
    assert "bad.png: the content is no supported image" in said
    assert f"{right:,} of 720 equal --labels" in said
    for label, count in enumerate(np.bincount(predicted, minlength=10)):
        assert f"  {label} {count:14,} " in said


def test_a_service_gives_the_same_bytes(
    here: tuple[Path, list[str]], service: Service, bundle: Bundle, material: Path, tmp_path: Path
) -> None:
    """By --url, under both worker classes, parts and receipts are those that this process writes, but for the job."""
    url = f"http://127.0.0.1:{service.port}"
    _, said = run(settings_of(bundle, material, tmp_path / "scores", url=url))
    assert content(tmp_path / "scores") == content(here[0])
    assert said[:-1] == here[1][:-1]  # but for the rate


def test_a_service_without_a_local_copy_of_the_model(
    service: Service, material: Path, bundle: Bundle, tmp_path: Path
) -> None:
    """Without the model on this machine the answers are the same, and drift is not measured."""
    url = f"http://127.0.0.1:{service.port}"
    _, said = run(settings_of(bundle, material, tmp_path / "scores", url=url, model=tmp_path / "none"))
    assert not [line for line in said if "drift" in line]
    assert [line for line in said if line.startswith("accuracy")]


def test_a_service_that_goes_away_ends_the_run(
    bundle: Bundle, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with a sentence, not by waiting for ever."""
    with pytest.raises(BackendError, match="cannot be reached"):
        run(settings_of(bundle, material, tmp_path / "scores", url="http://127.0.0.1:1", patience_seconds=0))


def test_the_report_is_written_again_of_a_complete_run(
    here: tuple[Path, list[str]], bundle: Bundle, material: Path, tmp_path: Path
) -> None:
    """The same command with --report, after the end, computes nothing and writes the page."""
    settings = settings_of(bundle, material, here[0], report=tmp_path / "report.html")
    _, said = run(settings)
    assert said == here[1][:-1]
    assert "Compared with the labels" in (tmp_path / "report.html").read_text()


def test_merge_sums_the_statistics_of_the_shards(
    here: tuple[Path, list[str]], bundle: Bundle, material: Path, tmp_path: Path
) -> None:
    """Two shards and `merge`, as commands, end with the summary of one run, labels included."""
    output = tmp_path / "scores"
    for shard in ("0/2", "1/2"):
        run(settings_of(bundle, material, output, shard=shard))
    command = [sys.executable, "-m", "serving.score", "merge", "--output", str(output)]
    done = subprocess.run(
        [*command, "--model", str(bundle.path.parent), "--report", str(tmp_path / "report.html")],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (3, f"report: {tmp_path / 'report.html'}\n")
    assert done.stdout.splitlines() == here[1][:-1]
    assert content(output) == content(here[0])


@pytest.mark.skipif(find_spec("ray") is None, reason=NO_RAY)
def test_ray_gives_the_same_bytes(
    here: tuple[Path, list[str]], bundle: Bundle, material: Path, tmp_path: Path
) -> None:
    """Actors of a local Ray write every part and receipt as this process does, and go on where it stopped."""
    output = tmp_path / "scores"
    command = [sys.executable, "-m", "serving.score", "--engine", "ray", "--model", str(bundle.path.parent)]
    command += ["--provider", "cpu", "--part-rows", str(PART_ROWS), "--labels", str(material / "labels.npy")]
    command += ["--input", str(material / "images.npy"), str(material / "files"), "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines()[:-1] == here[1][:-1]
    assert content(output) == content(here[0])
    assert json.loads((output / "_SUCCESS").read_text()) == json.loads((here[0] / "_SUCCESS").read_text())


class Driver:
    """What the driver gives an actor, without a cluster."""

    def __init__(self, bundle: Bundle, material: Path, output: Path, **more: Any) -> None:
        self.settings = settings_of(bundle, material, output, **more)
        plain = settings_of(bundle, material, output)
        self.manifest = run(plain)[0].manifest

    def told(self, part: int, **changed: str) -> dict[str, Any]:
        """Return what an actor says of a part."""
        fingerprint = dict(self.manifest.fingerprint) | changed
        actor = ray_backend.PartScorer(self.settings.model_dump_json(), fingerprint, str(ROOT))
        with closing(actor):
            (line,) = actor({"part": np.array([part])})["result"]
        document: dict[str, Any] = json.loads(line)
        return document


def test_an_actor_writes_a_part_that_is_missing(bundle: Bundle, material: Path, tmp_path: Path) -> None:
    """Without a cluster too: the part's bytes are those that were there."""
    driver = Driver(bundle, material, tmp_path / "scores")
    before = content(tmp_path / "scores")
    (tmp_path / "scores" / "part-000001.parquet").unlink()
    assert driver.told(1)["rows"] == PART_ROWS
    assert content(tmp_path / "scores") == before


def test_an_actor_reports_its_errors(bundle: Bundle, material: Path, tmp_path: Path) -> None:
    """Another input, a model that is not there, a bad image with --strict: each comes back as its own error."""
    driver = Driver(bundle, material, tmp_path / "scores")
    told = driver.told(0, model="another")
    assert told["error"] == DataError.__name__
    assert "has another job: model was another" in told["message"]
    strict = Driver(bundle, material, tmp_path / "strict", strict=True)
    assert strict.told(2)["error"] == BadImageError.__name__
    lost = Driver(bundle, material, tmp_path / "lost", model=tmp_path / "none")
    assert lost.told(0)["error"] == ModelError.__name__
    shutil.rmtree(tmp_path / "lost")


def test_ray_cannot_read_the_standard_input(bundle: Bundle, tmp_path: Path) -> None:
    """Every node reads for itself, so there must be something to read."""
    settings = ScoreSettings(input=("-",), output=tmp_path / "scores", engine="ray", model=bundle.path.parent)
    unused: Any = None
    with pytest.raises(DataError, match="standard input on every node"):
        ray_backend.score_on_ray(settings, [0], unused, unused, unused)


def test_without_ray_the_error_says_what_to_install(
    bundle: Bundle, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An extra that is missing is named."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BackendError, match=r"pip install 'glyph\[ray\]'"):
        run(settings_of(bundle, material, tmp_path / "scores", engine="ray"))


class Watched:
    """A session that notes the sizes of the batches that it is run with."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.sizes: list[int] = []

    def run(self, outputs: list[str], inputs: dict[str, Any]) -> Any:
        """Note the size, and run."""
        self.sizes.append(len(inputs["images"]))
        return self.session.run(outputs, inputs)


@pytest.mark.parametrize(("asked", "largest"), [(None, 512), (64, 64), (1024, 1024)])
def test_the_batch_size_is_that_of_the_provider(
    asked: int | None, largest: int, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session is run with the provider's size, or the one asked for, and gives its bits; the rest is padded."""
    monkeypatch.setitem(local.BATCH, "cpu", 512)
    images = some_images(COUNT)
    np.save(tmp_path / "in.npy", images)
    watched: list[Watched] = []
    opened = sessions.open_engine

    def watching(*arguments: Any) -> sessions.Engine:
        engine = opened(*arguments)
        watched.append(Watched(engine.session))
        return replace(engine, session=watched[0])

    monkeypatch.setattr(sessions, "open_engine", watching)
    settings = ScoreSettings(
        input=(str(tmp_path / "in.npy"),),
        output=tmp_path / "out.parquet",
        model=bundle.path.parent,
        provider="cpu",
        arithmetic="float32",
        batch=asked,
    )
    outcome, _ = run(settings)
    sizes = [min(largest, COUNT - start) for start in range(0, COUNT, largest)]
    assert sorted(watched[0].sizes) == sorted(1 << (size - 1).bit_length() for size in sizes)
    assert outcome.manifest.fingerprint["batch"] == str(largest)
    expected = []
    for start in range(0, COUNT, largest):
        batch = np.zeros((1 << (min(largest, COUNT - start) - 1).bit_length(), 28, 28), np.uint8)
        batch[: COUNT - start] = images[start : start + len(batch)]
        expected += watched[0].session.run(["probabilities"], {"images": batch})[0].tolist()[: COUNT - start]
    assert [row["probabilities"] for row in rows_of(tmp_path / "out.parquet")] == expected


def test_cuda_has_larger_batches_and_a_service_at_most_its_own(bundle: Bundle, tmp_path: Path) -> None:
    """What a provider is given by default; what is not to be had is said."""
    assert local.BATCH["cuda"] > local.BATCH["cpu"] == sessions.BUCKETS[-1] == MAX_REMOTE_BATCH
    given: dict[str, Any] = {"input": ("x",), "output": tmp_path / "out", "model": bundle.path.parent}
    with pytest.raises(ValueError, match="batch: 48 is not a power of two"):
        ScoreSettings(**given, batch=48)
    with pytest.raises(ValueError, match="batch: 512 is more than 256, the largest batch"):
        ScoreSettings(**given, batch=512, url="http://127.0.0.1:1")


LOST = {
    "the GPU": (DeviceLostError("CUDA fails (illegal memory access)"), "check nvidia-smi"),
    "its memory": (
        RuntimeError("Failed to allocate memory for requested buffer"),
        "(Failed to allocate memory",
    ),
    "memory": (
        MemoryError("Unable to allocate 1.00 TiB"),
        "out of memory (Unable to allocate 1.00 TiB)",
    ),
}


@pytest.mark.parametrize("name", LOST)
def test_a_lost_backend_is_reported_in_one_line(
    bundle: Bundle,
    material: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    """With what to do, and an exit code that is tried again; the same command then goes on."""
    error, said = LOST[name]
    words = ["--input", str(material / "images.npy"), "--output", str(tmp_path / "out"), "--provider", "cpu"]
    words += ["--model", str(bundle.path.parent), "--part-rows", str(PART_ROWS), "--quiet"]

    proven = sessions.Engine.infer

    def infer(engine: sessions.Engine, images: np.ndarray[Any, Any]) -> sessions.Outputs:
        if threading.current_thread() is threading.main_thread():  # which proves the model
            return proven(engine, images)
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(sessions.Engine, "infer", infer)
        assert main(words) == BackendLostError.exit_code == 71
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert "the same command resumes the run" in line
    assert main(words) == 0
