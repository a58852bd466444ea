"""The benches with training's options state in their help what they take where no option says otherwise."""

import argparse
from collections.abc import Callable
from typing import Any

import pytest

import bench.training.committee
import bench.training.loop
import bench.training.presets
import bench.training.sizes
from common.configuration import Layer, build
from tests.training.test_help import defaults_in, values
from training.presets import PRESETS
from training.settings import TrainingSettings


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no line of the help be broken."""
    monkeypatch.setenv("COLUMNS", "1000")


def stated(
    main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str], *words: str
) -> dict[str, str]:
    """Return the defaults that a bench's help states for training's settings."""
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    found = defaults_in(capsys.readouterr().out)
    return {name: text for name, text in found.items() if name in TrainingSettings.model_fields}


def built(found: dict[str, str]) -> TrainingSettings:
    """Return the settings that the stated defaults give, given as options."""
    return build(TrainingSettings, [Layer(values(found), "{name}")])


def test_the_training_bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`bench training` is of the default preset."""
    got: list[TrainingSettings] = []
    monkeypatch.setattr(bench.training.loop, "_compare", lambda settings, *_: got.append(settings))
    assert bench.training.loop.main([]) == 0
    assert built(stated(bench.training.loop.main, capsys)) == got[0]


@pytest.mark.parametrize("preset", PRESETS)
def test_one_preset_of_the_bench(
    preset: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bench presets --preset NAME` states that preset's values, and that it sets the seeds itself."""
    got: list[TrainingSettings] = []
    monkeypatch.setattr(bench.training.presets, "_measure", lambda _name, settings, *_: got.append(settings))
    assert bench.training.presets.main(["--preset", preset]) == 0
    found = stated(bench.training.presets.main, capsys, "--preset", preset)
    assert "--first-seed" in found.pop("seed")
    assert built(found) == got[0]


def test_all_presets_of_the_bench(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a preset each one's value is named where they differ."""
    found = stated(bench.training.presets.main, capsys)
    each = {name: TrainingSettings.model_validate(PRESETS[name]()) for name in PRESETS}
    assert found["epochs"] == "; ".join(f"{name} {settings.epochs}" for name, settings in each.items())
    assert found["accumulate"] == "1"


@pytest.mark.parametrize("words", [(), ("--preset", "course", "--student=strong")])
def test_the_committee_bench(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The members' values and the student's stand beside each other; the student sees the members' augmentation."""
    got: list[argparse.Namespace] = []
    monkeypatch.setattr(bench.training.committee, "_measure", lambda options, _: got.append(options))
    assert bench.training.committee.main([*words]) == 0
    sides: dict[str, Any] = dict(
        zip(("members", "student"), bench.training.committee._sides(got[0]), strict=True)
    )
    found = stated(bench.training.committee.main, capsys, *words)
    for name, settings in sides.items():
        own = {key: next((part.removeprefix(f"{name} ") for part in text.split("; ") if part.startswith(name)), text)
               for key, text in found.items()}  # fmt: skip
        assert built(own) == settings
    assert found["epochs"] == f"members {sides['members'].epochs}; student {sides['student'].epochs}"


def test_the_sizes_bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher's values and the students' stand beside each other; the seeds and hidden layers are the bench's."""
    got: list[argparse.Namespace] = []
    monkeypatch.setattr(bench.training.sizes, "_measure", lambda options, _: got.append(options))
    assert bench.training.sizes.main([]) == 0
    teacher, student = bench.training.sizes._sides(got[0])
    found = stated(bench.training.sizes.main, capsys)
    assert found["epochs"] == f"teacher {teacher.epochs}; students {student.epochs}"
    assert found["learning_rate"] == f"teacher {teacher.learning_rate}; students {student.learning_rate}"
    assert found["hidden"] == f"teacher {','.join(map(str, teacher.hidden))}; students by --sizes"
    assert (found["models"], found["batch_size"]) == (str(student.models), str(teacher.batch_size))


def test_an_unknown_preset_of_the_committee_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """With `--help` and without, a misspelt preset ends with 2 and the one that was meant."""
    for words in (["--preset", "recrd"], ["--student", "recrd", "--help"]):
        assert bench.training.committee.main(words) == 2
        assert "unknown preset recrd; did you mean 'record'?" in capsys.readouterr().err
