"""Studies: the statistics, the order of training and testing, and that nothing is lost or done twice."""

import fcntl
import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigurationError
from common.progress import Progress
from imagesets.errors import DataError
from tests.conftest import ROOT
from tests.training.sets import archive
from training.__main__ import main
from training.data.dataset import DataSet, Images
from training.data.splits import nested_order, nested_subset
from training.errors import CheckpointError, UnwritableError
from training.interrupts import StopFlag
from training.loop.fit import Fitted, Run, fit
from training.loop.shared_data import fit_settings, load_shared_data
from training.model.evaluation import logits_of
from training.model.mlp import MLP
from training.model.parameters import equal_widths, parameter_count
from training.search_settings import STUDIES, StudySettings
from training.settings import ModelSettings, TrainingSettings
from training.study import designs as plans
from training.study.run import study
from training.study.runs import PlannedRun, StudyRuns
from training.study.statistics import summarise, t_quantile

QUIET = Progress(quiet=True)
KILLS = 12
TIMES = ("seconds", "device", "code_revision")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Leave the other cores to others."""
    torch.set_num_threads(1)


@pytest.fixture
def settings(tmp_path: Path) -> StudySettings:
    """Return studies of a tiny network, two runs a point."""
    return StudySettings(
        data=archive(tmp_path / "set.npz"),
        validation=60,
        hidden=(8, 8),
        batch_size=32,
        epochs=2,
        repeats=2,
        threads=1,
        device="cpu",
        checkpoint_seconds=0.0,
        output=tmp_path / "studies",
    )


GIVEN = frozenset({"hidden", "epochs"})


def changed(settings: StudySettings, **changes: Any) -> StudySettings:
    """Return the settings with others."""
    return StudySettings.model_validate(settings.model_dump() | changes)


def lines(output: Path, name: str) -> list[dict[str, Any]]:
    """Return a study's results without what differs from machine to machine."""
    found = [json.loads(line) for line in (output / f"{name}.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in found]


# The mathematics

TABLE = {
    (0.975, 1): 12.706,
    (0.975, 2): 4.303,
    (0.975, 3): 3.182,
    (0.975, 4): 2.776,
    (0.975, 5): 2.571,
    (0.975, 9): 2.262,
    (0.975, 10): 2.228,
    (0.975, 29): 2.045,
    (0.975, 30): 2.042,
    (0.975, 120): 1.980,
    (0.95, 1): 6.314,
    (0.95, 10): 1.812,
    (0.995, 7): 3.499,
}
"""Quantiles of Student's t, from the table in any textbook."""


@pytest.mark.parametrize(("where", "value"), TABLE.items())
def test_students_t_is_the_tables(where: tuple[float, int], value: float) -> None:
    """The quantile agrees with the printed tables to their last digit."""
    assert round(t_quantile(*where), 3) == value


def test_an_interval_by_hand() -> None:
    """Of 1, 2, 3, 4, 5 the mean is 3, the deviation 1.5811 and the interval 2.776 * 1.5811 / sqrt(5)."""
    summary = summarise([1, 2, 3, 4, 5])
    assert (summary.mean, summary.count) == (3.0, 5)
    assert summary.deviation == pytest.approx(1.58114, abs=1e-5)
    assert summary.half_width == pytest.approx(2.7764 * 1.58114 / 5**0.5, abs=1e-4)


def test_one_value_has_no_interval() -> None:
    """A single run claims no precision."""
    assert summarise([0.9]).half_width is None


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 4,000 samples of three normal numbers, 95% have the true mean in their interval."""
    generator = np.random.default_rng(5)
    hits = 0
    for sample in generator.normal(7, 2, (4000, 3)).tolist():
        summary = summarise(sample)
        assert summary.half_width is not None
        hits += abs(summary.mean - 7) <= summary.half_width
    assert 0.94 < hits / 4000 < 0.96


@pytest.mark.parametrize(
    "changes",
    [{"hidden": ()}, {"hidden": (7,)}, {"hidden": (5, 9, 3)}, {"hidden": (6, 4), "batch_norm": True}],
)
def test_parameters_are_those_of_the_network(changes: dict[str, Any]) -> None:
    """The count agrees with what PyTorch counts in the network itself."""
    settings = ModelSettings.model_validate(changes)
    assert parameter_count(settings, 10) == sum(p.numel() for p in MLP(settings, 10).parameters())


@pytest.mark.parametrize("hidden", [(128, 64), (256, 128), (512, 256)])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_wide_and_deep_have_equally_many_parameters(hidden: tuple[int, ...], batch_norm: bool) -> None:
    """Real networks of every depth of the study have the base network's parameters within 1%."""
    base = ModelSettings(hidden=hidden, batch_norm=batch_norm)
    target = sum(p.numel() for p in MLP(base, 10).parameters())
    for depth in plans.DEPTHS["full"]:
        widths = equal_widths(base, depth, target, 10)
        assert len(widths) == depth
        network = MLP(base.model_copy(update={"hidden": widths}), 10)
        assert abs(sum(p.numel() for p in network.parameters()) / target - 1) <= 0.01


def test_what_cannot_be_equal_is_rejected() -> None:
    """Where one unit more is more than 1% of the parameters, the study says so."""
    with pytest.raises(ConfigurationError, match="within 1%"):
        equal_widths(ModelSettings(hidden=(3,)), 1, 2800, 10)


LABELS = st.lists(st.integers(1, 40), min_size=2, max_size=6)


@given(LABELS, st.integers(0, 5), st.data())
def test_parts_are_nested_and_stratified(counts: list[int], seed: int, data: st.DataObject) -> None:
    """Any two parts are one inside the other, and share their images among the classes by Webster's rule.

    That is: no class could give an image to another and both be nearer to their shares, by Webster's
    measure (k - 1/2) / m of the image given and (k + 1/2) / m of the one taken.
    """
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    order = nested_order(labels, seed)
    assert sorted(order) == list(range(len(labels)))
    small = data.draw(st.integers(1, len(labels)))
    large = data.draw(st.integers(small, len(labels)))
    parts = [set(order[:n].tolist()) for n in (small, large)]
    assert parts[0] <= parts[1]
    held = np.bincount(labels[order[:small]], minlength=len(counts))
    given_up = [(k - 0.5) / m for k, m in zip(held, counts, strict=True)]
    taken = [(k + 0.5) / m for k, m in zip(held, counts, strict=True) if k < m]
    assert max(given_up) <= min(taken, default=1) + 1e-9


def test_parts_of_mnist_have_its_proportions() -> None:
    """With MNIST's counts of the ten digits, every class is within one image of its share."""
    counts = np.array([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
    labels = np.repeat(np.arange(10), counts)
    order = nested_order(labels, 0)
    for size in (100, 300, 500, 1000, 1500, 3000, 5000, 10_000, 15_000, 30_000, 60_000):
        held = np.bincount(labels[order[:size]], minlength=10)
        assert np.all(np.abs(held - counts * size / 60_000) <= 1)


def test_a_part_has_the_asked_size_and_the_seed_chooses_it() -> None:
    """The part has exactly so many images, the same for one seed and others for another."""
    labels = np.arange(300) % 10
    first = nested_subset(labels, 50, 1)
    assert len(set(first.tolist())) == 50
    assert np.bincount(labels[first]).tolist() == [5] * 10
    assert first.tolist() == nested_subset(labels, 50, 1).tolist()
    assert first.tolist() != nested_subset(labels, 50, 2).tolist()


def test_a_part_that_loses_a_class_is_rejected() -> None:
    """A part in which a class is not there is an error that names it."""
    labels = np.array([0] * 100 + [1])
    with pytest.raises(DataError, match="class 1"):
        nested_subset(labels, 10, 0)


# The plans


def test_every_study_is_planned_and_named_in_the_help() -> None:
    """The names that the command knows are those that there are plans for."""
    assert tuple(plans.DESIGNS) == STUDIES


@pytest.mark.parametrize("scale", ["quick", "full"])
def test_only_what_a_study_varies_differs(scale: str) -> None:
    """Within a study the points differ from the base in the study's own settings alone."""
    varied = {
        "size": {"hidden", "epochs", "dropout", "input_dropout", "batch_norm"},
        "shape": {"hidden", "dropout"},
        "activations": {"activation", "initialisation"},
        "dropout": {"dropout"},
        "l2": {"l2", "weight_decay"},
        "restarts": set(),
        "baseline": {"hidden", "dropout", "input_dropout", "batch_norm"},
    }
    base = TrainingSettings(hidden=(256, 128), batch_norm=True, input_dropout=0.1, dropout=(0.1, 0.2))
    start = plans.StudyBase(base=base, scale=scale, repeats=0, images=55_000, classes=10)
    for name, plan in plans.DESIGNS.items():
        for point in plan(start).points:
            mine, theirs = point.settings.model_dump(), base.model_dump()
            assert {key for key in mine if mine[key] != theirs[key]} <= varied[name], name
            assert 0 < point.images <= 55_000


def test_the_quick_scale_gives_way_to_the_user() -> None:
    """The quick scale shortens what the user left open, and nothing that was given."""
    settings = StudySettings(epochs=30, hidden=(99,))
    assert plans.study_base(settings, {"epochs"}, 100, 10).base.epochs == 30
    assert plans.study_base(settings, {"hidden"}, 100, 10).base.hidden == (99,)
    assert plans.study_base(settings, (), 100, 10).base.epochs < 30
    full = StudySettings(epochs=30, scale="full")
    assert plans.study_base(full, (), 100, 10).base.epochs == 30


# The runs


def test_all_models_are_trained_before_the_test_set_is_read_once(
    settings: StudySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The events of two studies, which share a point, are trainings, one look at the test set, and no more."""
    events = []
    original_test = DataSet.test

    def noted_fit(run: Run) -> Fitted:
        events.append("fit")
        return fit(run)

    def noted_test(data: DataSet) -> Images:
        events.append("test")
        return original_test(data)

    monkeypatch.setattr("training.study.runs.fit", noted_fit)
    monkeypatch.setattr(DataSet, "test", noted_test)
    study(["dropout", "baseline"], settings, GIVEN, QUIET)
    assert events.count("test") == 1
    assert events[-1] == "test"
    assert events.count("fit") == (4 + 3 - 1) * 2
    study(["dropout", "baseline"], settings, GIVEN, QUIET)
    assert events.count("test") == 1
    assert events.count("fit") == (4 + 3 - 1) * 2, "a second start does nothing"
    study(["dropout"], changed(settings, repeats=3), GIVEN, QUIET)
    assert events.count("fit") == (4 + 3 - 1) * 2 + 4, "a larger study does only what is missing"
    assert len(lines(settings.output, "dropout")) == 12


def test_runs_that_studies_share_are_trained_once(
    settings: StudySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base settings' runs of one study are those of another."""
    study(["restarts"], settings, GIVEN, QUIET)
    trained: list[Run] = []

    def noted(run: Run) -> Fitted:
        trained.append(run)
        return fit(run)

    monkeypatch.setattr("training.study.runs.fit", noted)
    study(["baseline"], settings, GIVEN, QUIET)
    assert len(trained) == 4
    shared = [line for line in lines(settings.output, "baseline") if line["label"] == "base settings"]
    assert [s["test_accuracy"] for s in shared] == [
        line["test_accuracy"] for line in lines(settings.output, "restarts")
    ]


def test_the_test_accuracy_is_that_of_the_trained_model(settings: StudySettings) -> None:
    """Trained anew by hand, a run of the study has the recorded accuracies."""
    study(["restarts"], settings, GIVEN, QUIET)
    shared = load_shared_data(settings, QUIET)
    test = shared.data.test()
    recorded = lines(settings.output, "restarts")
    assert [line["seed"] for line in recorded] == [0, 1]
    assert recorded[0]["test_accuracy"] != recorded[1]["test_accuracy"]
    for line in recorded:
        chosen = fit_settings(settings).model_copy(update={"seed": line["seed"]})
        fitted = fit(shared.run(chosen, settings.output / f"by-hand-{line['seed']}", StopFlag()))
        logits = logits_of(fitted.model, fitted.standardise, torch.from_numpy(test.images))
        assert line["test_accuracy"] == float((logits.argmax(axis=1) == test.labels).mean())
        assert line["validation_accuracy"] == fitted.history[-1].validation_accuracy
        assert line["test_images"] == 90


def test_killed_at_any_moment_nothing_is_lost_or_doubled(settings: StudySettings, tmp_path: Path) -> None:
    """A dozen SIGKILLs, in steps, in writes and between runs, and the results are those of an undisturbed one."""
    study(["dropout"], settings, GIVEN, QUIET)
    broken = changed(settings, output=tmp_path / "broken")
    chance = random.Random(3)  # noqa: S311 - where to die, not a secret
    deaths, finished_at_death = 0, []
    while True:
        child = os.fork()
        if child == 0:
            try:
                if deaths < KILLS:
                    die_after(chance.randrange(3, 60) if deaths else 1)
                study(["dropout"], broken, GIVEN, QUIET)
                os._exit(0)
            except BaseException as error:  # noqa: BLE001 - a forked test process must not return into pytest
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
        _, status = os.waitpid(child, 0)
        chance.random()
        if not os.WIFSIGNALED(status):
            assert status == 0
            break
        deaths += 1
        finished_at_death.append(len(list((broken.output / "runs").glob("*.json"))))
    assert deaths == KILLS
    assert len(set(finished_at_death)) > 3, "too few deaths fell between the first run and the last"
    assert lines(broken.output, "dropout") == lines(settings.output, "dropout")
    assert len(list((broken.output / "runs").iterdir())) == 8
    assert not (broken.output / "unfinished").exists()
    assert not any((broken.output / "untested").iterdir())


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "data", [b"", b"no weights", pickle.dumps(os.getcwd)], ids=["empty", "text", "pickle"]
)
def test_weights_that_are_none_are_a_sentence(
    settings: StudySettings, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    """A damaged file, and a pickle of a function, which is not loaded, are named with what helps."""
    test = StudyRuns.test

    def damaging(self: StudyRuns, planned: Sequence[PlannedRun]) -> None:
        for path in (settings.output / "untested").iterdir():
            path.write_bytes(data)
        test(self, planned)

    monkeypatch.setattr(StudyRuns, "test", damaging)
    with pytest.raises(CheckpointError, match="missing or corrupt"):
        study(["restarts"], settings, GIVEN, QUIET)


def die_after(calls: int) -> None:
    """End this process by SIGKILL at a later fsync: one of a checkpoint, of weights, of a record."""
    original, left = os.fsync, [calls]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        original(descriptor)

    os.fsync = fsync  # type: ignore[assignment]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_study_with_75(settings: StudySettings, number: signal.Signals) -> None:
    """A real process ends with 75 and a sentence, in the middle of a run, and the rest is done later."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "training", "study", "dropout", "--hidden=8,8", "--epochs=300"),
            *(f"--data={settings.data}", f"--output={settings.output}", "--validation=60", "--repeats=1"),
            *("--threads=1", "--device=cpu", "--batch-size=32"),
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    for line in process.stderr:
        if "runs to train" in line:
            process.send_signal(number)
            break
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 75, rest
    assert f"stopped by {number.name}: 0 finished runs are kept" in rest
    assert "Traceback" not in rest


def test_two_processes_do_not_share_a_directory(settings: StudySettings) -> None:
    """A directory that another process works in is rejected."""
    settings.output.mkdir()
    with (settings.output / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UnwritableError, match="another process uses"):
            study(["dropout"], settings, GIVEN, QUIET)


@pytest.mark.parametrize("name", ["study.html", "size.jsonl", "dropout.jsonl"])
def test_the_files_of_others_are_not_overwritten(settings: StudySettings, name: str) -> None:
    """A directory with a file that a study would write, and no study did, is rejected before anything is trained."""
    settings.output.mkdir()
    (settings.output / name).write_text("mine")
    for chosen in ("restarts", "dropout"):
        with pytest.raises(UnwritableError, match=f"{name} exists"):
            study([chosen], settings, GIVEN, QUIET)
    assert [path.name for path in settings.output.iterdir()] == [name]
    assert (settings.output / name).read_text() == "mine"


def test_unfinished_runs_of_others_are_not_removed(settings: StudySettings) -> None:
    """A study removes the checkpoints of its own runs, and neither another study's nor a user's directory."""
    others = settings.output / "unfinished" / "thesis"
    others.mkdir(parents=True)
    (others / "chapter-1.txt").write_text("mine")
    (settings.output / ".lock").write_text("mine")
    study(["restarts"], settings, GIVEN, QUIET)
    assert [path.name for path in others.parent.iterdir()] == ["thesis"]
    assert (others / "chapter-1.txt").read_text() == "mine"
    assert (settings.output / ".lock").read_text() == "mine"


def test_a_changed_record_is_a_sentence(settings: StudySettings) -> None:
    """A result that is no JSON any more is named, not passed over."""
    study(["restarts"], settings, GIVEN, QUIET)
    path = next((settings.output / "runs").iterdir())
    path.write_text("{")
    with pytest.raises(CheckpointError, match=path.name):
        study(["restarts"], settings, GIVEN, QUIET)


def test_runs_that_diverge_are_counted_and_said(settings: StudySettings) -> None:
    """A learning rate that ends in NaN is a result of its own, and the report is still made."""
    wild = changed(settings, optimizer="sgd", learning_rate=1e30, schedule="constant", warmup=0)
    page = study(["restarts"], wild, GIVEN, QUIET).read_text()
    assert [line["diverged"] for line in lines(wild.output, "restarts")] == [True, True]
    assert "2 diverged" in page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of all studies of a tiny set."""
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("all")
    settings = StudySettings(
        data=archive(place / "set.npz", training=700),
        validation=60,
        hidden=(64, 32),
        batch_size=128,
        epochs=1,
        repeats=2,
        threads=1,
        device="cpu",
        output=place / "studies",
    )
    return study(["all"], settings, GIVEN, QUIET)


def test_the_page_stands_alone_and_has_a_figure_and_a_table_each(page: Path) -> None:
    """The page links to nothing, and each study's figure is a picture that parses."""
    text = page.read_text()
    assert not re.findall(r'(?:src|href)="(?!#)', text)
    assert "<script" not in text
    figures = re.findall(r"<figure>(<svg.*?</svg>)\s*</figure>", text, re.DOTALL)
    assert len(figures) == len(STUDIES)
    for figure in figures:
        ET.fromstring(figure.replace("xlink:href", "href"))  # noqa: S314 - our own text
    assert text.count("<table") == len(STUDIES) + 2
    assert len(text) < 2_000_000


def test_the_page_says_the_lines(page: Path) -> None:
    """A mean in the table is that of the JSON lines, with its interval and n."""
    text = page.read_text()
    points: dict[str, list[float]] = {}
    for line in lines(page.parent, "dropout"):
        points.setdefault(line["label"], []).append(100 * line["test_accuracy"])
    assert len(points) == 4
    for label, (first, second) in points.items():
        mean, half = (first + second) / 2, 12.7062 * abs(first - second) / 2
        row = re.search(rf'<tr><th scope="row">{re.escape(label)}</th>(.*?)</tr>', text)
        assert row
        assert f"{mean:.2f} ± {half:.2f}" in row[1]
        assert '<td class="n">2</td>' in row[1]


def test_the_test_set_is_the_same_for_every_size(page: Path) -> None:
    """In the learning curve the training images vary, and the test and validation images do not."""
    found = lines(page.parent, "size")
    assert sorted({line["train_images"] for line in found}) == [500, 640]
    assert {line["test_images"] for line in found} == {90}
    assert {line["validation_images"] for line in found} == {60}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["drop-out"], "unknown study drop-out; did you mean 'dropout'?"),
        (["all", "--scale", "huge"], "--scale: "),
        (["all", "--epochs", "0"], "--epochs: "),
        ([], "NAME"),
    ],
)
def test_misuse_ends_with_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong words are sentences, before anything is loaded."""
    try:
        code: object = main(["study", *words])
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert said in capsys.readouterr().err


def test_without_hidden_layers_there_is_nothing_to_vary(settings: StudySettings) -> None:
    """Softmax regression as the base is rejected."""
    with pytest.raises(ConfigurationError, match="hidden: studies vary"):
        study(["dropout"], changed(settings, hidden=()), GIVEN, QUIET)
