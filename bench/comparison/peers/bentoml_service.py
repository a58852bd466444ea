"""BentoML: `bentoml serve bentoml_service:Classifier`, a raw image file or an array as the body.

Without its adaptive batching, which was slower here: for tens of microseconds of work the dispatcher
costs more than the batch saves.
"""

import os
from pathlib import Path
from typing import Annotated, Any

import bentoml
import classify


@bentoml.service(
    workers=int(os.environ["BENCH_WORKERS"]),
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
    tracing={"sample_rate": 0.0},
)
class Classifier:
    """Classifies images."""

    def __init__(self) -> None:
        self.session = classify.open_session()

    @bentoml.api
    async def predict(
        self, image: Annotated[Path, bentoml.validators.ContentType("image/*")], /
    ) -> dict[str, Any]:
        """Classify an image file."""
        return classify.document(classify.run(self.session, classify.from_file(image.read_bytes())))

    @bentoml.api
    async def pixels(self, images: bytes, /) -> dict[str, Any]:
        """Classify pixels, 784 bytes an image."""
        return classify.document(classify.run(self.session, classify.from_octets(images)))
