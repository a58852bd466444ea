"""Typed settings from the command line, the environment and YAML, under one set of names.

A settings class is a frozen pydantic model whose fields carry their descriptions. The field `batch_size` is
`--batch-size` on the command line, `batch_size` in a YAML file and `PREFIX_BATCH_SIZE` in the environment. Later
layers override earlier ones, and an unknown key is an error that names the nearest known one.
"""

import argparse
import difflib
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from common.errors import ConfigurationError
from common.programs import named


class Settings(BaseModel):
    """The base of every settings class: frozen, without unknown keys or NaN, and with validated defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)
    synonyms: ClassVar[Mapping[str, str]] = {}
    """Names that other programs have for a setting, to its name here; an error about an unknown one suggests it."""


S = TypeVar("S", bound=Settings)


def _split(value: Any) -> Any:
    """Parse `512,256` (or an empty string) as a list, and a single number as a list of one."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int | float) else value


def none_where_said(value: Any) -> Any:
    """Parse an empty string, `none` or `null` as None, for optional settings."""
    return None if isinstance(value, str) and value.lower() in ("", "none", "null") else value


CommaSeparated = BeforeValidator(_split)
"""Use as `Annotated[tuple[int, ...], CommaSeparated]`: accepts `512,256` and `512` as well as a list."""
OrNone = BeforeValidator(none_where_said)
"""Use as `Annotated[int | None, OrNone]`: accepts `none` as well as None."""
_CREDENTIALS = re.compile(r"(?<=://)[^:/@]*(?::.*)?@", re.DOTALL)
"""Up to the last @, because database drivers accept passwords that contain an @ or a slash."""
_QUERY = re.compile(r"(?<=://)([^?]*)\?.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Layer:
    """Values of settings from one source."""

    values: Mapping[str, Any]
    origin: str
    """The source, in words; `{name}`, `{NAME}` and `{option}` stand for the setting's name."""

    def place_of(self, name: str) -> str:
        """Return where the value of the setting `name` comes from, in words."""
        place = self.origin  # not str.format: a file name may contain braces
        for field, word in (("{name}", name), ("{NAME}", name.upper()), ("{option}", name.replace("_", "-"))):
            place = place.replace(field, word)
        return place


def build(settings: type[S], layers: Sequence[Layer]) -> S:
    """Merge the layers, the last taking precedence, and validate the result.

    Raises:
        ConfigurationError: a key is unknown, or values are invalid: one line for each.
    """
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for layer in layers:
        for name, value in layer.values.items():
            if name not in settings.model_fields:
                word = str(name)  # a YAML key can be a number
                raise ConfigurationError(
                    f"unknown setting {layer.place_of(word)}"
                    f"{nearest(word, settings.model_fields, settings.synonyms)}"
                )
            merged[name] = value
            origin[name] = layer.place_of(name)
    try:
        return settings.model_validate(merged)
    except ValidationError as error:
        raise ConfigurationError("\n".join(dict.fromkeys(_sentences(error, merged, origin)))) from None


def nearest(name: str, known: Iterable[str], synonyms: Mapping[str, str] = types.MappingProxyType({})) -> str:
    """Return `; did you mean 'x'?` with the known name nearest to `name`, or else a list of the known names.

    Args:
        name: the unknown name.
        known: the known names.
        synonyms: other names to known ones, which come before the nearest spelling.
    """
    if name in synonyms:
        return f"; did you mean '{synonyms[name]}'?"
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else f"; known are: {', '.join(choices)}"


def from_environment(
    settings: type[Settings],
    environment: Mapping[str, str],
    prefix: str,
    reserved: Sequence[str] = (),
) -> Layer:
    """Return the settings in the environment variables that start with `prefix`.

    Args:
        settings: the class whose fields the variables name.
        environment: usually `os.environ`.
        prefix: with its trailing underscore, such as `GLYPH_`.
        reserved: longer prefixes (with a trailing underscore) and whole names that are not settings of this class.

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
            synonyms = {
                f"{prefix}{other.upper()}": f"{prefix}{own.upper()}"
                for other, own in settings.synonyms.items()
            }
            raise ConfigurationError(
                f"unknown environment variable {variable}{nearest(variable, names, synonyms)}"
            )
        values[names[variable]] = value
    return Layer(values, f"the environment variable {prefix}{{NAME}}")


def add_options(
    parser: argparse.ArgumentParser, settings: type[Settings], layers: Sequence[Layer] = ()
) -> None:
    """Add an option for each setting to the parser, with the description and the default as its help.

    Args:
        parser: the parser to add to.
        settings: the class whose fields become options.
        layers: the layers that set the defaults, as for `build`, where they are more than the fields' own.
    """
    for name, field in settings.model_fields.items():
        option = _option(name)
        value, place = default_of(settings, name, layers)
        default = f"{text_of(value)}, from {place}" if place else text_of(value)
        text = f"{named(field.description or '')} (default: {default})".replace("%", "%%")
        kind: dict[str, Any] = (
            {"action": argparse.BooleanOptionalAction}
            if field.annotation is bool
            else {"metavar": _metavar(field)}
        )
        parser.add_argument(option, dest=name, default=argparse.SUPPRESS, help=text, **kind)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def default_of(settings: type[Settings], name: str, layers: Sequence[Layer]) -> tuple[Any, str]:
    """Return the value of a setting that no option sets, not validated, and its source ("" for the field's default)."""
    for layer in reversed(layers):
        if name in layer.values:
            return layer.values[name], layer.place_of(name)
    return settings.model_fields[name].default, ""


def for_help(read: Callable[[], Layer]) -> Layer:
    """Return the layer from `read`, or an empty one if it raises, so that invalid settings do not prevent `--help`."""
    try:
        return read()
    except ConfigurationError:
        return Layer({}, "")


def early_options(arguments: Sequence[str], *options: str) -> dict[str, list[str]]:
    """Return the values of some options, for what must be known before the command line's parser is built.

    Errors are left for that parser to report.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in options:
        early.add_argument(option, dest=option, action="append", nargs="?")
    found = vars(early.parse_known_args(arguments)[0])
    return {option: [value for value in found[option] or () if value is not None] for option in options}


def without_credentials(text: str) -> str:
    """Return a text without user name, password and query, which may hold a password too, if it is a URL."""
    return _QUERY.sub(r"\1", _CREDENTIALS.sub("", text))


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, settings: type[Settings]
) -> argparse.Namespace:
    """Parse a command line whose options are mostly those of `settings`.

    Raises:
        ConfigurationError: an option or argument is unknown; the message names the nearest option.
    """
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        word = unknown[0].partition("=")[0]
        known = [_option(name) for name in settings.model_fields]
        synonyms = {_option(other): _option(own) for other, own in settings.synonyms.items()}
        asked = _option(word.lstrip("-").lower()) if word.startswith("-") else ""
        hint = nearest(asked, known, synonyms) if asked else ""
        raise ConfigurationError(f"unknown option {word}{hint}")
    return options


def from_arguments(settings: type[Settings], namespace: argparse.Namespace) -> Layer:
    """Return the settings that the command line sets."""
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
    """Return a default as `--help` shows it."""
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
