"""The search space: the settings that a search varies and their ranges, in YAML with the settings' names."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import Trial

from common.configuration import Layer, build, nearest
from common.errors import ConfigurationError, one_line
from training.settings import IOSettings, RuntimeSettings, TrainingSettings

DEFAULT_SPACE = """\
# The default search space of `python -m training tune`; --space FILE replaces it.
# name: {low, high}             a range; log: true samples it on a logarithmic scale
# name: [a, b]                  a choice
# name: {by: other, a: ..., b: ...}   a range or choice for each value of another setting
# hidden: {layers, width}       the number of hidden layers, and the width of each
# Other settings keep their value from --config, the environment or an option.
hidden:
  layers: {low: 1, high: 3}
  width: {low: 64, high: 1024, log: true}
activation: [relu, leaky_relu, elu, gelu, tanh]
dropout: {low: 0.0, high: 0.6}
input_dropout: {low: 0.0, high: 0.3}
label_smoothing: {low: 0.0, high: 0.15}
batch_size: [64, 128, 256, 512]
schedule: [one_cycle, cosine, step]
optimizer: [adamw, sgd, muon]
learning_rate:
  by: optimizer
  adamw: {low: 0.0003, high: 0.01, log: true}
  adam: {low: 0.0003, high: 0.01, log: true}
  sgd: {low: 0.01, high: 0.3, log: true}
  muon: {low: 0.003, high: 0.1, log: true}
weight_decay:
  by: optimizer
  adamw: {low: 0.003, high: 0.5, log: true}
  adam: {low: 0.0000001, high: 0.0001, log: true}
  sgd: {low: 0.000001, high: 0.001, log: true}
  muon: {low: 0.003, high: 0.5, log: true}
"""
NOT_SEARCHED = frozenset(
    {*IOSettings.model_fields, *RuntimeSettings.model_fields, "teachers", "augmentation"}
)
"""Settings of data, files and device, with which trials would not be comparable. Of augmentation the limits can be
searched, but not the policy that sets them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """A range between two numbers, both included."""

    low: float
    high: float
    log: bool
    whole: bool
    """Integers only."""

    def suggest(self, trial: Trial, name: str) -> float | int:
        """Sample a value."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def samples(self) -> tuple[Any, ...]:
        """Return the values to validate: the two ends."""
        return (self.low, self.high)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A choice among values."""

    values: tuple[Any, ...]

    def suggest(self, trial: Trial, name: str) -> Any:
        """Sample a value."""
        return trial.suggest_categorical(name, self.values)

    def samples(self) -> tuple[Any, ...]:
        """Return the values to validate: all of them."""
        return self.values


@dataclass(frozen=True, kw_only=True, slots=True)
class HiddenLayers:
    """The number of hidden layers and their widths."""

    layers: Range
    width: Range

    def suggest(self, trial: Trial, name: str) -> tuple[int, ...]:
        """Sample the number of layers, then each width."""
        count = int(self.layers.suggest(trial, f"{name}.layers"))
        return tuple(int(self.width.suggest(trial, f"{name}.width{i}")) for i in range(1, count + 1))

    def samples(self) -> tuple[Any, ...]:
        """Return the values to validate: the smallest and the largest network."""
        ends = zip(self.layers.samples(), self.width.samples(), strict=True)
        return tuple((int(width),) * int(layers) for layers, width in ends)


Plain = Range | Choice | HiddenLayers


@dataclass(frozen=True, kw_only=True, slots=True)
class Branches:
    """A range or choice for each value of another setting."""

    by: str
    of: Mapping[str, Plain]


Space = Mapping[str, Plain | Branches]


def suggest(space: Space, trial: Trial, base: TrainingSettings) -> dict[str, Any]:
    """Sample a value for every setting in the space.

    Raises:
        ConfigurationError: a setting depends on another one with a value for which it has no range or choice.
    """
    chosen = {
        name: part.suggest(trial, name) for name, part in space.items() if not isinstance(part, Branches)
    }
    for name, part in space.items():
        if isinstance(part, Branches):
            value = str(chosen.get(part.by, getattr(base, part.by)))
            if value not in part.of:
                raise ConfigurationError(
                    f"{name} in the search space depends on {part.by}, but has no entry for {value!r}"
                )
            chosen[name] = part.of[value].suggest(trial, f"{name}.{value}")
    return chosen


def default_space(base: TrainingSettings, given: Collection[str]) -> Space:
    """Return the default space without the settings that the user has given."""
    space = _parse(yaml.safe_load(DEFAULT_SPACE), "the default space", base)
    return {name: part for name, part in space.items() if name not in given}


def read_space(path: Path, base: TrainingSettings) -> Space:
    """Read a space from a YAML file.

    Raises:
        ConfigurationError: it cannot be read, has a setting that does not exist or cannot be searched, or a value that
            is invalid for its setting.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path} cannot be read: {one_line(error)}") from None
    if not isinstance(content, dict) or not content:
        raise ConfigurationError(f"{path} is not a search space: `--show-space` prints one to start from")
    return _parse(content, str(path), base)


def _parse(content: Mapping[Any, Any], origin: str, base: TrainingSettings) -> Space:
    known = set(TrainingSettings.model_fields) - NOT_SEARCHED
    space: dict[str, Plain | Branches] = {}
    for key, spec in content.items():
        name = str(key)
        if name in NOT_SEARCHED:
            raise ConfigurationError(
                f"{name} in {origin} cannot be searched: its trials would not be comparable"
            )
        if name not in known:
            raise ConfigurationError(f"unknown setting {name} in {origin}{nearest(name, known)}")
        if isinstance(spec, dict) and "by" in spec:
            space[name] = _branches(name, spec, origin, base, known)
        else:
            space[name] = _plain(name, spec, origin, base, {})
    for name, part in space.items():
        if isinstance(part, Branches):
            _check_branches(name, part, space, origin, base)
    return space


def _branches(
    name: str, spec: Mapping[str, Any], origin: str, base: TrainingSettings, known: Collection[str]
) -> Branches:
    other = str(spec["by"])
    if other not in known:
        raise ConfigurationError(
            f"{name} in {origin} depends on an unknown setting {other}{nearest(other, known)}"
        )
    parts = {
        str(value): _plain(name, part, origin, base, {other: value})
        for value, part in spec.items()
        if value != "by"
    }
    return Branches(by=other, of=parts)


def _check_branches(name: str, part: Branches, space: Space, origin: str, base: TrainingSettings) -> None:
    other = space.get(part.by)
    values = other.samples() if isinstance(other, Choice) else (getattr(base, part.by),)
    if part.by == name or (other is not None and not isinstance(other, Choice)):
        raise ConfigurationError(f"{name} in {origin} depends on {part.by}, which is not a list of choices")
    missing = [str(value) for value in values if str(value) not in part.of]
    if missing:
        raise ConfigurationError(
            f"{name} in {origin} depends on {part.by}, but has no entry for {', '.join(missing)}"
        )


def _plain(
    name: str, spec: Any, origin: str, base: TrainingSettings, together_with: Mapping[str, Any]
) -> Plain:
    """Parse the entry of a setting, and validate its values."""

    def check(value: Any) -> None:
        fixed = base.model_dump() | dict(together_with)
        if name == "hidden":
            fixed["dropout"] = base.dropout[:1] if "dropout" not in together_with else fixed["dropout"]
        names = {n: value for n, value in fixed.items() if n in TrainingSettings.model_fields}
        build(TrainingSettings, [Layer(names, "{name}"), Layer({name: value}, f"{{name}} in {origin}")])

    part: Plain
    if isinstance(spec, list) and spec:
        part = Choice(values=tuple(",".join(map(str, v)) if isinstance(v, list) else v for v in spec))
        if any(isinstance(value, dict) for value in part.values):
            raise ConfigurationError(f"{name} in {origin}: a choice must be a plain value")
    elif isinstance(spec, dict) and name == "hidden" and set(spec) == {"layers", "width"}:
        part = HiddenLayers(
            layers=_range(f"{name}: layers", spec["layers"], origin, whole=True),
            width=_range(f"{name}: width", spec["width"], origin, whole=True),
        )
    elif isinstance(spec, dict):
        part = _range(name, spec, origin, whole=False)
        if float(part.low).is_integer() and float(part.high).is_integer() and not _allows(check, part):
            part = _range(name, spec, origin, whole=True)
    else:
        raise ConfigurationError(
            f"{name} in {origin} is {spec!r}: give [a, b, ...] or {{low: X, high: Y}}; give a single value in --config"
        )
    for value in part.samples():
        check(value)
    return part


def _allows(check: Any, part: Range) -> bool:
    """Return whether the setting accepts fractions between the two ends."""
    try:
        check(part.low + (part.high - part.low) / 2**0.5)
    except ConfigurationError:
        return False
    return True


def _range(name: str, spec: Any, origin: str, *, whole: bool) -> Range:
    if not isinstance(spec, dict) or not {"low", "high"} <= set(spec):
        raise ConfigurationError(f"{name} in {origin} is {spec!r}: give {{low: X, high: Y}}")
    unknown = sorted(map(str, set(spec) - {"low", "high", "log"}))
    if unknown:
        raise ConfigurationError(
            f"{name} in {origin}: unknown key {unknown[0]}{nearest(unknown[0], ('low', 'high', 'log'))}"
        )
    try:  # YAML 1.1 reads 1e-4 as text
        low, high = float(spec["low"]), float(spec["high"])
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"{name} in {origin}: low and high must be numbers; they were {spec}"
        ) from None
    log = spec.get("log", False)
    if not isinstance(log, bool) or not low < high or (log and low <= 0):
        raise ConfigurationError(
            f"{name} in {origin}: low must be below high, log true or false, and with log low must be above 0; "
            f"they were {spec}"
        )
    if whole and not (low.is_integer() and high.is_integer() and low >= 1):
        raise ConfigurationError(
            f"{name} in {origin}: low and high must be whole numbers from 1; they were {spec}"
        )
    return Range(low=int(low) if whole else low, high=int(high) if whole else high, log=log, whole=whole)
