"""Distillation: the loss is the paper's, the student approaches its teachers, and other teachers are rejected."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from bench.support.runs import small_run, weights
from bench.training.committee import main as bench_committee
from bundle.manifest import MANIFEST_FILE, ONNX_FILE, TORCH_EXPORT_FILE, Manifest, Polarity
from bundle.repository import Bundle
from common.errors import ConfigurationError
from common.progress import Progress
from imagesets.errors import DataError
from tests.training.sets import archive
from training.__main__ import main
from training.data.dataset import DataSet, polarity
from training.data.loading import load
from training.errors import CheckpointError, InterruptedRunError
from training.interrupts import StopFlag
from training.loop.fit import Run, fit
from training.loop.shared_data import load_shared_data
from training.model.distillation import Ensemble, load_teachers
from training.model.loss import training_loss
from training.model.mlp import MLP
from training.search.space import read_space
from training.settings import TrainingSettings

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 3, 3, 1, 2, 4])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Train on one thread, and leave the next tests theirs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scores(seed: int) -> torch.Tensor:
    """Return logits, `float32[6, 5]`."""
    return 3 * torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))


def softmax(values: torch.Tensor, temperature: float) -> npt.NDArray[np.float64]:
    """Return the softmax of `values / temperature`, by NumPy in float64."""
    powers = np.exp(values.double().numpy() / temperature)
    result: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result


def settings(**changes: object) -> TrainingSettings:
    """Return the defaults with `changes`."""
    return TrainingSettings.model_validate(changes)


def teacher(run: Run, seed: int) -> nn.Module:
    """Return a network of the run's shape, of pixels in 0..255, with weights that no training made."""
    torch.manual_seed(seed)
    shape = run.settings.model_copy(update={"dropout": (0.0,)})
    return nn.Sequential(Scale(), MLP(shape, run.classes)).eval().requires_grad_(requires_grad=False)


class Scale(nn.Module):
    """Pixels to about unit variance."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return `pixels` shifted and scaled."""
        return (pixels - 80) / 60


def with_teachers(run: Run, *members: nn.Module, digest: str = "1" * 64) -> Run:
    """Return the run with an ensemble."""
    return dataclasses.replace(run, ensemble=Ensemble(members, {"models/t/1": digest}))


@pytest.mark.parametrize(("share", "temperature"), [(0.3, 2.0), (1.0, 1.0), (0.9, 5.0), (0.0, 3.0)])
def test_the_loss_is_the_papers(share: float, temperature: float) -> None:
    """NumPy, in float64, gets the same sum of cross entropy and T^2 KL, image by image."""
    logits, targets = scores(1), softmax(scores(2), temperature)
    chosen = settings(distill_share=share, distill_temperature=temperature)
    entropy = -np.log(softmax(logits, 1)[np.arange(6), LABELS.numpy()]).sum()
    divergence = (targets * np.log(targets / softmax(logits, temperature))).sum()
    expected = (1 - share) * entropy + share * temperature**2 * divergence
    loss = training_loss(chosen, logits, LABELS, torch.from_numpy(targets).float())
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_is_that_of_cross_entropy_with_soft_targets() -> None:
    """Autograd gives T (softmax(z / T) - p), which is T^2 times the gradient of cross entropy with p."""
    temperature = 4.0
    targets = torch.from_numpy(softmax(scores(2), temperature)).float()
    chosen = settings(distill_share=1, distill_temperature=temperature)
    logits, same = scores(1).requires_grad_(), scores(1).requires_grad_()
    (gradient,) = torch.autograd.grad(training_loss(chosen, logits, LABELS, targets), logits)
    soft = nn.functional.cross_entropy(same / temperature, targets, reduction="sum")
    (expected,) = torch.autograd.grad(temperature**2 * soft, same)
    torch.testing.assert_close(gradient, expected)
    by_hand = temperature * (softmax(scores(1), temperature) - targets.double().numpy())
    np.testing.assert_allclose(gradient.numpy(), by_hand, atol=1e-5)


def test_without_targets_it_is_cross_entropy() -> None:
    """Label smoothing is the labels' part, and the share means nothing."""
    loss = training_loss(settings(label_smoothing=0.1, distill_share=1), scores(1), LABELS, None)
    expected = nn.functional.cross_entropy(scores(1), LABELS, label_smoothing=0.1, reduction="sum")
    assert torch.equal(loss, expected)


def test_an_ensemble_returns_the_mean_probabilities() -> None:
    """Two members' probabilities at the temperature are averaged, not their logits."""
    first, second = nn.Linear(784, 5), nn.Linear(784, 5)
    pixels = torch.rand(6, 28, 28) * 255
    answer = Ensemble([first, second], {})(pixels, 3.0)
    with torch.no_grad():
        each = [softmax(member(pixels.flatten(1)), 3.0) for member in (first, second)]
    np.testing.assert_allclose(answer.numpy(), np.mean(each, axis=0), rtol=1e-4, atol=1e-12)
    assert not answer.requires_grad


def test_with_share_0_the_weights_are_those_of_plain_training(tmp_path: Path) -> None:
    """Teachers with no share of the loss change no byte: they draw no random number either."""
    changes: dict[str, Any] = {"noise": 0.1, "rotation": 10, "ema": 0.9}
    run = small_run(tmp_path / "a", distill_share=0, **changes)
    ignored = fit(with_teachers(run, teacher(run, 1)))
    assert weights(ignored) == weights(fit(small_run(tmp_path / "b", **changes)))


def test_with_share_1_the_student_approaches_its_teacher(tmp_path: Path) -> None:
    """A student taught by an untrained network says what that says, also where the labels say otherwise."""
    run = small_run(
        tmp_path, dropout=0.0, distill_share=1, distill_temperature=1, epochs=40, weight_decay=0, hidden=16
    )
    master = Ensemble([teacher(run, 5)], {})
    fitted = fit(dataclasses.replace(run, ensemble=master))
    with torch.inference_mode():
        taught = torch.softmax(fitted.model(fitted.standardise(run.train.images)), dim=1)
    wanted = master(run.train.images, 1.0)
    assert float((taught - wanted).abs().mean()) < 0.02
    assert float((wanted.argmax(1) == run.train.labels).float().mean()) < 0.7
    assert float((taught.argmax(1) == wanted.argmax(1)).float().mean()) > 0.95
    assert fitted.history[-1].train_loss < 0.1 * fitted.history[0].train_loss


def test_teachers_see_the_students_pixels(tmp_path: Path) -> None:
    """What a teacher gets is what the augmentation made: in 0..255, with fractions, another in each epoch."""
    seen: list[torch.Tensor] = []

    class Witness(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            seen.append(pixels.clone())
            return pixels[:, :3]

    run = small_run(tmp_path, rotation=15, epochs=2, batch_size=500)
    fit(with_teachers(run, Witness()))
    first, second = seen
    assert first.shape == (500, 784)
    assert float(first.max()) > 150
    assert (first != first.round()).float().mean() > 0.5
    sums, others = (torch.sort(pixels.sum(dim=1)).values for pixels in (first, second))
    assert not torch.allclose(sums, others)


def test_accumulation_gives_the_same_student(tmp_path: Path) -> None:
    """A batch worked through in four parts ends at the same weights, up to rounding."""
    students = []
    for parts in (1, 4):
        run = small_run(
            tmp_path / str(parts), dropout=0.0, optimizer="sgd", epochs=1, accumulate=parts, distill_share=0.7
        )
        students.append(fit(with_teachers(run, teacher(run, 3))).model)
    for a, b in zip(students[0].parameters(), students[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_resumed_run_has_the_same_teachers(tmp_path: Path) -> None:
    """Another digest at a teacher's place, or no teacher, is rejected; the same one goes on to the same bytes."""

    class Once(StopFlag):
        requested = True

    def run(stop: StopFlag | None = None) -> Run:
        return small_run(tmp_path / "a", stop, resume=True, checkpoint_seconds=0)

    master = teacher(run(), 1)
    with pytest.raises(InterruptedRunError):
        fit(with_teachers(run(Once()), master))
    with pytest.raises(CheckpointError, match="teachers differs: models/t/1"):
        fit(with_teachers(run(), master, digest="2" * 64))
    with pytest.raises(CheckpointError, match="teachers differs: models/t/1"):
        fit(run())
    whole = fit(with_teachers(small_run(tmp_path / "b"), master))
    assert weights(fit(with_teachers(run(), master))) == weights(whole)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a data set and, once the bench has run, what it published."""
    directory = tmp_path_factory.mktemp("teachers")
    archive(directory / "noisy.npz")
    return directory


def bench(place: Path, capsys: pytest.CaptureFixture[str]) -> tuple[list[dict[str, Any]], str]:
    """Distil two small members into a smaller student; return the bench's JSON lines and its last line."""
    code = bench_committee(
        [
            *("--members", "2", "--preset", "default", "--student", "default"),
            *("--data", f"npz:{place / 'noisy.npz'}", "--models", str(place / "models")),
            *("--runs", str(place / "runs"), "--epochs", "8", "--batch-size", "32", "--hidden", "32"),
            *("--learning-rate", "2e-3"),
            *("--member-set", "translation=1", "--student-set", "hidden=16,8", "--plain"),
            *("--device", "cpu", "--threads", "1"),
        ]
    )
    assert code == 0
    *lines, last = capsys.readouterr().out.splitlines()
    return [json.loads(line) for line in lines], last


@pytest.fixture
def published(place: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Bundle, Bundle, Bundle]:
    """Return two members and their student; the first test that asks for them has them trained."""
    bench(place, capsys)
    first, second, student = (
        Bundle.open(place / "models" / name / "1") for name in ("noisy-member-0", "noisy-member-1", "noisy")
    )
    return first, second, student


def read(place: Path) -> DataSet:
    """Load the data set as the job does."""
    return load(f"npz:{place / 'noisy.npz'}", mnist_directory=place, progress=Progress(quiet=True))


def altered(data: DataSet, **changes: Any) -> DataSet:
    """Return the data set with something else about it."""
    fields: dict[str, Any] = {
        "name": data.name,
        "classes": data.classes,
        "sha256": data.sha256,
        "training": data.training,
        "read_test": data.test,
    }
    return DataSet(**(fields | changes))


def test_two_members_teach_a_student(
    place: Path, published: tuple[Bundle, Bundle, Bundle], capsys: pytest.CaptureFixture[str]
) -> None:
    """The student's manifest names its teachers and their digests; a second bench trains nothing."""
    *members, student = published
    manifest = student.manifest
    paths = [str(member.path) for member in members]
    assert manifest.hyperparameters["teachers"] == paths
    assert manifest.teachers == {str(member.path): member.manifest.digest for member in members}
    assert (manifest.hyperparameters["hidden"], manifest.hyperparameters["translation"]) == ([16, 8], 1)
    assert weights_of(members[0]) != weights_of(members[1])
    plain = Bundle.open(place / "models" / "noisy-plain" / "1")
    assert not plain.manifest.teachers
    assert weights_of(student) != weights_of(plain)
    assert not members[0].manifest.teachers
    assert b"teachers" in (student.path / MANIFEST_FILE).read_bytes()
    assert b'"teachers": {' not in (members[0].path / MANIFEST_FILE).read_bytes()
    lines, last = bench(place, capsys)
    assert [line.get("member") for line in lines] == paths
    assert all(set(line) == {"member", "test_error_percent"} for line in lines)
    assert "784-16-8-3" in last
    ensemble = load_teachers(
        settings(teachers=paths), read(place), polarity(read(place).training.images), CPU
    )
    assert ensemble is not None
    test = read(place).test()
    wrong = ensemble(torch.from_numpy(test.images), 1.0).argmax(1).numpy() != test.labels
    assert f"committee {100 * wrong.mean():.3f}%" in last


def test_the_bench_trains_what_is_missing_and_what_hangs_on_it(
    place: Path,
    published: tuple[Bundle, Bundle, Bundle],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With one member lost, that one is trained again, and the student, whose teacher it was not."""
    shutil.copytree(place, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "models" / "noisy-member-1")
    # the same paths as before, so that only the digests tell
    place.rename(tmp_path / "whole")
    (tmp_path / "copy").rename(place)
    try:
        lines, _ = bench(place, capsys)
    finally:
        place.rename(tmp_path / "copy")
        (tmp_path / "whole").rename(place)
    trained = [Path(line["trained"]).relative_to(place / "models") for line in lines if "trained" in line]
    assert [str(path) for path in trained] == ["noisy-member-1/1", "noisy/2"]


def weights_of(bundle: Bundle) -> bytes:
    """Return the digest of a model's torch.export file."""
    return bundle.manifest.files[TORCH_EXPORT_FILE].encode()


def test_a_loaded_teacher_is_the_published_function(
    place: Path, published: tuple[Bundle, Bundle, Bundle]
) -> None:
    """On whole pixels an ensemble of one gives the published logits' probabilities; fractions count."""
    teacher = published[0]
    data = read(place)
    ensemble = load_teachers(settings(teachers=[teacher.path]), data, polarity(data.training.images), CPU)
    assert ensemble is not None
    module = torch.export.load(teacher.path / TORCH_EXPORT_FILE).module()
    images = torch.from_numpy(data.training.images[:50])
    with torch.no_grad():
        expected = torch.softmax(module(images)[0] / 2, dim=1)
    torch.testing.assert_close(ensemble(images, 2.0), expected)
    pixels = images.float().clamp(max=250)
    assert not torch.equal(ensemble(pixels + 0.4, 2.0), ensemble(pixels, 2.0))


def test_no_teachers_are_no_ensemble(place: Path) -> None:
    """Without teachers there is nothing to load and nothing to ask."""
    assert load_teachers(settings(), read(place), "white-on-black", CPU) is None
    assert (
        load_shared_data(settings(data=f"npz:{place / 'noisy.npz'}"), Progress(quiet=True)).ensemble is None
    )


def test_searches_and_studies_have_the_teachers(
    place: Path, published: tuple[Bundle, Bundle, Bundle], tmp_path: Path
) -> None:
    """What the runs of tune and study work on holds the ensemble, at whatever temperature a run has."""
    base = settings(data=f"npz:{place / 'noisy.npz'}", teachers=[published[0].path], device="cpu", threads=1)
    shared = load_shared_data(base, Progress(quiet=True))
    run = shared.run(base, tmp_path, StopFlag())
    (tmp_path / "space.yaml").write_text("teachers: [a, b]\n")
    with pytest.raises(ConfigurationError, match=r"teachers in .* cannot be searched"):
        read_space(tmp_path / "space.yaml", base)
    assert run.ensemble is not None
    assert run.ensemble.digests == {str(published[0].path): published[0].manifest.digest}


def test_teachers_of_other_data_are_rejected(place: Path, published: tuple[Bundle, Bundle, Bundle]) -> None:
    """Other classes, polarity, files or another held-out test set: each is a sentence of its own."""
    data, chosen = read(place), settings(teachers=[published[0].path])
    ink = polarity(data.training.images)
    other: Polarity = "black-on-white" if ink == "white-on-black" else "white-on-black"
    assert load_teachers(chosen, data, ink, CPU)
    with pytest.raises(DataError, match="its classes are 0, 1, 2, not a, b, c"):
        load_teachers(chosen, altered(data, classes=("a", "b", "c")), ink, CPU)
    with pytest.raises(DataError, match=f"its images are {ink}, these are {other}"):
        load_teachers(chosen, data, other, CPU)
    with pytest.raises(DataError, match="data set 'noisy' has other SHA-256s than 'noisy'"):
        load_teachers(chosen, altered(data, sha256={"noisy.npz": "0" * 64}), ink, CPU)
    with pytest.raises(DataError, match="its images were resized by None, these by pad"):
        load_teachers(chosen.model_copy(update={"resize": "pad"}), data, ink, CPU)
    with pytest.raises(DataError, match="its test_seed is 0, not 1"):
        load_teachers(chosen.model_copy(update={"test_seed": 1}), data, ink, CPU)


def test_a_teacher_that_is_not_published_or_was_changed_is_rejected(
    place: Path, published: tuple[Bundle, Bundle, Bundle], tmp_path: Path
) -> None:
    """A wrong place is a wrong setting; a file with another SHA-256 is not loaded at all."""
    data = read(place)
    ink = polarity(data.training.images)
    for path in (tmp_path / "models" / "none" / "1", published[0].path.parent):
        with pytest.raises(ConfigurationError, match="teachers: "):
            load_teachers(settings(teachers=[path]), data, ink, CPU)
    for name in (ONNX_FILE, TORCH_EXPORT_FILE):
        copy = shutil.copytree(published[0].path, tmp_path / name / "noisy-member-0" / "1")
        (copy / name).chmod(0o644)
        (copy / name).write_bytes((published[1].path / name).read_bytes())
        with pytest.raises(DataError, match=f"{name} was changed after it was published"):
            load_teachers(settings(teachers=[copy]), data, ink, CPU)


def test_the_command_rejects_with_its_exit_codes(
    place: Path, published: tuple[Bundle, Bundle, Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A teacher that is not there ends with 2, one of other data with 65, one named twice with 2."""
    archive(tmp_path / "noisy.npz", training=90)
    common = ["fit", "--models", str(tmp_path / "m"), "--runs", str(tmp_path / "r"), "--threads", "1"]
    known, member = f"npz:{place / 'noisy.npz'}", str(published[0].path)
    wrong = [
        (known, f"{tmp_path}/m/none/1", 2, "there is no directory"),
        (f"npz:{tmp_path / 'noisy.npz'}", member, 65, "was trained on other data"),
        (known, f"{member},{member}", 2, "is listed twice"),
    ]
    for data, teachers, code, words in wrong:
        assert main([*common, "--device", "cpu", "--data", data, "--teachers", teachers]) == code
        assert words in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_a_manifest_without_teachers_says_nothing_of_them(
    published: tuple[Bundle, Bundle, Bundle],
) -> None:
    """A bundle from before distillation has no such key, and stays readable; with teachers both ways agree."""
    for bundle in published:
        data = (bundle.path / MANIFEST_FILE).read_bytes()
        assert ("teachers" in json.loads(data)) == bool(bundle.manifest.teachers)
        assert Manifest.from_bytes(data) == bundle.manifest


def test_the_bench_rejects_what_it_cannot_do(capsys: pytest.CaptureFixture[str]) -> None:
    """No members, an unknown preset, an unknown setting of the student: each is a sentence and a 2."""
    for arguments, words in (
        (["--members", "0"], "at least one"),
        (["--preset", "defualt"], "did you mean 'default'"),
        (["--preset", "default", "--student", "default", "--student-set", "hiden=3"], "hidden"),
    ):
        assert bench_committee(arguments) == 2
        assert words in capsys.readouterr().err
