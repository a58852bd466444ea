"""Mixed precision: bfloat16 matrix products where they are faster, and float32 elsewhere."""

from contextlib import AbstractContextManager

import torch

from training.loop.device import weights_times_images
from training.settings import TrainingSettings

BFLOAT16_WEIGHTS_TIMES_IMAGES = 25_000_000
"""The work from which bfloat16 is faster on a CPU with AMX: the products gain more than the conversions cost.

The threshold classifies correctly all networks of 64 to 512-256 hidden units in batches of 64 to 512 that were measured
(`python -m bench training --precision bfloat16` against `--precision float32`).
"""


def autocast(settings: TrainingSettings, device: torch.device) -> AbstractContextManager[None]:
    """Return the autocast context of the forward pass.

    Weights, loss and optimizer stay in float32; bfloat16 has the range of float32, so no loss scaling is needed.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(settings, device))


def uses_bfloat16(settings: TrainingSettings, device: torch.device) -> bool:
    """Return whether matrix products are computed in bfloat16, which settings and device decide.

    A choice by timing could differ from run to run, and the weights with it.
    """
    if settings.precision == "auto":
        if device.type == "cuda":
            # GPUs before Ampere emulate bfloat16, which is slower than float32.
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
        enough = weights_times_images(settings) >= BFLOAT16_WEIGHTS_TIMES_IMAGES
        return enough and torch.cpu.get_capabilities().get("amx_bf16") is True
    return settings.precision == "bfloat16"
