"""Mixed precision: bfloat16 matrix products where they are faster, float32 everywhere else."""

from contextlib import AbstractContextManager

import torch

from training.loop.device import weights_times_images
from training.settings import TrainingSettings

BFLOAT16_WEIGHTS_TIMES_IMAGES = 25_000_000
"""From here bfloat16 is faster on a CPU with AMX: the products gain more than the conversions cost.

Networks of 64 to 512-256 hidden units in batches of 64 to 512 all fell on their side of it
(`python -m bench training --precision bfloat16` against `--precision float32`).
"""


def autocast(settings: TrainingSettings, device: torch.device) -> AbstractContextManager[None]:
    """Return the context for the forward pass.

    The weights, the loss and the optimizer stay in float32; bfloat16 has float32's range, so no
    loss scaling is needed.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(settings, device))


def uses_bfloat16(settings: TrainingSettings, device: torch.device) -> bool:
    """Tell whether products are taken in bfloat16: by the settings and the device, never by a timing.

    (A choice made by timing would not be the same twice, and so the weights would not be either.)
    """
    if settings.precision == "auto":
        if device.type == "cuda":
            # Emulated, before Ampere, it is slower than float32.
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
        enough = weights_times_images(settings) >= BFLOAT16_WEIGHTS_TIMES_IMAGES
        return enough and torch.cpu.get_capabilities().get("amx_bf16") is True
    return settings.precision == "bfloat16"
