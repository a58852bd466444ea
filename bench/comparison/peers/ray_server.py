"""Ray Serve with request batching, in its high-throughput mode: `python ray_server.py PORT`."""

import os
import signal
import sys
from typing import Any

import classify
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response


@serve.deployment(
    num_replicas=int(os.environ["BENCH_WORKERS"]),
    max_ongoing_requests=2 * classify.BATCH,
    ray_actor_options={"num_cpus": 0},
)
class Classifier:
    """Decodes each request and runs the batch."""

    def __init__(self) -> None:
        self.session = classify.open_session()

    @serve.batch(max_batch_size=classify.BATCH, batch_wait_timeout_s=0.001)
    async def run(self, requests: list[classify.Images]) -> list[dict[str, Any]]:
        """Run all requests of the batch at once."""
        probabilities = classify.run(self.session, classify.joined(requests))
        return classify.documents(probabilities, [len(images) for images in requests])

    async def __call__(self, request: Request) -> Response:
        """Classify the posted image."""
        images = classify.from_body(request.headers.get("content-type"), await request.body())
        return JSONResponse(await self.run(images))


if __name__ == "__main__":
    workers = int(os.environ["BENCH_WORKERS"])
    ray.init(num_cpus=workers, include_dashboard=False, configure_logging=False, _temp_dir=sys.argv[2])
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(sys.argv[1])},
        logging_config={"enable_access_log": False},
    )
    serve.run(Classifier.bind(), route_prefix="/predict")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
