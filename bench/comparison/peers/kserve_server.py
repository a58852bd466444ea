"""KServe's model server: `python kserve_server.py --http_port PORT --workers N`.

An image file comes by the V1 protocol as the body itself, tensors by the Open Inference Protocol, binary.
"""

import os
from typing import Any

import classify
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Classifier(Model):  # type: ignore[misc]
    """Classifies images."""

    def __init__(self) -> None:
        super().__init__(os.environ["BENCH_NAME"])
        self.session = classify.open_session()
        self.ready = True

    async def predict(
        self, payload: bytes | InferRequest, headers: dict[str, str] | None = None, **_: Any
    ) -> dict[str, Any] | InferResponse:
        """Classify an image file, or a tensor `uint8[n, 28, 28]`."""
        del headers
        if not isinstance(payload, InferRequest):
            return classify.document(classify.run(self.session, classify.from_file(payload)))
        images = payload.inputs[0].as_numpy().reshape(-1, 28, 28)
        probabilities = classify.run(self.session, images)
        output = InferOutput("probabilities", list(probabilities.shape), "FP32")
        output.set_data_from_numpy(probabilities, binary_data=True)
        return InferResponse(payload.id or "", self.name, [output], requested_outputs=payload.request_outputs)


if __name__ == "__main__":
    ModelServer(enable_grpc=False, enable_latency_logging=False).start([Classifier()])
