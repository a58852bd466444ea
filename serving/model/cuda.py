"""Checks whether CUDA works on this machine, by asking the driver before ONNX Runtime does.

ONNX Runtime's error says only that nodes would have run on the CPU; the driver says why. A check initialises CUDA in
its process, and a process with CUDA must not fork. So the arbiter, which forks the workers, has a child process check:
`python -m serving.model.cuda` exits 0 if CUDA works, and otherwise prints the reason and exits 1.
"""

import contextlib
import ctypes
import io
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

DRIVER_LIBRARY = "libcuda.so.1"
PROVIDER_LIBRARY = "libonnxruntime_providers_cuda.so"
BUILD_INFO = "capi/build_and_package_info.py"
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
CHILD_SECONDS = 30
LEAST_DRIVER = {12: 525, 13: 580}
"""By major version of CUDA: the oldest branch of NVIDIA's driver that runs programs built for it.

Source: NVIDIA, CUDA Compatibility, "Minor Version Compatibility", table 1
(docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html).
"""


def missing_device(device_id: int) -> str | None:
    """Return why the driver cannot use GPU `device_id`, as a sentence; None if it can.

    Source: the CUDA driver API: cuInit, cuDeviceGetCount, cuGetErrorString, cuDriverGetVersion.
    """
    try:
        driver = ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return f"no NVIDIA driver is installed ({DRIVER_LIBRARY} cannot be loaded)"
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status == NO_DEVICE or (status == 0 and count.value == 0):
        return "the NVIDIA driver is installed, but it finds no GPU (or CUDA_VISIBLE_DEVICES hides it)"
    if status != 0:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(status, ctypes.byref(text))
        return f"the NVIDIA driver cannot start: {(text.value or b'unknown error').decode()} ({status})"
    if device_id >= count.value:
        return f"there is no GPU {device_id}: the NVIDIA driver finds {count.value}, numbered from 0"
    return _driver_too_old(driver)


def _driver_too_old(driver: Any) -> str | None:
    """Compare the newest CUDA version that the driver supports with the one that ONNX Runtime was built for.

    ONNX Runtime's own error comes late, when a session is created, and does not name a driver to install.
    """
    built = _build_info()
    needed = str(built.get("cuda_version") or "").partition(".")[0]
    if not needed.isdigit():
        return None  # not built for CUDA, or not installed: `missing_library` reports that
    version = ctypes.c_int(0)
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0 or version.value // 1000 >= int(needed):
        return None
    least = LEAST_DRIVER.get(int(needed))
    return (
        f"the NVIDIA driver supports CUDA {version.value // 1000}.{version.value % 1000 // 10} at most, and "
        f"onnxruntime {built.get('__version__')} needs CUDA {needed}: install "
        + (f"driver {least} or newer" if least else "a newer driver")
    )


def _build_info() -> dict[str, Any]:
    """Return ONNX Runtime's build information without importing it; empty if it is not installed."""
    found = find_spec("onnxruntime")
    if found is None or found.origin is None:
        return {}
    path = Path(found.origin).parent / BUILD_INFO
    return runpy.run_path(str(path)) if path.exists() else {}


def missing_library() -> str | None:
    """Load the libraries that ONNX Runtime's CUDA provider needs; return what is missing, or None.

    `onnxruntime.preload_dlls` finds the libraries of the `nvidia-*` wheels without a search path.
    """
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return (
            f"the installed onnxruntime {onnxruntime.__version__} has no CUDA provider: "
            "install onnxruntime-gpu in its place"
        )
    # It prints what it does not find; this function returns that instead.
    with contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()
    try:
        ctypes.CDLL(str(Path(onnxruntime.__file__).parent / "capi" / PROVIDER_LIBRARY))
    except OSError as error:
        absent = re.match(r"(\S+): cannot open shared object file", str(error))
        if absent:
            return (
                f"the library {absent[1]} is missing, and ONNX Runtime's CUDA provider needs it: "
                "install onnxruntime-gpu[cuda,cudnn]"
            )
        return f"ONNX Runtime's CUDA provider cannot be loaded: {error}"
    return None


def missing(device_id: int) -> str | None:
    """Return the first reason why CUDA does not work in this process, or None."""
    return missing_device(device_id) or missing_library()


def missing_device_by_child(device_id: int) -> str | None:
    """Return what `missing_device` returns, without initialising CUDA in this process."""
    command = [sys.executable, "-m", "serving.model.cuda", str(device_id)]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the NVIDIA driver could not be checked: {error}"
    return None if child.returncode == 0 else child.stdout.strip() or "the NVIDIA driver crashed"


if __name__ == "__main__":
    reason = missing_device(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    if reason is None and not _build_info().get("cuda_version"):
        reason = "no onnxruntime with CUDA is installed"
    if reason:
        print(reason)
    sys.exit(1 if reason else 0)
