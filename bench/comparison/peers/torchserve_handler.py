"""TorchServe's handler: its Java front end batches requests, this process decodes and runs the batches."""

from typing import Any

import classify


class Classifier:
    """Classifies image files and pixels."""

    def initialize(self, context: Any) -> None:
        """Load the model."""
        del context
        self.session = classify.open_session()

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[dict[str, Any]]:
        """Run all requests of the batch at once."""
        del context
        requests = []
        for part in data:
            body = bytes(part.get("body") or part["data"])
            png = body.startswith(b"\x89PNG")
            requests.append(classify.from_file(body) if png else classify.from_octets(body))
        probabilities = classify.run(self.session, classify.joined(requests))
        return classify.documents(probabilities, [len(images) for images in requests])


_service = Classifier()


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[dict[str, Any]] | None:
    """Be the module's entry point, which TorchServe asks for."""
    if not hasattr(_service, "session"):
        _service.initialize(context)
    return None if data is None else _service.handle(data, context)
