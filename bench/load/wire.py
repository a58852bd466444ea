"""The bytes of a request in each server's own form, and the probabilities in its answer.

Sources: the Open Inference Protocol's REST and binary data specifications
(https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol, and its
binary tensor extension, which Triton and KServe share); MLflow's scoring protocol
(https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally).
"""

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from PIL import Image

Images = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]
BINARY_HEADER = "inference-header-content-length"


@dataclass(frozen=True, slots=True)
class Message:
    """A request's body, or an answer's, with the fields that tell how to read it."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """How a server takes images and answers."""

    path: str
    """`{model}` in it is the model's name."""
    encode: Callable[[Images], Message]
    """The request of `uint8[n, 28, 28]`, its content type among the fields."""
    decode: Callable[[Message], Probabilities]
    """The probabilities of an answer, `float32[n, classes]`."""

    def request(self, images: Images, model: str) -> bytes:
        """Return the request's bytes, whole."""
        message = self.encode(images)
        fields = {"Host": "127.0.0.1", **message.headers, "Content-Length": str(len(message.body))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"POST {self.path.format(model=model)} HTTP/1.1\r\n{lines}\r\n".encode() + message.body


def png(image: Images) -> bytes:
    """Return an image of `uint8[28, 28]` as Pillow writes it."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def file_body(images: Images) -> Message:
    """Return the one image as a PNG."""
    return Message(png(images[0]), {"Content-Type": "image/png"})


def octets_body(images: Images) -> Message:
    """Return the pixels, 784 bytes an image."""
    return Message(images.tobytes(), {"Content-Type": "application/octet-stream"})


def json_body(document: Callable[[Images], Any]) -> Callable[[Images], Message]:
    """Return an encoder that writes a document of the images as JSON."""
    return lambda images: Message(orjson.dumps(document(images)), {"Content-Type": "application/json"})


def base64_of_file(images: Images) -> str:
    """Return base64 of the one image's PNG."""
    return base64.b64encode(png(images[0])).decode()


def base64_of_octets(images: Images) -> str:
    """Return base64 of the pixels."""
    return base64.b64encode(images.tobytes()).decode()


def open_inference_json(images: Images) -> Any:
    """Return a request of the Open Inference Protocol with its tensor as numbers."""
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(images.shape)}
    return {"inputs": [tensor | {"data": images.ravel().tolist()}]}


def open_inference_binary(images: Images) -> Message:
    """Return a request of the Open Inference Protocol with its tensor, and the answer's, as bytes."""
    tensor: dict[str, Any] = {"name": "images", "datatype": "UINT8", "shape": list(images.shape)}
    tensor["parameters"] = {"binary_data_size": images.size}
    output = {"name": "probabilities", "parameters": {"binary_data": True}}
    head = orjson.dumps({"inputs": [tensor], "outputs": [output]})
    fields = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return Message(head + images.tobytes(), fields)


def predictions(answer: Message) -> Probabilities:
    """Read the answer of Glyph's `/predict`, or of the peers' `classify.document`."""
    rows = [prediction["probabilities"] for prediction in orjson.loads(answer.body)["predictions"]]
    return np.array([list(row.values()) if isinstance(row, dict) else row for row in rows], np.float32)


def bare_predictions(answer: Message) -> Probabilities:
    """Read MLflow's answer."""
    return np.array(orjson.loads(answer.body)["predictions"], np.float32)


def tensors(answer: Message) -> Probabilities:
    """Read an answer of the Open Inference Protocol, JSON or binary."""
    length = int(answer.headers.get(BINARY_HEADER, len(answer.body)))
    tensor = orjson.loads(answer.body[:length])["outputs"][0]
    if "data" in tensor:
        return np.array(tensor["data"], np.float32).reshape(tensor["shape"])
    return np.frombuffer(answer.body[length:], "<f4").reshape(tensor["shape"])
