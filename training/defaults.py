"""The sources of settings that no option gives, for a run and for its `--help`: presets, files, the environment."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from common.configuration import (
    Layer,
    default_of,
    early_options,
    for_help,
    from_environment,
    nearest,
    none_where_said,
)
from common.errors import ConfigurationError
from training.augmentation.policy import described_limits
from training.presets import PRESETS
from training.search_settings import StudySettings, TuneSettings
from training.settings import ENVIRONMENT_PREFIX, TrainingSettings

DEFAULT_PRESET = "default"


def preset_layer(name: str) -> Layer:
    """Return the settings of a preset.

    Raises:
        ConfigurationError: there is no such preset; the message names the nearest one.
    """
    if name not in PRESETS:
        raise ConfigurationError(f"unknown preset {name}{nearest(name, PRESETS)}")
    return Layer(PRESETS[name](), f"the preset '{name}'")


def file_layer(path: Path | None) -> Layer:
    """Read a YAML file of settings; None gives an empty layer.

    Raises:
        ConfigurationError: the file cannot be read, or is not a mapping of names to values.
    """
    if path is None:
        return Layer({}, "")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ConfigurationError(f"{path} is not a mapping: write one 'name: value' a line")
    return Layer(values, f"{{name}} in {path}")


def environment_layer(kind: type[TrainingSettings]) -> Layer:
    """Return the settings in this process's environment.

    Raises:
        ConfigurationError: a variable names no setting; the message names the nearest one.
    """
    return from_environment(kind, os.environ, ENVIRONMENT_PREFIX)


def shown_layers(kind: type[TrainingSettings], words: Sequence[str]) -> list[Layer]:
    """Return the layers whose values `--help` shows as defaults: those of a run without further options.

    Args:
        kind: the command's settings class.
        words: the command line, of which `--preset`, `--config`, `--augmentation`, `--scale` and `--space` matter.

    Raises:
        ConfigurationError: the preset is unknown, or the file is not one of settings.
    """
    early = early_options(words, "--preset", "--config", "--augmentation", "--scale", "--space")
    preset, files = [DEFAULT_PRESET, *early["--preset"]][-1], early["--config"]
    layers = [
        preset_layer(preset),
        file_layer(Path(files[-1]) if files else None),
        for_help(lambda: environment_layer(kind)),
    ]
    given = {name for layer in layers[1:] for name in layer.values}

    def set_to(name: str) -> Any:
        return [default_of(kind, name, layers)[0], *early[f"--{name}"]][-1]

    policy = str(set_to("augmentation"))
    layers.insert(0, Layer(described_limits(policy), f"the augmentation policy '{policy}'"))
    if kind is StudySettings and set_to("scale") == "quick":
        from training.study.designs import QUICK

        layers.insert(2, Layer(QUICK, "the scale 'quick'"))
    if kind is TuneSettings:
        from training.search.space import DEFAULT_SPACE

        space = none_where_said(set_to("space"))
        searched = (
            yaml.safe_load(DEFAULT_SPACE).keys() - given if space is None else file_layer(Path(space)).values
        )
        layers.append(Layer(dict.fromkeys(searched, "searched"), str(space or "the default space")))
    return layers
