"""Augmentation policies (`--augmentation`): the limits of the deformations that no option gives.

Sources of the limits for handwriting: Simard, Steinkraus and Platt, "Best practices for convolutional neural networks
applied to visual document analysis", ICDAR 2003, section 2 (the elastic deformation), and validation on MNIST (the
others; `training/presets.py` has the results).
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from training.settings import TrainingSettings

S = TypeVar("S", bound=TrainingSettings)

LIMITS: Mapping[str, Mapping[str, float]] = {
    "custom": {},
    "basic": {"translation": 2.0, "scaling": 0.1},
    "handwriting": {
        "rotation": 10.0,
        "translation": 2.0,
        "scaling": 0.1,
        "elastic_alpha": 34.0,
        "elastic_sigma": 4.0,
    },
}
"""Policy to its limits, by the settings' names. `auto` becomes one of these, by the data set."""


def apply_policy(settings: S, is_handwriting: bool) -> S:
    """Return the settings with the policy's limits for those that were not given, and with `auto` resolved.

    A given limit, even 0, is kept. Handwriting keeps its class when it is rotated or deformed a little; images that are
    not known to be handwriting are only translated and scaled.

    Args:
        settings: as given; settings that were rebuilt from all of their values count as given.
        is_handwriting: whether the data set is known to be handwriting.
    """
    policy = settings.augmentation
    if policy == "auto":
        policy = "handwriting" if is_handwriting else "basic"
    chosen = {name: value for name, value in LIMITS[policy].items() if name not in settings.model_fields_set}
    return settings.model_copy(update={**chosen, "augmentation": policy})


def described_limits(policy: str) -> dict[str, str]:
    """Return the policy's limits in words for `--help`, by the settings' names."""
    if policy != "auto":
        return {name: f"{value:g}" for name, value in LIMITS.get(policy, {}).items()}
    basic = LIMITS["basic"]
    return {
        name: f"{value:g}"
        if value == basic.get(name)
        else f"{value:g} for handwriting, else {basic.get(name, 0):g}"
        for name, value in LIMITS["handwriting"].items()
    }


def describe_policy(hyperparameters: Mapping[str, Any]) -> str:
    """Return a sentence about the deformations of the training images.

    Args:
        hyperparameters: the settings of the run, by name, after `apply_policy`.
    """
    deformations = {
        "rotation": "rotated by up to {:g} degrees",
        "shear": "sheared by up to {:g} degrees",
        "translation": "translated by up to {:g} pixels along each axis",
        "scaling": "scaled by up to {:.0%}",
        "elastic_alpha": "deformed elastically (alpha {:g})",
        "erasing": "partly erased with probability {:g}",
    }
    said = [
        text.format(hyperparameters[name]) for name, text in deformations.items() if hyperparameters.get(name)
    ]
    sentence = (
        f"In every epoch each training image was {', '.join(said)}, at random."
        if said
        else "The training images were not augmented."
    )
    if hyperparameters.get("augmentation") == "basic":
        sentence += (
            " The data set is not known to be handwriting, so it was not augmented further: if its images keep their "
            "class when they are rotated or deformed a little, train with --augmentation handwriting."
        )
    return sentence
