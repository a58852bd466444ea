"""The table of the course's topics: every test and section that it names exists; and the mathematics of two topics."""

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from bench.support.runs import small_run
from tests.conftest import ROOT
from tests.pages import Document
from tests.training.subjects import report_data
from training.loop.fit import fit
from training.model.mlp import MLP
from training.report.page import render
from training.search_settings import STUDIES, StudySettings, TuneSettings
from training.settings import TrainingSettings

TABLE = ROOT / "docs" / "course.md"
TOPICS = (
    "multilayer perceptron",
    "softmax regression",
    "logistic regression",
    "cross entropy",
    "activations",
    "initialisation",
    "dropout",
    "l1",
    "l2",
    "max-norm",
    "early stopping",
    "augmentation",
    "batch norm",
    "optimizers",
    "schedules",
    "hyperparameter search",
    "learning curve",
    "wide against deep",
    "restarts over seeds",
    "misclassified",
    "calibration",
    "generalisation gap",
    "export and serving",
)


def rows() -> list[list[str]]:
    """Return the table's rows: topic, options, tests, where it is seen."""
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def defined_in(file: Path) -> set[str]:
    """Return the names of the tests that a file defines."""
    tree = ast.parse(file.read_bytes())
    return {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_topic_has_a_row_and_every_row_is_full() -> None:
    """No topic of the course is missing, and no cell is empty."""
    topics = " ".join(row[0] for row in rows()).lower()
    assert [topic for topic in TOPICS if topic not in topics] == []
    assert all(len(row) == 4 and all(row) for row in rows())


def test_every_test_that_is_named_exists() -> None:
    """Each row names a test or more, each as file::name, and all of them are there."""
    for row in rows():
        named = re.findall(r"`([^`]+)`", row[2])
        assert named
        for name in named:
            file, _, function = name.partition("::")
            assert function in defined_in(ROOT / "tests" / "training" / file), name


def test_every_option_that_is_named_is_a_setting() -> None:
    """Options are fields of the settings of `fit`, or of the command that the row names; studies exist."""
    for row in rows():
        options = {name.replace("-", "_") for name in re.findall(r"--([a-z0-9-]+)", row[1])}
        settings = (
            TuneSettings if "`tune`" in row[1] else StudySettings if "study" in row[1] else TrainingSettings
        )
        assert options <= set(settings.model_fields), row[0]
        named = re.findall(r"`study ([a-z0-9-]+)`", row[1]) + re.findall(r"study `([a-z0-9-]+)`", row[3])
        assert set(named) <= set(STUDIES), row[0]


def test_every_section_that_is_named_is_in_the_report() -> None:
    """Where a row says where a report shows it, the report has a section whose title begins like that."""
    from tests.training.report.test_page import WEIGHTS

    titles = [text for tag, text in Document(render(report_data(), WEIGHTS)).texts if tag == "h2"]
    sections = [name for row in rows() for name in re.findall(r"report: ([A-Z][a-z]+(?: [a-z]+)*)", row[3])]
    assert len(sections) > 20
    missing = [name for name in sections if not any(title.startswith(name.split(",")[0]) for title in titles)]
    assert missing == []


def test_label_smoothing_moves_the_targets(tmp_path: Path) -> None:
    """With a share s the loss is that of targets 1 - s + s/k and s/k, so that confidence stops paying."""
    smoothed = fit(small_run(tmp_path / "a", label_smoothing=0.4))
    plain = fit(small_run(tmp_path / "b"))
    run = small_run(tmp_path / "c")
    with torch.no_grad():
        confidences = [
            fitted.model(fitted.standardise(run.validation.images)).softmax(1).amax(1).mean().item()
            for fitted in (smoothed, plain)
        ]
    assert confidences[0] < 1 - 0.4 + 0.4 / 3 + 0.02 < confidences[1]
    logits, share = torch.tensor([[2.0, -1.0, 0.5]]), 0.3
    targets = torch.tensor([[1 - share + share / 3, share / 3, share / 3]])
    by_hand = -(targets * logits.log_softmax(1)).sum()
    torch_says = torch.nn.functional.cross_entropy(logits, torch.tensor([0]), label_smoothing=share)
    assert torch_says.item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_batch_normalisation_standardises_each_unit() -> None:
    """In training each unit's input to its activation has mean 0 and deviation 1 over the batch."""
    settings = TrainingSettings(hidden=(20,), batch_norm=True, dropout=(0.0,))
    model = MLP(settings, 3).train()
    kinds = [type(layer).__name__ for layer in model]
    assert ("Linear", "BatchNorm") in set(pairwise(kinds))
    values = model[1](model[0](torch.randn(500, 784) * 3 + 1))
    assert values.mean(0).abs().max() < 1e-5
    assert (values.std(0, correction=0) - 1).abs().max() < 1e-3
