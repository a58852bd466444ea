"""Presets: functions whose docstrings say the exact command, what it gives, and on what machine."""

from collections.abc import Callable, Mapping
from typing import Any

Preset = Callable[[], Mapping[str, Any]]


def default() -> Mapping[str, Any]:
    """784-512-256-10, dropout 0.2, AdamW, one cycle of 20 epochs: what `make run` trains.

    `python -m training fit --preset default`
    """
    return {"input_dropout": 0.1}


PRESETS: Mapping[str, Preset] = {"default": default}
