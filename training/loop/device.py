"""The process and the device: what to train on, and how to make runs repeatable and allocation cheap there."""

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
"""glibc accepts no larger one."""
WEIGHTS_TIMES_IMAGES_PER_THREAD = 100_000_000
TYPICAL_CLASSES = 10


def choose_device(settings: TrainingSettings) -> torch.device:
    """Return the device to train on, with the process set up to repeat itself exactly there.

    Raises:
        DeviceError: CUDA was asked for and is not there.
    """
    torch.set_num_threads(settings.threads or min(torch.get_num_threads(), worthwhile_threads(settings)))
    cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not cuda:
        raise DeviceError(
            "--device cuda was asked for and torch finds no CUDA device: look at nvidia-smi and at the "
            "driver, or train with --device cpu"
        )
    # cuBLAS picks its workspace by this; without it its sums may differ from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(mode=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing here reads what it did not write
    _keep_freed_memory()
    return torch.device("cuda" if cuda and settings.device != "cpu" else "cpu")


def worthwhile_threads(settings: TrainingSettings) -> int:
    """Return the number of threads that a step of this network has work for.

    Threads meet at a barrier after each operation, and spin there. With little work between
    barriers a second core adds a fifth to the speed when it is idle, and takes nine tenths of it
    away when something else runs on it.
    """
    return max(1, weights_times_images(settings) // WEIGHTS_TIMES_IMAGES_PER_THREAD)


def weights_times_images(settings: TrainingSettings) -> int:
    """Return the work in one pass of a batch, or of the part of it that is taken at once: a sixth of its FLOPs."""
    widths = [PIXELS, *settings.hidden, TYPICAL_CLASSES]
    weights = sum(a * b for a, b in pairwise(widths))
    return weights * settings.batch_size // settings.accumulate


def _keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next step, where there is glibc.

    By default it gives blocks of a batch's size back to the system after each operation and faults
    them in again for the next: with batches of 1024 images that halves the speed of augmentation.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
    mallopt(M_TRIM_THRESHOLD, KEEP_BYTES)
