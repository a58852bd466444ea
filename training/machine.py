"""The process and the device: what to train on, and how to make runs repeatable and allocation cheap there."""

import ctypes
import os

import torch

from training.errors import DeviceError
from training.settings import MachineSettings

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEEP_BYTES = 1 << 30
LARGEST_MMAP_THRESHOLD = 32 << 20
"""glibc accepts no larger one."""


def choose_device(settings: MachineSettings) -> torch.device:
    """Return the device to train on, with the process set up to repeat itself exactly there.

    Raises:
        DeviceError: CUDA was asked for and is not there.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not cuda:
        raise DeviceError(
            "--device cuda was asked for and torch finds no CUDA device: look at nvidia-smi and at the "
            "driver, or train with --device cpu"
        )
    # cuBLAS picks its workspace by this; without it its sums may differ from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(mode=True)
    _keep_freed_memory()
    return torch.device("cuda" if cuda and settings.device != "cpu" else "cpu")


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
