"""A session whose inputs and outputs have fixed places: nothing is made anew for a request, and CUDA replays.

On a GPU a small network's time goes into starting its kernels and into copies through memory that the driver
has to make its own first. So for each size of a batch there is one set of buffers: pixels are put into page-locked
memory of the host, copied to the device, computed there by one CUDA graph that was captured for this size,
and its outputs come back. On the CPU the same code runs without any of that, so that it can be tested.

Source: ONNX Runtime's documentation of I/O binding and of the CUDA provider's `enable_cuda_graph`, which
wants inputs and outputs bound to addresses that stay, and one `gpu_graph_id` for each shape.
"""

import ctypes
import threading
import weakref
from dataclasses import dataclass
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
    """In the host's memory."""
    images: Any
    """The same on the device, an `onnxruntime.OrtValue`."""
    outputs: dict[str, Any]
    binding: Any
    options: Any


class BoundSession:
    """Runs as an `onnxruntime.InferenceSession` does, one batch at a time, whichever threads ask."""

    def __init__(self, session: Any, device: str, device_id: int, classes: int) -> None:
        self._session = session
        self._device = device, device_id
        self._classes = classes
        self._buffers: dict[int, _Buffers] = {}
        self._lock = threading.Lock()

    def get_providers(self) -> list[str]:
        """Return the session's providers."""
        providers: list[str] = self._session.get_providers()
        return providers

    def run(self, names: list[str], feeds: dict[str, npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.float32]]:
        """Return the outputs of these names, `float32[n, classes]`, for `{"images": uint8[n, 28, 28]}`."""
        images = feeds["images"]
        with self._lock:
            buffers = self._buffers.get(len(images))
            if buffers is None:
                buffers = self._buffers[len(images)] = self._make(len(images))
            buffers.pixels[:] = images
            buffers.images.update_inplace(buffers.pixels)
            self._session.run_with_iobinding(buffers.binding, buffers.options)
            return [np.array(buffers.outputs[name].numpy()) for name in names]

    def _make(self, count: int) -> _Buffers:
        pixels = np.zeros((count, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
        if self._device[0] == "cuda":
            lock_pages(pixels)
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        images = value(pixels.shape, np.uint8, *self._device)
        outputs = {name: value((count, self._classes), np.float32, *self._device) for name in OUTPUTS}
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("images", images)
        for name, output in outputs.items():
            binding.bind_ortvalue_output(name, output)
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(count))
        return _Buffers(pixels, images, outputs, binding, options)


def lock_pages(array: npt.NDArray[Any]) -> bool:
    """Keep an array where it is in the host's memory, for as long as it lives, so that a GPU copies it itself.

    Returns:
        Whether that was possible; it is slower without, and as right.
    """
    for name in RUNTIMES:
        try:
            runtime = ctypes.CDLL(name)
        except OSError:
            continue
        address = ctypes.c_void_p(array.ctypes.data)
        if runtime.cudaHostRegister(address, ctypes.c_size_t(array.nbytes), ctypes.c_uint(0)) == 0:
            weakref.finalize(array, runtime.cudaHostUnregister, address)
            return True
        runtime.cudaGetLastError()  # else the next call, whoever makes it, would be told of it
    return False
