"""From raw files to an answer over HTTP, through the real programs."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.support.processes import ROOT, Part, form, running
from bundle.golden import GoldenExamples
from bundle.manifest import Manifest
from common.progress import Progress
from tests.e2e.conftest import Trained
from tests.idx_arrays import read_idx
from training.data.loading import load_mnist
from training.data.splits import split
from training.interrupts import StopFlag
from training.loop.fit import Fitted, Run, fit
from training.settings import TrainingSettings


def manifest_of(trained: Trained) -> Manifest:
    """Return the published manifest."""
    return trained.bundle.manifest


@pytest.fixture(scope="module")
def eager(trained: Trained, mnist_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """Train the published run's settings again, in this process: eager torch, as independent as can be.

    The first layer is rounded to 8 bits, by NumPy.
    """
    settings = TrainingSettings.model_validate(manifest_of(trained).hyperparameters)
    data = load_mnist(mnist_directory, Progress(quiet=True))
    train, validation = split(data.training, 5000, settings.seed)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cpu = torch.device("cpu")
        fitted = fit(
            Run(
                settings=settings,
                train=train.to(cpu),
                validation=validation.to(cpu),
                classes=10,
                polarity="white-on-black",
                data_sha256=data.sha256,
                directory=tmp_path_factory.mktemp("again"),
                progress=Progress(quiet=True),
                stop=StopFlag(),
            )
        )
    finally:
        torch.set_num_threads(before)
    first = fitted.model.linear_layers()[0]
    weights = first.weight.detach().double().numpy() / fitted.standardise.deviation
    largest = np.abs(weights).max(axis=1, keepdims=True)
    mantissa, exponent = np.frexp(largest / 127)
    scale = np.ldexp(np.rint(mantissa * 2**16) / 2**16, exponent)
    rounded = np.rint(weights / largest * 127) * scale * fitted.standardise.deviation
    first.weight.data = torch.from_numpy(rounded).float()
    return fitted


def png(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], path: Path) -> bytes:
    """Return an image as a PNG file's bytes, written by Pillow."""
    Image.fromarray(image).save(path)
    return path.read_bytes()


def test_the_job_says_what_it_proved_and_published(trained: Trained) -> None:
    """The log names parity and accuracy, the last line of the standard output the version's directory."""
    assert "proven over 10000 images" in trained.output
    assert "test accuracy" in trained.output
    assert str(trained.bundle.path) in trained.output


def test_the_manifest_states_how_good_the_model_is(trained: Trained) -> None:
    """Counts are MNIST's, parity covers all 10,000 test images, calibration improves the likelihood."""
    manifest = manifest_of(trained)
    dataset = manifest.dataset
    assert (dataset.train, dataset.validation, dataset.test) == (55_000, 5_000, 10_000)
    assert manifest.test.accuracy > 0.93
    assert all(p.images == 10_000 and p.labels_differing == 0 for p in manifest.parity.values())
    assert manifest.validation.nll_calibrated <= manifest.validation.nll + 1e-9
    assert manifest.input.polarity == "white-on-black"


def test_the_published_accuracy_is_eager_torchs(
    trained: Trained, eager: Fitted, mnist_directory: Path
) -> None:
    """A second process, with eager torch, counts exactly as many right test images as were published."""
    images = torch.from_numpy(read_idx(mnist_directory / "t10k-images-idx3-ubyte", 3))
    labels = torch.from_numpy(read_idx(mnist_directory / "t10k-labels-idx1-ubyte", 1).astype(np.int64))
    with torch.inference_mode():
        right = int((eager.model(eager.standardise(images)).argmax(1) == labels).sum())
    assert manifest_of(trained).test.accuracy == pytest.approx(right / 10_000, abs=1e-12)


def test_one_metrics_line_per_epoch(trained: Trained) -> None:
    """The metrics file has two JSON lines, the second better than the first."""
    lines = (trained.runs / "mnist" / "metrics.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert second["validation_loss"] < first["validation_loss"]


def test_the_bundle_verifies_and_a_flipped_byte_does_not(trained: Trained, tmp_path: Path) -> None:
    """`python -m bundle verify` passes what was published, and names the file whose byte was flipped."""
    copy = tmp_path / "models" / "mnist"
    shutil.copytree(trained.models / "mnist", copy)
    command = [sys.executable, "-m", "bundle", "verify", str(copy / "1")]
    assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == 0
    path = copy / "1" / "model.pt"
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    broken = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert broken.returncode == 1
    assert "model.pt was changed after it was published" in broken.stderr


def test_posted_images_get_eager_torchs_answers(
    trained: Trained, eager: Fitted, mnist_directory: Path, tmp_path: Path
) -> None:
    """Two hundred test images, in forms of fifty, get the probabilities that eager torch computes."""
    images = read_idx(mnist_directory / "t10k-images-idx3-ubyte", 3)[:200]
    with torch.inference_mode():
        logits = eager.model(eager.standardise(torch.from_numpy(images))).double()
    expected = (logits / manifest_of(trained).temperature).softmax(1).numpy()
    answered = []
    with running(tmp_path, until="/readyz", model=trained.models / "mnist") as service:
        for start in range(0, 200, 50):
            files = [
                Part(png(images[i], tmp_path / "digit.png"), "image", f"{i}.png", "image/png")
                for i in range(start, start + 50)
            ]
            answer = service.post(*form(*files))
            assert answer.status == 200, answer.body
            document = answer.json()
            assert document["model"]["version"] == 1
            assert [p["filename"] for p in document["predictions"]] == [
                f"{i}.png" for i in range(start, start + 50)
            ]
            answered += [list(p["probabilities"].values()) for p in document["predictions"]]
    np.testing.assert_allclose(answered, expected, atol=2e-6)
    assert (np.argmax(answered, axis=1) == expected.argmax(axis=1)).all()


def test_the_printed_curl_line_works_as_printed(trained: Trained, tmp_path: Path) -> None:
    """The line that the service prints, run by a shell, answers with the label that it promises."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    with running(tmp_path, until="/readyz", model=trained.models / "mnist") as service:
        log = service.log()
        line = next(line.strip() for line in log.splitlines() if line.strip().startswith("curl "))
        assert shlex.split(line)[0] == "curl"
        done = subprocess.run(["sh", "-c", line], cwd=ROOT, check=True, capture_output=True, text=True)
    (prediction,) = json.loads(done.stdout)["predictions"]
    assert prediction["label"] == manifest_of(trained).sample_label
    assert f"{prediction['label']!r}" in log


def test_golden_examples_are_test_images_of_every_class(trained: Trained, mnist_directory: Path) -> None:
    """The golden examples come from the test set and every class is among them."""
    bundle = trained.bundle
    golden = GoldenExamples.from_bytes(bundle.read("golden.npz"), bundle.manifest)
    test = {image.tobytes() for image in read_idx(mnist_directory / "t10k-images-idx3-ubyte", 3)}
    assert all(image.tobytes() in test for image in golden.images)
    assert set(golden.probabilities.argmax(axis=1).tolist()) == set(range(10))


def test_the_report_stands_alone(trained: Trained) -> None:
    """The report is below 2 MB and refers to nothing outside itself."""
    text = (trained.bundle.path / "report.html").read_text(encoding="utf-8")
    assert len(text) < 2_000_000
    for outside in ('src="http', "src='http", 'href="http', "<script", "<link", "@import"):
        assert outside not in text
    assert "Misclassified" in text
