"""Settings from several layers: the last takes precedence, and errors name the setting and its source."""

import argparse
from typing import Annotated, Any, Literal, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

from common.configuration import (
    CommaSeparated,
    Layer,
    OrNone,
    Settings,
    add_options,
    build,
    early_options,
    for_help,
    from_arguments,
    from_environment,
    nearest,
    without_credentials,
)
from common.errors import ConfigurationError


class Oven(Settings):
    """Settings of every kind there is."""

    batch_size: Annotated[int, Field(gt=0, description="loaves at once")] = 12
    heat: Annotated[float, Field(ge=0, le=300, description="degrees; 100% of full heat is 300")] = 220.0
    shelves: Annotated[tuple[int, ...], CommaSeparated, Field(description="heights, in cm")] = (10, 20)
    timer: Annotated[int | None, OrNone, Field(description="minutes")] = None
    mode: Annotated[Literal["fan", "grill"], Field(description="how it heats")] = "fan"
    light: Annotated[bool, Field(description="lamp on")] = False
    name: Annotated[str, Field(description="what it is called")] = "oven"

    @model_validator(mode="after")
    def _grill_is_hot(self) -> Self:
        if self.mode == "grill" and self.heat < 200:
            raise ValueError("the grill needs 200 degrees")
        return self


def parse(*arguments: str) -> Layer:
    """Return the layer that a command line gives."""
    parser = argparse.ArgumentParser(prog="oven", allow_abbrev=False)
    add_options(parser, Oven)
    return from_arguments(Oven, parser.parse_args(arguments))


def rejected(*layers: Layer) -> str:
    """Return the sentence with which the layers are rejected."""
    with pytest.raises(ConfigurationError) as refusal:
        build(Oven, layers)
    return str(refusal.value)


def test_without_layers_there_are_the_defaults() -> None:
    """No layer, and only empty layers, give every default."""
    assert build(Oven, []) == build(Oven, [Layer({}, "nowhere"), parse()]) == Oven()


def test_later_layers_win_setting_by_setting() -> None:
    """The command line wins over the environment, the environment over a file, each by single settings."""
    file = Layer({"heat": 100, "batch_size": 1, "name": "file"}, "the file")
    environment = from_environment(Oven, {"OVEN_HEAT": "150", "OVEN_BATCH_SIZE": "2"}, "OVEN_")
    built = build(Oven, [file, environment, parse("--heat", "180.5")])
    assert (built.name, built.batch_size, built.heat) == ("file", 2, 180.5)


def test_a_default_is_not_a_value() -> None:
    """An option that was not given does not hide what another layer says."""
    assert build(Oven, [Layer({"light": True, "timer": 5}, "the file"), parse()]).light


def test_an_unknown_key_names_its_place_and_the_nearest() -> None:
    """A typing error in a file is answered with the file and the setting that was meant."""
    assert rejected(Layer({"batchsize": 4}, "{name} in the file")) == (
        "unknown setting batchsize in the file; did you mean 'batch_size'?"
    )


def test_a_key_like_no_other_lists_what_is_known() -> None:
    """Where nothing is near, all settings are listed."""
    sentence = rejected(Layer({"zzz": 4}, "{name} in the file"))
    assert all(name in sentence for name in Oven.model_fields)


@pytest.mark.parametrize("key", [5, None, True, ("a", "b"), 1.5])
def test_a_key_that_is_no_word_is_unknown(key: Any) -> None:
    """YAML keys can be numbers and more; they are unknown settings like any other."""
    sentence = rejected(Layer({key: 1}, "{name} in the file"))
    assert sentence.startswith(f"unknown setting {key} in the file")


def test_a_place_may_hold_braces() -> None:
    """A file whose own name has braces is named as it is."""
    place = "{name} in /data/{x}.yaml"
    assert rejected(Layer({"heat": -1}, place)).startswith("heat in /data/{x}.yaml: ")


def test_an_unknown_variable_names_the_nearest() -> None:
    """A typing error in the environment is an error and not a default."""
    with pytest.raises(ConfigurationError) as refusal:
        from_environment(Oven, {"OVEN_BATCHSIZE": "4"}, "OVEN_")
    assert (
        str(refusal.value) == "unknown environment variable OVEN_BATCHSIZE; did you mean 'OVEN_BATCH_SIZE'?"
    )


def test_variables_of_others_are_left_alone() -> None:
    """Variables without the prefix, with a reserved prefix, or with a reserved name are not settings."""
    environment = {"PATH": "x", "OVENS": "1", "OVEN_BAKER_NAME": "x", "OVEN_HOME": "/", "OVEN_NAME": "mine"}
    layer = from_environment(Oven, environment, "OVEN_", ("OVEN_BAKER_", "OVEN_HOME"))
    assert dict(layer.values) == {"name": "mine"}


def test_a_reserved_name_is_that_name_alone() -> None:
    """Reserving OVEN_HOME does not let OVEN_HOMES through."""
    with pytest.raises(ConfigurationError, match="OVEN_HOMES"):
        from_environment(Oven, {"OVEN_HOMES": "x"}, "OVEN_", ("OVEN_HOME",))


@pytest.mark.parametrize(
    ("word", "shelves"),
    [("5", (5,)), ("5,10", (5, 10)), (" 5 , 10 ,", (5, 10)), ("", ()), (",", ())],
)
def test_a_list_is_numbers_with_commas(word: str, shelves: tuple[int, ...]) -> None:
    """Lists fit in one word, on the command line and in the environment, the empty one too."""
    assert build(Oven, [parse("--shelves", word)]).shelves == shelves
    assert build(Oven, [from_environment(Oven, {"OVEN_SHELVES": word}, "OVEN_")]).shelves == shelves


def test_a_list_can_be_a_list() -> None:
    """A YAML list is a list."""
    assert build(Oven, [Layer({"shelves": [1, 2, 3]}, "the file")]).shelves == (1, 2, 3)


@pytest.mark.parametrize("word", ["5,x", "x,y"])
def test_wrong_items_of_a_list_are_one_sentence(word: str) -> None:
    """`5,x`, and `x,y` too, is rejected once, with the option's name and the whole value."""
    sentence = rejected(parse("--shelves", word))
    assert sentence.startswith("--shelves: ")
    assert sentence.endswith(f"it was {word!r}")
    assert len(sentence.splitlines()) == 1


@pytest.mark.parametrize("word", ["none", "None", "NULL", ""])
def test_none_can_be_written(word: str) -> None:
    """A setting that may be absent can be made absent again by a later layer."""
    assert build(Oven, [Layer({"timer": 5}, "the file"), parse("--timer", word)]).timer is None


@given(st.sampled_from(["batch_size", "heat", "mode", "light"]))
def test_none_is_no_value_for_other_settings(name: str) -> None:
    """A setting that may not be absent rejects `none`."""
    assert name in rejected(Layer({name: "none"}, "{name} in the file"))


@pytest.mark.parametrize(
    ("arguments", "light"), [((), False), (("--light",), True), (("--no-light",), False)]
)
def test_booleans_are_two_options(arguments: tuple[str, ...], light: bool) -> None:
    """`--light` and `--no-light` are both there, and the last one counts."""
    assert build(Oven, [parse(*arguments)]).light is light
    assert build(Oven, [parse("--light", *arguments)]).light is (light or not arguments)


@pytest.mark.parametrize(("word", "light"), [("1", True), ("true", True), ("off", False), ("no", False)])
def test_booleans_are_words_in_the_environment(word: str, light: bool) -> None:
    """The usual words for true and false are understood."""
    assert build(Oven, [from_environment(Oven, {"OVEN_LIGHT": word}, "OVEN_")]).light is light


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", "0"),
        ("batch_size", "4.5"),
        ("batch_size", "many"),
        ("batch_size", ""),
        ("heat", "nan"),
        ("heat", "inf"),
        ("heat", "301"),
        ("mode", "steam"),
        ("light", "maybe"),
        ("timer", "soon"),
    ],
)
def test_a_wrong_value_names_the_place_and_itself(name: str, value: str) -> None:
    """The sentence says which variable or option it was, and what stood there."""
    variable = f"OVEN_{name.upper()}"
    sentence = rejected(from_environment(Oven, {variable: value}, "OVEN_"))
    assert sentence.startswith(f"the environment variable {variable}: ")
    assert sentence.endswith(f"; it was {value!r}")
    assert len(sentence.splitlines()) == 1
    option = "--" + name.replace("_", "-")
    if name != "light":
        assert rejected(parse(option, value)) == sentence.replace(
            f"the environment variable {variable}", option
        )


def test_the_place_is_that_of_the_layer_that_won() -> None:
    """Where two layers give a value, the error names the one that counts."""
    file = Layer({"heat": 1000}, "{name} in the file")
    assert rejected(file, parse("--heat", "400")).startswith("--heat: ")
    assert build(Oven, [file, parse("--heat", "40")]).heat == 40


def test_every_wrong_value_has_its_line() -> None:
    """Two wrong values are two lines."""
    lines = rejected(parse("--heat", "x", "--batch-size", "y")).splitlines()
    assert sorted(line.split(":")[0] for line in lines) == ["--batch-size", "--heat"]


def test_settings_that_disagree_are_rejected_in_their_own_words() -> None:
    """A check over several settings speaks its sentence, without a library's prefix."""
    assert rejected(parse("--mode", "grill", "--heat", "50")) == "the grill needs 200 degrees"


def test_settings_cannot_be_changed() -> None:
    """Settings are frozen once they are built, and reject unknown names by themselves."""
    with pytest.raises(ValidationError, match="frozen"):
        setattr(build(Oven, []), "heat", 1.0)  # noqa: B010 - mypy knows it, too
    with pytest.raises(ValidationError, match="surplus"):
        Oven.model_validate({"surplus": 1})


def test_defaults_are_held_to_the_limits() -> None:
    """A default that its own limits forbid is an error at once."""

    class Broken(Settings):
        count: Annotated[int, Field(gt=0)] = 0

    with pytest.raises(ValidationError, match="greater than 0"):
        Broken()


def test_help_states_every_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    """The help names each setting, what it is, what may be given and what it is else."""
    with pytest.raises(SystemExit) as end:
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    for name, field in Oven.model_fields.items():
        assert "--" + name.replace("_", "-") in text
        assert field.description
        assert field.description in text
    for shown in (
        "--batch-size N",
        "--heat X",
        "--shelves A,B,...",
        "--timer N",
        "{fan,grill}",
        "(default: 12)",
        "(default: 10,20)",
        "(default: none)",
        "--light, --no-light",
    ):
        assert shown in text


def defaults(*layers: Layer) -> dict[str, str]:
    """Return what the help says in parentheses behind each setting."""
    parser = argparse.ArgumentParser()
    add_options(parser, Oven, layers)
    return {
        action.dest: action.help.partition("(default: ")[2].removesuffix(")")
        for action in parser._actions
        if action.help and "(default: " in action.help
    }


def test_help_states_the_last_layers_value_and_its_place() -> None:
    """What a run takes without an option is the last layer's, as in `build`; a field's own default needs no place."""
    file = Layer({"heat": 100, "shelves": [1, 2], "timer": None}, "{name} in the file")
    environment = from_environment(Oven, {"OVEN_HEAT": "150", "OVEN_NAME": ""}, "OVEN_")
    assert defaults(file, environment) == {
        "batch_size": "12",
        "heat": "150, from the environment variable OVEN_HEAT",
        "shelves": "1,2, from shelves in the file",
        "timer": "none, from timer in the file",
        "mode": "fan",
        "light": "False",
        "name": "empty, from the environment variable OVEN_NAME",
    }


def test_help_states_a_percent_sign_of_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    """A value with what argparse takes for a format is shown as it is."""
    parser = argparse.ArgumentParser()
    add_options(parser, Oven, [Layer({"name": "100%(s)"}, "a %d place")])
    parser.print_help()
    assert "(default: 100%(s), from a %d place)" in " ".join(capsys.readouterr().out.split())


def test_a_layer_for_help_is_empty_where_it_cannot_be_read() -> None:
    """A misspelt variable does not keep the help away."""
    assert not for_help(lambda: from_environment(Oven, {"OVEN_HEET": "1"}, "OVEN_")).values
    assert for_help(lambda: from_environment(Oven, {"OVEN_HEAT": "1"}, "OVEN_")).values == {"heat": "1"}


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([], []),
        (["--mode", "fan"], ["fan"]),
        (["--mode=fan", "--other", "x", "word", "--mode", "grill", "--help"], ["fan", "grill"]),
        (["--mode", "--help"], []),
        (["--mod", "fan"], []),
    ],
)
def test_early_options_are_found_among_all_others(arguments: list[str], found: list[str]) -> None:
    """Nothing that is wrong with a command line is said before its parser says it."""
    assert early_options(arguments, "--mode") == {"--mode": found}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("postgresql://me:secret@host/db", "postgresql://host/db"),
        ("postgresql://me:se/c@ret@host:5432/db", "postgresql://host:5432/db"),
        ("https://me@host/", "https://host/"),
        ("https://host/@me", "https://host/@me"),
        ("https://host:80/", "https://host:80/"),
        ("me@host", "me@host"),
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("postgresql://host/db?user=me&password=se?cret", "postgresql://host/db"),
        ("what?", "what?"),
    ],
)
def test_credentials_are_taken_out_of_urls(text: str, said: str) -> None:
    """User and password go, whatever characters the password has; what is no URL stays."""
    assert without_credentials(text) == said


def test_a_rejected_url_is_said_without_its_password() -> None:
    """The sentence about a wrong value does not bring a password into a log."""
    assert rejected(parse("--mode", "https://me:secret@host")).endswith("it was 'https://host'")


@given(st.text())
def test_nearest_never_fails(name: str) -> None:
    """Any misspelling is answered with a hint."""
    assert nearest(name, ["alpha", "beta"]).startswith("; ")
