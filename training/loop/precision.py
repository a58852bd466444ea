"""Mixed precision: bfloat16 matrix products where they are faster, and float32 elsewhere."""

from contextlib import AbstractContextManager

import torch

from training.loop.device import weights_times_images
from training.settings import TrainingSettings

BFLOAT16_FROM = {"amx_bf16": 25_000_000, "avx512_bf16": 12_000_000}
"""The instructions that multiply bfloat16, the faster first, and from which work on (`weights_times_images`) they pay.

In smaller products the conversions cost more than is gained. On an Intel Xeon with AMX and an AMD EPYC with AVX-512,
the thresholds choose the faster of the two, or one that is 4% slower, for all networks of 64 to 512-256 hidden units in
batches of 64 to 512 (`python -m bench training --precision bfloat16` against `--precision float32`). Arm's (`bf16`,
`sve_bf16`) are not among them: they were not measured.
"""


def autocast(device: torch.device, *, bfloat16: bool) -> AbstractContextManager[None]:
    """Return the autocast context of the forward pass.

    Weights, loss and optimizer stay in float32; bfloat16 has the range of float32, so no loss scaling is needed.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=bfloat16)


def uses_bfloat16(settings: TrainingSettings, device: torch.device) -> bool:
    """Return whether matrix products are computed in bfloat16, which settings and device decide.

    A choice by timing could differ from run to run, and the weights with it. A resumed run keeps the choice that it
    began with (`TrainingState.bfloat16`), also on a processor for which `auto` would choose otherwise.
    """
    if settings.precision == "auto":
        if device.type == "cuda":
            # GPUs before Ampere emulate bfloat16, which is slower than float32.
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
        capabilities, work = torch.cpu.get_capabilities(), weights_times_images(settings)
        for instructions, enough in BFLOAT16_FROM.items():
            if capabilities.get(instructions) is True:
                return work >= enough
        return False
    return settings.precision == "bfloat16"
