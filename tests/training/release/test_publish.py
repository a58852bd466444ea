"""Publishing: a network whose files fit into a bundle, and golden examples that can be replayed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from bundle.manifest import MAX_GOLDEN_IMAGES, MAX_MODEL_BYTES
from common.errors import ConfigurationError
from tests.training.sets import archive
from training.__main__ import main
from training.data.dataset import Images
from training.model.parameters import check_publishable, parameter_count
from training.presets import PRESETS
from training.release.publish import GOLDEN_MOST, Measured, _golden
from training.settings import ModelSettings, TrainingSettings


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_published(preset: str) -> None:
    """The largest has a tenth of what a file may have."""
    settings = TrainingSettings.model_validate(PRESETS[preset]())
    check_publishable(settings, 1000)
    assert 8 * parameter_count(settings, 1000) < MAX_MODEL_BYTES


def test_a_network_whose_files_no_reader_would_take_is_not_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is a wrong setting, and said before anything is trained, not after hours."""
    check_publishable(ModelSettings(hidden=(11_000, 11_000)), 10)
    with pytest.raises(ConfigurationError, match=r"hidden: a network of 153,\d+,\d+ parameters"):
        check_publishable(ModelSettings(hidden=(12_000, 12_000)), 10)
    data = archive(tmp_path / "noisy.npz")
    places = ["--models", str(tmp_path / "m"), "--runs", str(tmp_path / "r"), "--device", "cpu"]
    assert main(["fit", "--data", data, *places, "--hidden", "12000,12000"]) == 2
    assert "hidden: a network of" in capsys.readouterr().err


def test_of_many_classes_there_are_no_more_golden_examples_than_can_be_replayed() -> None:
    """The first is the sample, which the model gets right; the rest are cut."""
    classes = 500
    labels = np.arange(4 * classes) % classes
    images = np.zeros((len(labels), 28, 28), np.uint8)
    logits = np.eye(classes, dtype=np.float32)[labels]
    measured: Any = SimpleNamespace(
        test=Images(images=images, labels=labels), test_logits=logits, temperature=1.0
    )
    golden, label = _golden(cast("Measured", measured))
    assert len(golden.images) == GOLDEN_MOST <= MAX_GOLDEN_IMAGES
    assert label == 0
