"""MLServer with a custom runtime, its parallel inference off: `mlserver start DIRECTORY`.

An image file comes by a custom handler, tensors by the Open Inference Protocol as JSON.
"""

from typing import Any

import classify
from fastapi import Request
from mlserver import MLModel, types
from mlserver.codecs import NumpyCodec
from mlserver.handlers import custom_handler


class Classifier(MLModel):
    """Classifies images."""

    async def load(self) -> bool:
        """Load the model."""
        self.session = classify.open_session()
        return True

    @custom_handler(rest_path="/predict")
    async def file(self, request: Request) -> dict[str, Any]:
        """Classify an image file."""
        images = classify.from_file(await request.body())
        return classify.document(classify.run(self.session, images))

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        """Classify a tensor `uint8[n, 28, 28]`."""
        images = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        output = NumpyCodec.encode_output(
            "probabilities", classify.run(self.session, images.reshape(-1, 28, 28))
        )
        return types.InferenceResponse(model_name=self.name, outputs=[output])
