"""What the NVIDIA driver says of itself, asked of its libraries: images need not have `nvidia-smi`."""

import ctypes

DRIVER_LIBRARY = "libcuda.so.1"
MANAGEMENT_LIBRARY = "libnvidia-ml.so.1"
VERSION_BYTES = 80  # NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE


def describe_driver() -> str:
    """Return the driver's version and the newest CUDA that it runs, `580.95.05 (CUDA 13.0)`, or what is known of that.

    Sources: NVML's nvmlSystemGetDriverVersion, whose library a container may lack, and the CUDA driver
    API's cuDriverGetVersion. It is empty where there is neither.
    """
    release, cuda = _release(), _newest_cuda()
    return f"{release} ({cuda})" if release and cuda else release or cuda


def _release() -> str:
    try:
        nvml = ctypes.CDLL(MANAGEMENT_LIBRARY)
    except OSError:
        return ""
    if nvml.nvmlInit_v2() != 0:
        return ""
    version = ctypes.create_string_buffer(VERSION_BYTES)
    status = nvml.nvmlSystemGetDriverVersion(version, VERSION_BYTES)
    nvml.nvmlShutdown()
    return version.value.decode(errors="replace") if status == 0 else ""


def _newest_cuda() -> str:
    try:
        driver = ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return ""
    version = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return ""
    return f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
