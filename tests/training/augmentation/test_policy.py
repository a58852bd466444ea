"""`--augmentation`: the limits of each policy, below those that the user gives."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from common.configuration import Layer, build
from tests.training.sets import archive
from training.__main__ import main
from training.augmentation.augmenter import Augmenter
from training.augmentation.policy import LIMITS, apply_policy, describe_policy
from training.loop.shared_data import fit_settings
from training.presets import PRESETS
from training.search_settings import TuneSettings
from training.settings import AugmentationSettings, TrainingSettings

HANDWRITING = LIMITS["handwriting"]


def limits(settings: TrainingSettings) -> dict[str, Any]:
    """Return the limits that are not 0."""
    return {name: getattr(settings, name) for name in HANDWRITING if getattr(settings, name)}


def resolved(*, is_handwriting: bool, **given: object) -> TrainingSettings:
    """Return the default preset's settings with some given, for a data set."""
    layers = [Layer(PRESETS["default"](), "preset"), Layer(given, "options")]
    return apply_policy(build(TrainingSettings, layers), is_handwriting)


def test_the_default_preset_takes_what_the_data_set_bears() -> None:
    """Handwriting is rotated, moved, scaled and deformed; other images are moved and scaled."""
    digits, shapes = resolved(is_handwriting=True), resolved(is_handwriting=False)
    assert (digits.augmentation, limits(digits)) == ("handwriting", HANDWRITING)
    assert (shapes.augmentation, limits(shapes)) == ("basic", {"translation": 2.0, "scaling": 0.1})


def test_what_is_given_is_kept() -> None:
    """A limit of the user's wins over the policy's, 0 too, and a named policy over what the data set would get."""
    turned = resolved(is_handwriting=False, rotation=25)
    assert limits(turned) == {"translation": 2.0, "scaling": 0.1, "rotation": 25.0}
    still = resolved(is_handwriting=True, translation=0, elastic_alpha=0)
    assert limits(still) == {"rotation": 10.0, "scaling": 0.1, "elastic_sigma": 4.0}
    letters = resolved(is_handwriting=False, augmentation="handwriting")
    assert limits(letters) == HANDWRITING
    assert limits(resolved(is_handwriting=True, augmentation="custom")) == {}


def test_a_search_keeps_what_was_not_given_open() -> None:
    """The settings of `fit` inside those of `tune` get the policy's limits as well."""
    settings = TuneSettings.model_validate({**PRESETS["default"](), "scaling": 0.3})
    assert limits(apply_policy(fit_settings(settings), is_handwriting=True)) == {
        **HANDWRITING,
        "scaling": 0.3,
    }


def test_settings_that_a_run_recorded_are_taken_as_they_are() -> None:
    """What the manifest or `best.yaml` says trains the same again, on any data set."""
    recorded = resolved(is_handwriting=False)
    again = TrainingSettings.model_validate(recorded.model_dump())
    assert apply_policy(again, is_handwriting=True) == recorded


def test_an_undecided_policy_does_not_train() -> None:
    """Settings that were not matched with the data set are a programming error, not a run without augmentation."""
    undecided = AugmentationSettings(augmentation="auto")
    with pytest.raises(ValueError, match="apply_policy"):
        Augmenter(undecided, classes=2, seed=0, device=torch.device("cpu"))


def test_what_was_done_is_said() -> None:
    """The sentence names each limit; for unknown images it says what was not done, and the option that does it."""
    said = describe_policy(resolved(is_handwriting=True).model_dump())
    for part in ("10 degrees", "2 pixels", "10%", "alpha 34"):
        assert part in said
    assert "not known to be handwriting" not in said
    said = describe_policy(resolved(is_handwriting=False).model_dump())
    assert "not known to be handwriting" in said
    assert "--augmentation handwriting" in said
    assert "degrees" not in said
    assert describe_policy(TrainingSettings().model_dump()) == "The training images were not augmented."


def test_fit_says_and_records_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run on an archive of unknown images is moved and scaled; log, manifest, report and card say so."""
    places = ["--models", str(tmp_path / "models"), "--runs", str(tmp_path / "runs"), "--name", "shapes"]
    small = ["--hidden", "16", "--epochs", "1", "--threads", "1"]
    assert main(["fit", "--data", archive(tmp_path / "shapes.npz"), *places, *small]) == 0
    assert "not known to be handwriting" in capsys.readouterr().err
    published = tmp_path / "models" / "shapes" / "1"
    stated = json.loads((published / "manifest.json").read_bytes())
    assert stated["hyperparameters"]["augmentation"] == "basic"
    assert stated["hyperparameters"]["translation"] == 2.0
    assert stated["hyperparameters"]["rotation"] == 0.0
    assert "--augmentation handwriting" in (published / "report.html").read_text()
    assert "not known to be handwriting" in (published / "MODEL_CARD.md").read_text()
