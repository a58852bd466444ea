"""`--augmentation`: how far the training images are deformed where the single options do not say it.

Source of the limits for handwriting: Simard, Steinkraus and Platt, "Best practices for convolutional neural
networks applied to visual document analysis", ICDAR 2003, section 2 (the elastic deformation), and the
validation sets of MNIST (the rest; `training/presets.py` has what they give).
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
"""Policy: its limits, by the settings' names. `auto` is one of these, chosen by the data set."""


def apply_policy(settings: S, is_handwriting: bool) -> S:
    """Return the settings with the policy's limits where none were given, and `auto` replaced by what it chose.

    A limit that was given, 0 too, is kept. Handwriting keeps its class when it is rotated or deformed a little; of
    images that are not known to be handwriting only moving and scaling are taken for granted.

    Args:
        settings: as they were given; settings that were rebuilt from all of their values count as given.
        is_handwriting: what is known of the data set.
    """
    policy = settings.augmentation
    if policy == "auto":
        policy = "handwriting" if is_handwriting else "basic"
    chosen = {name: value for name, value in LIMITS[policy].items() if name not in settings.model_fields_set}
    return settings.model_copy(update={**chosen, "augmentation": policy})


def described_limits(policy: str) -> dict[str, str]:
    """Return what a policy makes of the limits that are not given, for `--help`, by the settings' names."""
    if policy != "auto":
        return {name: f"{value:g}" for name, value in LIMITS.get(policy, {}).items()}
    basic = LIMITS["basic"]
    return {
        name: f"{value:g}"
        if value == basic.get(name)
        else f"{value:g} for handwriting and {basic.get(name, 0):g} else"
        for name, value in LIMITS["handwriting"].items()
    }


def describe_policy(hyperparameters: Mapping[str, Any]) -> str:
    """Return in a sentence how the training images were deformed.

    Args:
        hyperparameters: the settings of the run, by name; the policy has been applied.
    """
    deformations = {
        "rotation": "rotated by up to {:g} degrees",
        "shear": "sheared by up to {:g} degrees",
        "translation": "moved by up to {:g} pixels along each axis",
        "scaling": "scaled by up to {:.0%}",
        "elastic_alpha": "deformed elastically (alpha {:g})",
        "erasing": "erased in part with probability {:g}",
    }
    said = [
        text.format(hyperparameters[name]) for name, text in deformations.items() if hyperparameters.get(name)
    ]
    sentence = (
        f"Every epoch saw each training image {', '.join(said)}."
        if said
        else "No training image was deformed."
    )
    if hyperparameters.get("augmentation") == "basic":
        sentence += (
            " The data set is not known to be handwriting, so nothing else was taken for granted: if its images keep "
            "their class when they are rotated or deformed a little, train with --augmentation handwriting."
        )
    return sentence
