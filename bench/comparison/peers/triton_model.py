"""Triton: its own server batches requests, and its Python backend runs this model on each batch.

`commands.prepare_triton` writes the repository: one model takes pixels, another, which ends in `-png`, image files.
The settings of a model are in its `config.pbtxt`; `classify.py` lies beside it, as the server ignores PYTHONPATH.
"""

from typing import Any

import classify
import triton_python_backend_utils as pb_utils  # a module of the server's, in no package


class TritonPythonModel:
    """Decodes each request and runs the batch; the server calls `initialize` once and `execute` for each batch."""

    def initialize(self, _arguments: dict[str, str]) -> None:
        """Open the session."""
        self.session = classify.open_session()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run all requests of the batch at once."""
        batch = [_images(request) for request in requests]
        probabilities, start, responses = classify.run(self.session, classify.joined(batch)), 0, []
        for images in batch:
            rows = probabilities[start : start + len(images)]
            start += len(images)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("probabilities", rows)]))
        return responses


def _images(request: Any) -> classify.Images:
    """Return a request's images: pixels as they are, an image file decoded."""
    tensor = pb_utils.get_input_tensor_by_name(request, "images")
    if tensor is not None:
        pixels: classify.Images = tensor.as_numpy()
        return pixels
    return classify.from_file(pb_utils.get_input_tensor_by_name(request, "file").as_numpy()[0, 0])
