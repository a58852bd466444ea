"""The bench of training to a target: its recipes are settings, every run is one line, and the table has them all."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.training import speedrun
from bench.training.speedrun import RECIPES, Result, run, settings_of, table
from training.data.dataset import Images
from training.loop.device import choose_device
from training.model.evaluation import accuracy, logits_of
from training.settings import TrainingSettings


@pytest.mark.parametrize("target", RECIPES)
def test_a_recipe_is_settings_of_training(target: str) -> None:
    """Each builds, and says its augmentation itself: no policy waits for the data."""
    assert settings_of(target).augmentation == "custom"


def some_images(count: int) -> Images:
    """Return images whose class is the row of a bright line."""
    labels = np.random.default_rng(0).integers(0, 10, count)
    images = np.zeros((count, 28, 28), np.uint8)
    images[np.arange(count), 4 + 2 * labels] = 255
    return Images(images=images, labels=labels)


def test_a_run_is_the_loop_of_fit() -> None:
    """It learns, takes every step of every epoch, and a seed gives the same weights again."""
    settings = settings_of("98", hidden="16", batch_size=32, epochs=15, threads=1, device="cpu", ema=0.9)
    device = choose_device(settings)
    images = some_images(200)
    state, seconds = run(settings, images, device)
    again, _ = run(settings, images, device)
    assert state.step == 15 * 7
    assert seconds > 0
    first, second = state.evaluated_model.state_dict(), again.evaluated_model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    logits = logits_of(state.evaluated_model, state.standardise, torch.from_numpy(images.images))
    assert accuracy(logits, images.labels) > 0.9


def test_the_bench_writes_every_run(
    tmp_path: Path,
    mnist_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line a run, the table, and the file; a mean below the target says so and ends with 1."""
    monkeypatch.setattr(speedrun, "COMMON", {"threads": 1})
    monkeypatch.setattr(speedrun, "RECIPES", {"99.99": {"hidden": (4,), "epochs": 1, "batch_size": 1000}})
    file = tmp_path / "runs.json"
    words = ["--runs", "2", "--data-dir", str(mnist_directory), "--device", "cpu", "--threads", "1"]
    assert speedrun.main([*words, "--json", str(file), "--markdown"]) == 1
    *lines, _, _, last = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [0, 1]
    assert last.startswith("| 99.99% | hidden 4, epochs 1, batch_size 1000 | 2 | ")
    assert "falls short" in last
    (result,) = json.loads(file.read_text())
    assert result["seconds"] == [json.loads(line)["seconds"] for line in lines]


def test_the_table_has_mean_error_and_quartiles() -> None:
    """The mean decides whether the target is reached, not the best run."""
    result = Result(
        target="98",
        settings={"epochs": 3},
        device="CPU, 1 threads",
        accuracies=[97.8, 97.9, 98.2],
        seconds=[1.0, 2.0, 3.0],
    )
    shown = table([result.cells()], markdown=False).splitlines()[1]
    assert "97.967% ± 0.120, falls short" in shown
    assert "2.00" in shown
    assert "1.50 to 2.50" in shown


def test_the_warm_up_is_on_other_data() -> None:
    """What warms up the kernels has no image of the data."""
    settings = TrainingSettings(batch_size=8)
    other = speedrun._other_data(settings)
    assert len(other) == 8 * speedrun.WARM_UP_BATCHES
    assert other.images.std() > 50
