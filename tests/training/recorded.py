"""What captured steps must satisfy, on a GPU and on its fake alike: the bytes of eager steps."""

from pathlib import Path
from typing import Any

import pytest

from bench.support.runs import StopAfter, small_run, weights
from training.errors import InterruptedRunError
from training.loop.fit import fit

KINDS = [
    {"optimizer": optimizer, "precision": precision}
    for optimizer in ("sgd", "adam", "adamw")
    for precision in ("float32", "bfloat16")
]
RICH: dict[str, Any] = {
    "clip": 1.0,
    "accumulate": 2,
    "l1": 1e-3,
    "l2": 1e-3,
    "dropout": (0.3,),
    "noise": 0.1,
    "batch_norm": True,
    "ema": 0.9,
    "max_norm": 3.0,
    "rotation": 10,
    "straight_through": 1,
    "adversarial": 0.5,
    "schedule": "one_cycle",
}
"""Every part that a step has."""
STEPS = (2, 15, 40)
"""Where runs are interrupted: while they warm up; before an epoch's last, smaller batch; after the recording."""


def trained(directory: Path, **settings: Any) -> bytes:
    """Return the weights of a run that nothing ends."""
    return weights(fit(small_run(directory, **(RICH | settings))))


def resumed(directory: Path, steps: int, *, first: bool, then: bool, **settings: Any) -> bytes:
    """Return the weights of a run that is ended after so many steps and gone on with.

    Args:
        directory: the run's.
        steps: how many.
        first: whether steps are recorded until then.
        then: and whether they are afterwards.
        settings: of both.
    """
    looks = steps - 1 + (steps - 1) // 16  # one of each step, and one of each epoch's end, of 16 steps
    with pytest.raises(InterruptedRunError):
        fit(small_run(directory, StopAfter(looks), **(RICH | settings | {"cuda_graphs": first})))
    assert [path.stem for path in directory.glob("checkpoint-*.pt")] == [f"checkpoint-{steps:012d}"]
    return trained(directory, resume=True, cuda_graphs=then, **settings)
