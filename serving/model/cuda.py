"""What CUDA lacks on this machine, asked of the driver itself before ONNX Runtime is involved.

ONNX Runtime says only that nodes would have run on the CPU; the driver says why. To ask starts
CUDA in the asking process, so the process that forks the workers asks through a child:
`python -m serving.model.cuda` prints the reason and exits 1, or exits 0.
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
BUILD_FACTS = "capi/build_and_package_info.py"
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
CHILD_SECONDS = 30
LEAST_DRIVER = {12: 525, 13: 580}
"""Major version of CUDA: the first branch of NVIDIA's driver that runs programs built for it.

Source: NVIDIA, CUDA Compatibility, "Minor Version Compatibility", table 1
(docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html).
"""


def missing_device(device_id: int) -> str | None:
    """Return what the driver lacks to use GPU `device_id`, in a sentence; None if nothing.

    Source: the CUDA driver API: cuInit, cuDeviceGetCount, cuGetErrorString, cuDriverGetVersion.
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
    return _too_old(driver)


def _too_old(driver: Any) -> str | None:
    """Compare the newest CUDA that the driver runs with the one that ONNX Runtime is built for.

    ONNX Runtime's own error comes late, when a session is made, and names no driver to install.
    """
    built = _build_facts()
    needed = str(built.get("cuda_version") or "").partition(".")[0]
    if not needed.isdigit():
        return None  # not built for CUDA, or not installed: `missing_library` says so
    version = ctypes.c_int(0)
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0 or version.value // 1000 >= int(needed):
        return None
    least = LEAST_DRIVER.get(int(needed))
    return (
        f"the NVIDIA driver runs CUDA {version.value // 1000}.{version.value % 1000 // 10} at most, and "
        f"onnxruntime {built.get('__version__')} needs CUDA {needed}: install "
        + (f"driver {least} or newer" if least else "a newer driver")
    )


def _build_facts() -> dict[str, Any]:
    """Return what ONNX Runtime was built for, without importing it; empty if it is not installed."""
    found = find_spec("onnxruntime")
    if found is None or found.origin is None:
        return {}
    path = Path(found.origin).parent / BUILD_FACTS
    return runpy.run_path(str(path)) if path.exists() else {}


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
        return f"ONNX Runtime's CUDA provider cannot be loaded: {error}"
    return None


def missing(device_id: int) -> str | None:
    """Return the first thing that keeps CUDA from working in this process, or None."""
    return missing_device(device_id) or missing_library()


def missing_device_by_child(device_id: int) -> str | None:
    """Ask as `missing_device` does, without starting CUDA in this process."""
    command = [sys.executable, "-m", "serving.model.cuda", str(device_id)]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the NVIDIA driver could not be asked: {error}"
    return None if child.returncode == 0 else child.stdout.strip() or "the NVIDIA driver crashed"


if __name__ == "__main__":
    reason = missing_device(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    if reason is None and not _build_facts().get("cuda_version"):
        reason = "no onnxruntime with CUDA is installed"
    if reason:
        print(reason)
    sys.exit(1 if reason else 0)
