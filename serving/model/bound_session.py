"""A session whose inputs and outputs have fixed places: nothing is made anew for a request, and CUDA replays.

On a GPU a small network's time goes into starting its kernels and into copies through memory that the driver
has to make its own first. So pixels are put into page-locked memory of the host, and for each size of a batch
there is one set of buffers on the device, to which they are copied, and one CUDA graph that was captured for
this size; its outputs come back. On the CPU the same code runs without any of that, so that it can be tested.

Source: ONNX Runtime's documentation of I/O binding and of the CUDA provider's `enable_cuda_graph`, which
wants inputs and outputs bound to addresses that stay, and one `gpu_graph_id` for each shape.
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

RUNTIMES = ("libcudart.so.13", "libcudart.so.12")
"""CUDA's runtime, which ONNX Runtime's CUDA provider has loaded already."""
OUTPUTS = ("logits", "probabilities")


@dataclass(frozen=True, slots=True)
class _Buffers:
    """What batches of one size are run with."""

    pixels: npt.NDArray[np.uint8]
    """In the host's memory; every size has its part of the same."""
    images: Any
    """The same on the device, an `onnxruntime.OrtValue`."""
    outputs: dict[str, Any]
    binding: Any
    options: Any


class BoundSession:
    """Runs as an `onnxruntime.InferenceSession` does, up to so many images. To be used by one thread alone."""

    def __init__(self, session: Any, device: str, device_id: int, classes: int, largest: int) -> None:
        self._session = session
        self._device = device, device_id
        self._classes = classes
        self._host = whole_pages(largest * IMAGE_SIZE * IMAGE_SIZE)
        self._unlock = lock_pages(self._host) if device == "cuda" else None
        self._buffers: dict[int, _Buffers] = {}

    def run(self, names: list[str], feeds: dict[str, npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.float32]]:
        """Return the outputs of these names, `float32[n, classes]`, for `{"images": uint8[n, 28, 28]}`."""
        images = feeds["images"]
        buffers = self._buffers.get(len(images))
        if buffers is None:
            buffers = self._buffers[len(images)] = self._make(len(images))
        buffers.pixels[:] = images
        buffers.images.update_inplace(buffers.pixels)
        self._session.run_with_iobinding(buffers.binding, buffers.options)
        return [np.array(buffers.outputs[name].numpy()) for name in names]

    def close(self) -> None:
        """Free the buffers, then the session; it cannot be run again."""
        self._buffers.clear()
        if self._unlock is not None:
            self._unlock()
        del self._session, self._host

    def _make(self, count: int) -> _Buffers:
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


def whole_pages(size: int) -> npt.NDArray[np.uint8]:
    """Return at least so many zeros, in pages of the host's memory that nothing else is in.

    CUDA locks whole pages, and none twice: an array amid others would lock its neighbours too, and theirs, or what
    comes into their place, could not be locked any more.
    """
    pages = -(-size // mmap.PAGESIZE)
    memory = mmap.mmap(-1, pages * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, np.uint8)


def lock_pages(array: npt.NDArray[Any]) -> Callable[[], object] | None:
    """Keep `whole_pages` where they are, so that a GPU copies them itself.

    Returns:
        What unlocks them, to be called before they are freed. None if they cannot be locked: it is slower then, and
        as right.
    """
    for name in RUNTIMES:
        try:
            runtime = ctypes.CDLL(name)
        except OSError:
            continue
        address = ctypes.c_void_p(array.ctypes.data)
        if runtime.cudaHostRegister(address, ctypes.c_size_t(array.nbytes), ctypes.c_uint(0)) == 0:
            return partial(runtime.cudaHostUnregister, address)
        runtime.cudaGetLastError()  # else the next call, whoever makes it, would be told of it
    return None
