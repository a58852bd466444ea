"""`--help` shows the defaults of a run: of the preset, a file and the environment."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.configuration import Layer, build
from training.__main__ import COMMANDS, main
from training.presets import PRESETS
from training.search.space import default_space
from training.search_settings import StudySettings, TuneSettings
from training.settings import TrainingSettings
from training.study import designs

EMPTY = {"none": "", "empty": ""}


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no line of the help be broken."""
    monkeypatch.setenv("COLUMNS", "1000")


def stated(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, str]:
    """Return the defaults that a command's help states."""
    with pytest.raises(SystemExit) as end:
        main([*words])
    assert end.value.code == 0
    return defaults_in(capsys.readouterr().out)


def defaults_in(shown: str) -> dict[str, str]:
    """Return the default that a help states for each setting, and whence, as it is written there."""
    found = {}
    for option in re.split(r"\n  (?=--)", shown)[1:]:
        text = " ".join(option.partition("\n\n")[0].split())
        name = re.split(r"[ ,]", text)[0].removeprefix("--").replace("-", "_")
        if "(default: " in text and name != "preset":
            assert text.endswith(")")
            found[name] = text.rpartition("(default: ")[2][:-1]
    return found


def values(found: Mapping[str, str]) -> dict[str, str]:
    """Return the stated defaults as an option would take them, without what follows from the augmentation policy."""
    own = {name: text for name, text in found.items() if ", from the augmentation policy " not in text}
    plain = {name: text.partition(", from ")[0] for name, text in own.items()}
    return {name: EMPTY.get(text, text) for name, text in plain.items()}


def used(monkeypatch: pytest.MonkeyPatch, command: str, *words: str) -> tuple[Any, frozenset[str]]:
    """Return the settings with which a command would work, and the names of those that the user gave."""
    got: list[tuple[Any, frozenset[str]]] = []
    fit = SimpleNamespace(run=lambda settings, _: got.append((settings, frozenset())))
    monkeypatch.setitem(sys.modules, "training.job", fit)
    tune = SimpleNamespace(search=lambda settings, given, _: got.append((settings, given)))
    monkeypatch.setitem(sys.modules, "training.search.tune", tune)
    study = SimpleNamespace(study=lambda _names, settings, given, _: got.append((settings, given)))
    monkeypatch.setitem(sys.modules, "training.study.run", study)
    assert main([command, *words, *(["all"] if command == "study" else [])]) == 0
    return got[0]


@pytest.mark.parametrize("preset", [None, *PRESETS])
def test_the_defaults_are_those_of_the_preset(
    preset: str | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the help states, given as options, is the run without options; each value of the preset says so."""
    words = ["--preset", preset] if preset else []
    found = stated(capsys, "fit", *words, "--help")
    assert set(found) == set(TrainingSettings.model_fields)
    settings, _ = used(monkeypatch, "fit", *words)
    assert build(TrainingSettings, [Layer(values(found), "{name}")]) == settings
    said = {
        name for name, text in found.items() if text.endswith(f", from the preset '{preset or 'default'}'")
    }
    assert said == set(PRESETS[preset or "default"]())


@pytest.mark.parametrize("words", [("--help", "--preset", "strong"), ("--preset=strong", "-h")])
def test_the_preset_counts_wherever_it_stands(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Before `--help` or behind it, and with an equals sign."""
    assert stated(capsys, "fit", *words) == stated(capsys, "fit", "--preset", "strong", "--help")


def test_file_and_environment_count_and_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file's values and the environment's are stated with their place, and are those of the run."""
    file = tmp_path / "run.yaml"
    file.write_text("epochs: 7\nhidden: [9, 8]\nseed: 5\n")
    monkeypatch.setenv("GLYPH_TRAIN_SEED", "6")
    found = stated(capsys, "fit", "--config", str(file), "--help")
    assert found["epochs"] == f"7, from epochs in {file}"
    assert found["hidden"] == f"9,8, from hidden in {file}"
    assert found["seed"] == "6, from the environment variable GLYPH_TRAIN_SEED"
    settings, _ = used(monkeypatch, "fit", "--config", str(file))
    assert build(TrainingSettings, [Layer(values(found), "{name}")]) == settings


def test_limits_that_the_augmentation_policy_sets_are_stated(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy's limits stand where none are given; `auto` has two kinds of data sets."""
    found = stated(capsys, "fit", "--help")
    assert found["rotation"] == "10 for handwriting, else 0, from the augmentation policy 'auto'"
    assert found["translation"] == "2, from the augmentation policy 'auto'"
    assert found["shear"] == "0.0"
    monkeypatch.setenv("GLYPH_TRAIN_AUGMENTATION", "handwriting")
    monkeypatch.setenv("GLYPH_TRAIN_ROTATION", "5")
    found = stated(capsys, "fit", "--help")
    assert found["rotation"] == "5, from the environment variable GLYPH_TRAIN_ROTATION"
    assert found["elastic_alpha"] == "34, from the augmentation policy 'handwriting'"
    assert stated(capsys, "fit", "--preset", "record", "--help")["translation"].startswith("2")


def test_other_options_are_no_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    """An option beside `--help` changes nothing of what holds without it."""
    assert stated(capsys, "fit", "--epochs", "1", "--help") == stated(capsys, "fit", "--help")


@pytest.mark.parametrize(
    ("scale", "place"), [("quick", "the scale 'quick'"), ("full", "the preset 'strong'")]
)
def test_a_study_states_what_its_scale_sets(
    scale: str, place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quick scale's epochs and layers stand before the preset's, as in the run."""
    words = ("--preset", "strong", *(() if scale == "quick" else ("--scale", scale)))
    found = stated(capsys, "study", *words, "--help")
    assert set(found) == set(StudySettings.model_fields)
    assert all(found[name].endswith(f", from {place}") for name in designs.QUICK)
    base = designs.study_base(*used(monkeypatch, "study", *words), 60_000, 10).base
    own = {name: text for name, text in values(found).items() if name in TrainingSettings.model_fields}
    assert build(TrainingSettings, [Layer(own, "{name}")]) == base


def test_a_study_states_what_the_user_set_before_what_its_scale_sets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quick scale leaves what a variable sets; the scale itself can be set by one."""
    monkeypatch.setenv("GLYPH_TRAIN_EPOCHS", "77")
    assert stated(capsys, "study", "--help")["epochs"].startswith("77, ")
    monkeypatch.setenv("GLYPH_TRAIN_SCALE", "full")
    assert stated(capsys, "study", "--help")["hidden"].endswith("the preset 'default'")


def test_a_search_states_what_it_searches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings of the space are searched, but for those that the user set; the others are as in `fit`."""
    monkeypatch.setenv("GLYPH_TRAIN_BATCH_SIZE", "64")
    found = stated(capsys, "tune", "--help")
    assert set(found) == set(TuneSettings.model_fields)
    settings, given = used(monkeypatch, "tune")
    base = TrainingSettings.model_validate({n: getattr(settings, n) for n in TrainingSettings.model_fields})
    searched = {name for name, text in found.items() if text == "searched, from the default space"}
    assert searched == set(default_space(base, given))
    own = {
        n: text
        for n, text in values(found).items()
        if n not in searched and n in TrainingSettings.model_fields
    }
    kept = {name: getattr(settings, name) for name in searched}
    assert build(TrainingSettings, [Layer(own | kept, "{name}")]) == base
    space = tmp_path / "space.yaml"
    space.write_text("epochs: [1, 2]\n")
    found = stated(capsys, "tune", "--space", str(space), "--help")
    assert [name for name, text in found.items() if text.startswith("searched")] == ["epochs"]
    monkeypatch.setenv("GLYPH_TRAIN_SPACE", "none")
    assert stated(capsys, "tune", "--help")["optimizer"] == "searched, from the default space"


def test_a_password_in_a_url_is_not_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Help is pasted into issues: of a database's URL it has neither user nor password."""
    monkeypatch.setenv("GLYPH_TRAIN_STORAGE", "postgresql://me:hunter2@host/db")
    found = stated(capsys, "tune", "--help")
    assert found["storage"] == "postgresql://host/db, from the environment variable GLYPH_TRAIN_STORAGE"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("variable", ["GLYPH_TRAIN_EPOCH", "GLYPH_TRAIN_EPOCHS"])
def test_a_wrong_variable_does_not_keep_the_help_away(
    command: str, variable: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a variable is misspelt or has no number, the help says what it should have been."""
    monkeypatch.setenv(variable, "many")
    assert "epochs" in stated(capsys, command, "--help")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--preset", "defualt"], "unknown preset defualt; did you mean 'default'?"),
        (["--config", "nowhere.yaml"], "nowhere.yaml cannot be read"),
    ],
)
def test_defaults_of_nothing_are_rejected(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Help for a preset or a file that is not there would state something else's defaults."""
    assert main(["fit", *words, "--help"]) == 2
    assert said in capsys.readouterr().err
