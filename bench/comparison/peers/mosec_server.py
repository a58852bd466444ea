"""Mosec: its Rust front end batches requests, this process decodes and runs the batches.

    python mosec_server.py --port 8000

One stage, because decoding and inference share the cores: a second process would only add a copy.
"""

import os
from typing import Any

import classify
import orjson
from mosec import Server, Worker


class Inference(Worker):
    """Decodes each request and runs the batch."""

    def __init__(self) -> None:
        self.session = classify.open_session()

    def deserialize(self, data: bytes) -> classify.Images:
        """Return a request's images."""
        return classify.from_file(data) if data.startswith(b"\x89PNG") else classify.from_octets(data)

    def forward(self, data: list[classify.Images]) -> list[dict[str, Any]]:
        """Run all requests of the batch at once."""
        probabilities = classify.run(self.session, classify.joined(data))
        return classify.documents(probabilities, [len(images) for images in data])

    def serialize(self, data: dict[str, Any]) -> bytes:
        """Return the answer's bytes."""
        return orjson.dumps(data)


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        Inference,
        num=int(os.environ["BENCH_WORKERS"]),
        max_batch_size=classify.BATCH,
        max_wait_time=int(os.environ.get("BENCH_WAIT_MS", "1")),
        route="/predict",
    )
    server.run()
