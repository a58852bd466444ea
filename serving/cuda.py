"""What CUDA lacks on this machine, asked of the driver itself before ONNX Runtime is involved.

ONNX Runtime says only that nodes would have run on the CPU; the driver says why. To ask starts
CUDA in the asking process, so the process that forks the workers asks through a child:
`python -m serving.cuda` prints the reason and exits 1, or exits 0.
"""

import contextlib
import ctypes
import io
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

DRIVER_LIBRARY = "libcuda.so.1"
PROVIDER_LIBRARY = "libonnxruntime_providers_cuda.so"
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
CHILD_SECONDS = 30


def missing_device(device_id: int) -> str | None:
    """Return what the driver lacks to use GPU `device_id`, in a sentence; None if nothing.

    Source: the CUDA driver API: cuInit, cuDeviceGetCount, cuGetErrorString.
    """
    try:
        driver = ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return f"no NVIDIA driver is installed ({DRIVER_LIBRARY} cannot be loaded)"
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status == NO_DEVICE or (status == 0 and count.value == 0):
        return "the NVIDIA driver is there, but it finds no GPU (or CUDA_VISIBLE_DEVICES hides it)"
    if status != 0:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(status, ctypes.byref(text))
        return f"the NVIDIA driver cannot start: {(text.value or b'unknown error').decode()} ({status})"
    if device_id >= count.value:
        return f"there is no GPU {device_id}: the NVIDIA driver finds {count.value}, numbered from 0"
    return None


def missing_library() -> str | None:
    """Load the libraries that ONNX Runtime's CUDA provider needs; return what is missing, or None.

    The libraries of the `nvidia-*` wheels are found without any search path being set
    (`onnxruntime.preload_dlls`).
    """
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return (
            f"the installed onnxruntime {onnxruntime.__version__} has no CUDA provider: "
            "install onnxruntime-gpu in its place"
        )
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find; we say it below
        onnxruntime.preload_dlls()
    try:
        ctypes.CDLL(str(Path(onnxruntime.__file__).parent / "capi" / PROVIDER_LIBRARY))
    except OSError as error:
        absent = re.match(r"(\S+): cannot open shared object file", str(error))
        if absent:
            return (
                f"the library {absent[1]} is missing, which ONNX Runtime's CUDA provider needs: "
                "install onnxruntime-gpu[cuda,cudnn]"
            )
    return None


def missing(device_id: int) -> str | None:
    """Return the first thing that keeps CUDA from working in this process, or None."""
    return missing_device(device_id) or missing_library()


def missing_device_by_child(device_id: int) -> str | None:
    """Ask as `missing_device` does, without starting CUDA in this process."""
    command = [sys.executable, "-m", "serving.cuda", str(device_id)]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the NVIDIA driver could not be asked: {error}"
    return None if child.returncode == 0 else child.stdout.strip() or "the NVIDIA driver crashed"


if __name__ == "__main__":
    reason = missing_device(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    if reason is None and find_spec("onnxruntime") is None:
        reason = "onnxruntime is not installed"
    if reason:
        print(reason)
    sys.exit(1 if reason else 0)
