"""LitServe, with dynamic batching and its ZeroMQ queue: `python litserve_server.py PORT`.

Bodies are JSON with base64, as its documentation has images.
"""

import os
import sys
from typing import Any

import classify
import litserve


class Inference(litserve.LitAPI):
    """Decodes each request and runs the batch."""

    def setup(self, device: str) -> None:
        """Load the model."""
        del device
        self.session = classify.open_session()

    def decode_request(self, request: dict[str, str]) -> classify.Images:
        """Return a request's images."""
        return classify.from_base64(request["image_data"])

    def batch(self, inputs: list[classify.Images]) -> tuple[classify.Images, list[int]]:
        """Join what has arrived."""
        return classify.joined(inputs), [len(images) for images in inputs]

    def predict(self, x: tuple[classify.Images, list[int]]) -> list[dict[str, Any]]:
        """Run it."""
        images, counts = x
        return classify.documents(classify.run(self.session, images), counts)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the answers, which are one for each request already."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """Return the answer, which is a document already."""
        return output


if __name__ == "__main__":
    workers = int(os.environ["BENCH_WORKERS"])
    api = Inference(max_batch_size=classify.BATCH, batch_timeout=0.001)
    server = litserve.LitServer(
        api, accelerator="cpu", devices=1, workers_per_device=workers, fast_queue=True, timeout=30
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=workers,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
