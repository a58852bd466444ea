"""The device to train on, and the process settings for determinism, threads and cheap allocation."""

import ctypes
import os
from itertools import pairwise

import torch

from bundle.images.contract import PIXELS
from training.errors import DeviceError
from training.settings import TrainingSettings

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEEP_BYTES = 1 << 30
LARGEST_MMAP_THRESHOLD = 32 << 20
"""The largest that glibc accepts."""
WEIGHTS_TIMES_IMAGES_PER_THREAD = 100_000_000
TYPICAL_CLASSES = 10


def choose_device(settings: TrainingSettings) -> torch.device:
    """Return the device to train on, after configuring the process for deterministic results.

    Raises:
        DeviceError: CUDA was requested and is not available.
    """
    torch.set_num_threads(settings.threads or min(torch.get_num_threads(), worthwhile_threads(settings)))
    cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not cuda:
        raise DeviceError(
            "--device cuda: PyTorch finds no CUDA device: check nvidia-smi and the driver, or train with --device cpu"
        )
    # cuBLAS chooses its workspace by this; without it, sums may differ from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(mode=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing here reads what it did not write
    _keep_freed_memory()
    return torch.device("cuda" if cuda and settings.device != "cpu" else "cpu")


def worthwhile_threads(settings: TrainingSettings) -> int:
    """Return the number of threads that a step of this network has enough work for.

    Threads spin at a barrier after each operation. With little work between barriers, a second core makes training a
    fifth faster while the core is idle, and costs nine tenths of the speed while another process uses it.
    """
    return max(1, weights_times_images(settings) // WEIGHTS_TIMES_IMAGES_PER_THREAD)


def weights_times_images(settings: TrainingSettings) -> int:
    """Return weights times images of a batch, or of its accumulated part: a sixth of the FLOPs of a step."""
    widths = [PIXELS, *settings.hidden, TYPICAL_CLASSES]
    weights = sum(a * b for a, b in pairwise(widths))
    return weights * settings.batch_size // settings.accumulate


def _keep_freed_memory() -> None:
    """Tell glibc, where it is the C library, to keep freed memory for the next step.

    By default it returns blocks of a batch's size to the kernel after each operation and faults them in again for the
    next, which halves the speed of augmentation with batches of 1,024 images.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
    mallopt(M_TRIM_THRESHOLD, KEEP_BYTES)
