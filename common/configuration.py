"""Settings from several places, by one set of names: typed, frozen, and strict about unknown keys.

A settings class is a frozen pydantic model whose fields carry their description. The same field
`batch_size` is `--batch-size` on the command line, `batch_size` in a YAML file and
`PREFIX_BATCH_SIZE` in the environment; later layers win over earlier ones. An unknown key is an
error that names the nearest known one.
"""

import argparse
import difflib
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from common.errors import ConfigurationError


class Settings(BaseModel):
    """The base of every settings class: frozen, no unknown keys, no NaN, defaults checked too."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


S = TypeVar("S", bound=Settings)


def _split(value: Any) -> Any:
    """Read `512,256` (or nothing at all) as a list, and one number as a list of one."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int | float) else value


def none_where_said(value: Any) -> Any:
    """Read an empty word, `none` or `null` as None, for settings that may be absent."""
    return None if isinstance(value, str) and value.lower() in ("", "none", "null") else value


CommaSeparated = BeforeValidator(_split)
"""Put in `Annotated[tuple[int, ...], CommaSeparated]`: accepts `512,256` and `512` beside a real list."""
OrNone = BeforeValidator(none_where_said)
"""Put in `Annotated[int | None, OrNone]`: accepts `none` beside a real None."""
_CREDENTIALS = re.compile(r"(?<=://)[^:/@]*(?::.*)?@", re.DOTALL)
"""To the last @: database drivers take passwords with an @ or a slash in them."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Values of settings that came from one place."""

    values: Mapping[str, Any]
    origin: str
    """Where from, in words; `{name}`, `{NAME}` and `{option}` in it stand for the setting's name."""

    def place_of(self, name: str) -> str:
        """Say where the value of the setting `name` came from."""
        place = self.origin  # not str.format: a file's name may hold braces of its own
        for field, word in (("{name}", name), ("{NAME}", name.upper()), ("{option}", name.replace("_", "-"))):
            place = place.replace(field, word)
        return place


def build(settings: type[S], layers: Sequence[Layer]) -> S:
    """Merge the layers, the last one winning, and validate.

    Raises:
        ConfigurationError: a key is unknown or a value is not allowed; one line for each.
    """
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for layer in layers:
        for name, value in layer.values.items():
            if name not in settings.model_fields:
                word = str(name)  # a YAML key can be a number
                raise ConfigurationError(
                    f"unknown setting {layer.place_of(word)}{nearest(word, settings.model_fields)}"
                )
            merged[name] = value
            origin[name] = layer.place_of(name)
    try:
        return settings.model_validate(merged)
    except ValidationError as error:
        raise ConfigurationError("\n".join(dict.fromkeys(_sentences(error, merged, origin)))) from None


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known name nearest to `name`, else list what is known."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else f"; known are: {', '.join(choices)}"


def from_environment(
    settings: type[Settings],
    environment: Mapping[str, str],
    prefix: str,
    reserved: Sequence[str] = (),
) -> Layer:
    """Collect the variables that start with `prefix`.

    Args:
        settings: whose fields the variables name.
        environment: usually `os.environ`.
        prefix: with its last underscore, as in `GLYPH_`.
        reserved: longer prefixes (they end with an underscore), and whole names, that belong to
            somebody else.

    Raises:
        ConfigurationError: a variable with the prefix names no setting.
    """
    names = {f"{prefix}{field.upper()}": field for field in settings.model_fields}
    others = tuple(name for name in reserved if name.endswith("_"))
    values = {}
    for variable, value in environment.items():
        if not variable.startswith(prefix) or variable.startswith(others) or variable in reserved:
            continue
        if variable not in names:
            raise ConfigurationError(f"unknown environment variable {variable}{nearest(variable, names)}")
        values[names[variable]] = value
    return Layer(values, f"the environment variable {prefix}{{NAME}}")


def add_options(
    parser: argparse.ArgumentParser, settings: type[Settings], layers: Sequence[Layer] = ()
) -> None:
    """Give the parser one option for each setting, with its description and default as help.

    Args:
        parser: gets the options.
        settings: whose fields they are.
        layers: what a run without options takes its settings from, as for `build`, where that is more
            than the fields' own defaults.
    """
    for name, field in settings.model_fields.items():
        option = "--" + name.replace("_", "-")
        value, place = default_of(settings, name, layers)
        default = f"{text_of(value)}, from {place}" if place else text_of(value)
        text = f"{field.description} (default: {default})".replace("%", "%%")
        kind: dict[str, Any] = (
            {"action": argparse.BooleanOptionalAction}
            if field.annotation is bool
            else {"metavar": _metavar(field)}
        )
        parser.add_argument(option, dest=name, default=argparse.SUPPRESS, help=text, **kind)


def default_of(settings: type[Settings], name: str, layers: Sequence[Layer]) -> tuple[Any, str]:
    """Return what a setting is where no option gives it, not validated, and whence: empty for its own default."""
    for layer in reversed(layers):
        if name in layer.values:
            return layer.values[name], layer.place_of(name)
    return settings.model_fields[name].default, ""


def for_help(read: Callable[[], Layer]) -> Layer:
    """Return the layer that `read` gives, or an empty one where it raises: help is shown whatever is set wrongly."""
    try:
        return read()
    except ConfigurationError:
        return Layer({}, "")


def early_options(arguments: Sequence[str], *options: str) -> dict[str, list[str]]:
    """Return the values that a command line gives some options, for what must be known before its parser is made.

    What is wrong with it, the parser says.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in options:
        early.add_argument(option, dest=option, action="append", nargs="?")
    found = vars(early.parse_known_args(arguments)[0])
    return {option: [value for value in found[option] or () if value is not None] for option in options}


def without_credentials(text: str) -> str:
    """Return a text, and where it is a URL that holds a user's name and password, the URL without them."""
    return _CREDENTIALS.sub("", text)


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, settings: type[Settings]
) -> argparse.Namespace:
    """Parse a command line whose options are mostly those of `settings`.

    Raises:
        ConfigurationError: an option or word is unknown; it says which option is nearest.
    """
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        word = unknown[0].partition("=")[0]
        known = ["--" + name.replace("_", "-") for name in settings.model_fields]
        hint = nearest(word, known) if word.startswith("-") else ""
        raise ConfigurationError(f"unknown option {word}{hint}")
    return options


def from_arguments(settings: type[Settings], namespace: argparse.Namespace) -> Layer:
    """Collect the options that were given on the command line."""
    given = {name: value for name, value in vars(namespace).items() if name in settings.model_fields}
    return Layer(given, "--{option}")


def _metavar(field: FieldInfo) -> str:
    annotation = field.annotation
    choices = _choices(annotation)
    if choices:
        return "{" + ",".join(choices) + "}"
    if typing.get_origin(annotation) is tuple:
        return "A,B,..."
    return {int: "N", float: "X", str: "TEXT"}.get(_plain(annotation), "VALUE")


def _plain(annotation: Any) -> Any:
    """Return the type inside `Annotated[...]` and `... | None`."""
    if typing.get_origin(annotation) is Annotated:
        return _plain(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return _plain(next(a for a in typing.get_args(annotation) if a is not type(None)))
    return annotation


def _choices(annotation: Any) -> list[str]:
    plain = _plain(annotation)
    return [str(c) for c in typing.get_args(plain)] if typing.get_origin(plain) is typing.Literal else []


def text_of(default: Any) -> str:
    """Return a default as help states it."""
    if isinstance(default, tuple | list):
        return ",".join(str(part) for part in default) or "none"
    return "none" if default is None else without_credentials(str(default)) or "empty"


def _sentences(error: ValidationError, merged: Mapping[str, Any], origin: Mapping[str, str]) -> Iterable[str]:
    for problem in error.errors():
        message = problem["msg"].removeprefix("Value error, ")
        if not problem["loc"]:
            yield message
            continue
        name = str(problem["loc"][0])
        place = origin.get(name, f"the setting '{name}'")
        value = merged.get(name)
        said = without_credentials(value) if isinstance(value, str) else value  # errors are logged
        yield f"{place}: {message[0].lower()}{message[1:]}; it was {said!r}"
