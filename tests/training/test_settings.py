"""The training job's settings and command line: every misuse ends with 2 and a sentence, before any work."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.conftest import ROOT
from training.__main__ import main
from training.presets import PRESETS
from training.settings import ENVIRONMENT_PREFIX, TrainingSettings

COMMANDS = ("fit", "data")


@pytest.fixture(autouse=True)
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be trained or fetched in this process, should a wrong setting be let through."""

    def reject(*_: object) -> None:
        pytest.fail("the job was started")

    monkeypatch.setitem(sys.modules, "training.job", SimpleNamespace(run=reject))
    monkeypatch.setitem(sys.modules, "training.data.mnist_download", SimpleNamespace(fetch_mnist=reject))


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m training` and return how it ended."""
    return subprocess.run(
        [sys.executable, "-m", "training", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def is_one_sentence(text: str) -> bool:
    """Tell whether a program's standard error is one line that says what was wrong."""
    return len(text.splitlines()) == 1 and text.startswith("error: ") and "Traceback" not in text


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_every_option_with_its_meaning_and_default(name: str) -> None:
    """A real process prints each setting's option and description, and how it is named elsewhere."""
    done = command(name, "--help", COLUMNS="200")
    assert (done.returncode, done.stderr) == (0, "")
    text = " ".join(done.stdout.split())
    for field, info in TrainingSettings.model_fields.items():
        assert f"--{field.replace('_', '-')}" in done.stdout
        assert info.description
        assert " ".join(info.description.split()) in text
    assert f"{ENVIRONMENT_PREFIX}BATCH_SIZE" in text
    assert all(preset in text for preset in PRESETS)


def test_every_default_is_allowed() -> None:
    """Every default passes its own limits."""
    TrainingSettings()


def test_an_unknown_option_ends_with_2() -> None:
    """A real process rejects a misspelt option by name, without a traceback."""
    done = command("fit", "--epoch", "3")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "--epoch" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_an_unknown_variable_ends_with_2_and_a_sentence() -> None:
    """A real process rejects a misspelt variable and names the nearest."""
    done = command("fit", GLYPH_TRAIN_EPOCH="3")
    assert (done.returncode, done.stdout) == (2, "")
    assert is_one_sentence(done.stderr)
    assert "did you mean 'GLYPH_TRAIN_EPOCHS'?" in done.stderr


def test_a_wrong_value_ends_with_2_and_a_sentence() -> None:
    """A real process rejects a value out of range and says whose it was."""
    done = command("fit", "--epochs", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert is_one_sentence(done.stderr)
    assert "--epochs: " in done.stderr
    assert done.stderr.endswith("it was '0'\n")


WRONG = (
    ("epochs", "-1"),
    ("epochs", "3.5"),
    ("epochs", "ten"),
    ("epochs", ""),
    ("batch_size", "0"),
    ("learning_rate", "0"),
    ("learning_rate", "nan"),
    ("learning_rate", "inf"),
    ("dropout", "1"),
    ("dropout", "-0.1"),
    ("dropout", "1.5"),
    ("hidden", "512,0"),
    ("hidden", "512;256"),
    ("hidden", "a,b"),
    ("weight_decay", "-1"),
    ("max_norm", "0"),
    ("clip", "-1"),
    ("label_smoothing", "1"),
    ("patience", "-1"),
    ("precision", "float64"),
    ("validation", "0"),
    ("seed", "-1"),
    ("seed", str(2**31)),
    ("device", "tpu"),
    ("threads", "-1"),
    ("name", "../elsewhere"),
    ("name", "Capital"),
    ("name", "x" * 64),
    ("name", "a/b"),
)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(("field", "value"), WRONG)
def test_each_limit_is_kept(
    field: str, value: str, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value out of range is rejected, as an option and as a variable, with its place and itself."""
    option = f"--{field.replace('_', '-')}"
    assert main([name, f"{option}={value}"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert is_one_sentence(err)
    assert err.startswith(f"error: {option}: ")
    variable = f"{ENVIRONMENT_PREFIX}{field.upper()}"
    monkeypatch.setenv(variable, value)
    assert main([name]) == 2
    assert f"error: the environment variable {variable}: " in capsys.readouterr().err


def test_more_layers_than_train_are_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    """Sixty-five hidden layers are rejected by name."""
    assert main(["fit", "--hidden", ",".join(["8"] * 65)]) == 2
    assert "more than 64 layers" in capsys.readouterr().err


def test_an_unknown_preset_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt preset is answered with the one that was meant."""
    assert main(["fit", "--preset", "defualt"]) == 2
    assert "unknown preset defualt; did you mean 'default'?" in capsys.readouterr().err


def test_the_command_line_wins_over_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two wrong values, the command line's is the one that is rejected."""
    monkeypatch.setenv(f"{ENVIRONMENT_PREFIX}EPOCHS", "-7")
    assert main(["fit", "--epochs", "-8"]) == 2
    assert "--epochs: " in (err := capsys.readouterr().err)
    assert "'-8'" in err


@pytest.mark.parametrize("arguments", [(), ("train",), ("fit", "--epochs")])
def test_misuse_of_the_command_line_ends_with_2(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """No command, an unknown one and a missing value are misuse, and the usage is shown."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code == 2
    assert "usage: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("surplus", "unknown option surplus\n"),
        ("--epoch", "did you mean '--epochs'?"),
        ("--hiden=5", "'--hidden'?"),
    ],
)
def test_an_unknown_option_is_one_sentence(word: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A word too many is named, and so is the option nearest to a wrong one."""
    assert main(["fit", word]) == 2
    error = capsys.readouterr().err
    assert hint in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_allowed(preset: str) -> None:
    """A preset holds settings that exist, within their limits, and says in its docstring how to run it."""
    TrainingSettings.model_validate(PRESETS[preset]())
    assert f"--preset {preset}" in (PRESETS[preset].__doc__ or "")


@given(st.text(max_size=70))
def test_a_model_name_is_one_directory(name: str) -> None:
    """Whatever name is accepted is a plain directory name, which cannot lead out of the repository."""
    try:
        accepted = TrainingSettings(name=name).name
    except ValidationError:
        return
    if accepted is None:  # "none" is the data set's name, which goes the same way
        return
    assert (Path("models") / accepted).parts == ("models", accepted)
    assert not accepted.startswith(".")


def test_settings_survive_the_manifest() -> None:
    """What the manifest records as hyperparameters builds the same settings again."""
    chosen = TrainingSettings(hidden=(64,), learning_rate=0.1 + 0.2, models=Path("somewhere/else"))
    assert TrainingSettings.model_validate(chosen.model_dump(mode="json")) == chosen
    assert TrainingSettings.model_validate_json(chosen.model_dump_json()) == chosen


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--lr", "--learning-rate"),
        ("-lr", "--learning-rate"),
        ("--LR", "--learning-rate"),
        ("--bs", "--batch-size"),
        ("--batch", "--batch-size"),
        ("--wd", "--weight-decay"),
        ("--dropout-rate", "--dropout"),
        ("--dropout_rate", "--dropout"),
        ("--num-epochs", "--epochs"),
        ("--optim", "--optimizer"),
        ("--val-split", "--validation"),
        ("--force", "--restart"),
    ],
)
def test_the_usual_name_of_an_option_is_answered_with_ours(
    word: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of names that other programs have, spelling alone would suggest nothing or another setting."""
    assert main(["fit", word, "1"]) == 2
    assert f"unknown option {word}; did you mean '{meant}'?" in capsys.readouterr().err


def test_the_usual_name_of_a_setting_is_answered_in_files_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the spelling of each."""
    (tmp_path / "run.yaml").write_text("lr: 1")
    assert main(["fit", "--config", str(tmp_path / "run.yaml")]) == 2
    assert "run.yaml; did you mean 'learning_rate'?" in capsys.readouterr().err
    monkeypatch.setenv("GLYPH_TRAIN_BS", "1")
    assert main(["fit"]) == 2
    assert "did you mean 'GLYPH_TRAIN_BATCH_SIZE'?" in capsys.readouterr().err


def test_the_first_layer_is_rounded_unless_it_is_set_or_there_is_nothing_to_gain() -> None:
    """Training for a rounding that does not follow is a contradiction, and said; softmax regression is left alone."""
    assert TrainingSettings().quantises
    assert not TrainingSettings(first_layer="float32").quantises
    assert not TrainingSettings(hidden=(), straight_through=2).quantises
    assert TrainingSettings(straight_through=2).quantises
    with pytest.raises(ValidationError, match="straight_through trains for a first layer of int8"):
        TrainingSettings(first_layer="float32", straight_through=2)


def test_synonyms_are_of_settings_and_no_settings_themselves() -> None:
    """Else one would never be suggested, or lead nowhere."""
    fields = set(TrainingSettings.model_fields)
    assert set(TrainingSettings.synonyms.values()) <= fields
    assert set(TrainingSettings.synonyms).isdisjoint(fields)
