"""A session with fixed input and output buffers: a request allocates nothing, and CUDA can replay graphs.

On a GPU a small network spends its time launching kernels and copying through memory that the driver has to page-lock
first. So pixels are written to page-locked (pinned) host memory, and each batch size has its own buffers on the device
and its own CUDA graph, captured on the first run of that size. On the CPU the same code runs without page-locking and
graphs, so that it can be tested.

Source: ONNX Runtime's documentation of I/O binding and of the CUDA provider's `enable_cuda_graph`, which requires
inputs and outputs bound to fixed addresses, and one `gpu_graph_id` for each shape.
"""

import ctypes
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from bundle.manifest import IMAGE_SIZE

CUDA_RUNTIMES = ("libcudart.so.13", "libcudart.so.12")
"""Names of CUDA's runtime library, one of which ONNX Runtime's CUDA provider has loaded already."""
OUTPUTS = ("logits", "probabilities")


@dataclass(frozen=True, slots=True)
class _Buffers:
    """The buffers and options that batches of one size run with."""

    pixels: npt.NDArray[np.uint8]
    """Host memory: a view of the block that all sizes share."""
    images: Any
    """The pixels on the device, an `onnxruntime.OrtValue`."""
    outputs: dict[str, Any]
    binding: Any
    options: Any


class BoundSession:
    """Runs like an `onnxruntime.InferenceSession`, for up to `max_images` images. Not thread-safe."""

    def __init__(self, session: Any, device: str, device_id: int, classes: int, max_images: int) -> None:
        self._session = session
        self._device = device, device_id
        self._classes = classes
        self._host = allocate_pages(max_images * IMAGE_SIZE * IMAGE_SIZE)
        self._unlock = lock_pages(self._host) if device == "cuda" else None
        self._buffers: dict[int, _Buffers] = {}

    def run(self, names: list[str], feeds: dict[str, npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.float32]]:
        """Return the outputs of these names, `float32[n, classes]`, for `{"images": uint8[n, 28, 28]}`."""
        images = feeds["images"]
        buffers = self._buffers.get(len(images))
        if buffers is None:
            buffers = self._buffers[len(images)] = self._allocate(len(images))
        buffers.pixels[:] = images
        buffers.images.update_inplace(buffers.pixels)
        self._session.run_with_iobinding(buffers.binding, buffers.options)
        return [np.array(buffers.outputs[name].numpy()) for name in names]

    def close(self) -> None:
        """Free the buffers, then the session. It cannot run afterwards."""
        self._buffers.clear()
        if self._unlock is not None:
            self._unlock()
        del self._session, self._host

    def _allocate(self, count: int) -> _Buffers:
        shape = count, IMAGE_SIZE, IMAGE_SIZE
        pixels = self._host[: count * IMAGE_SIZE * IMAGE_SIZE].reshape(shape)
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        images = value(shape, np.uint8, *self._device)
        outputs = {name: value((count, self._classes), np.float32, *self._device) for name in OUTPUTS}
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("images", images)
        for name, output in outputs.items():
            binding.bind_ortvalue_output(name, output)
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(count))
        return _Buffers(pixels, images, outputs, binding, options)


def allocate_pages(size: int) -> npt.NDArray[np.uint8]:
    """Return at least `size` zeros in memory pages that hold nothing else.

    CUDA locks whole pages and no page twice. An array that shared its pages with others would lock those too, and
    whatever is later allocated there could not be locked any more.
    """
    pages = -(-size // mmap.PAGESIZE)
    memory = mmap.mmap(-1, pages * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, np.uint8)


def lock_pages(array: npt.NDArray[Any]) -> Callable[[], object] | None:
    """Page-lock memory from `allocate_pages`, so that the GPU copies it without the CPU's help.

    Returns:
        A function that unlocks it, to be called before it is freed. None if it cannot be locked: copies are then
        slower, and as right.
    """
    for name in CUDA_RUNTIMES:
        try:
            runtime = ctypes.CDLL(name)
        except OSError:
            continue
        address = ctypes.c_void_p(array.ctypes.data)
        if runtime.cudaHostRegister(address, ctypes.c_size_t(array.nbytes), ctypes.c_uint(0)) == 0:
            return partial(runtime.cudaHostUnregister, address)
        runtime.cudaGetLastError()  # clears the error; otherwise the next caller of CUDA would get it
    return None
