"""Request and response formats of the servers.

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
    """The body of a request or response, with the headers that describe it."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """A server's request and response format."""

    path: str
    """`{model}` is replaced by the model's name."""
    encode: Callable[[Images], Message]
    """Encodes `uint8[n, 28, 28]` as a request body with its content type."""
    decode: Callable[[Message], Probabilities]
    """Decodes a response to probabilities, `float32[n, classes]`."""

    def request(self, images: Images, model: str) -> bytes:
        """Return the bytes of a request."""
        message = self.encode(images)
        fields = {"Host": "127.0.0.1", **message.headers, "Content-Length": str(len(message.body))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"POST {self.path.format(model=model)} HTTP/1.1\r\n{lines}\r\n".encode() + message.body


def png(image: Images) -> bytes:
    """Return `uint8[28, 28]` as a PNG file written by Pillow."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def file_body(images: Images) -> Message:
    """Return the only image as a PNG file."""
    return Message(png(images[0]), {"Content-Type": "image/png"})


def octets_body(images: Images) -> Message:
    """Return the pixels, 784 bytes per image."""
    return Message(images.tobytes(), {"Content-Type": "application/octet-stream"})


def json_body(document: Callable[[Images], Any]) -> Callable[[Images], Message]:
    """Return an encoder for a JSON document made from the images."""
    return lambda images: Message(orjson.dumps(document(images)), {"Content-Type": "application/json"})


def base64_of_file(images: Images) -> str:
    """Return base64 of the only image's PNG file."""
    return base64.b64encode(png(images[0])).decode()


def base64_of_octets(images: Images) -> str:
    """Return base64 of the pixels."""
    return base64.b64encode(images.tobytes()).decode()


def open_inference_json(images: Images) -> Any:
    """Return an Open Inference Protocol request with a JSON tensor."""
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(images.shape)}
    return {"inputs": [tensor | {"data": images.ravel().tolist()}]}


def open_inference_binary(images: Images) -> Message:
    """Return an Open Inference Protocol request with binary tensors in request and response."""
    return _binary({"name": "images", "datatype": "UINT8", "shape": list(images.shape)}, images.tobytes())


def open_inference_file(images: Images) -> Message:
    """Return the only image as a PNG file in a binary BYTES tensor: four bytes of length, and the file."""
    file = png(images[0])
    data = len(file).to_bytes(4, "little") + file
    return _binary({"name": "file", "datatype": "BYTES", "shape": [1, 1]}, data)


def _binary(tensor: dict[str, Any], data: bytes) -> Message:
    output = {"name": "probabilities", "parameters": {"binary_data": True}}
    head = orjson.dumps(
        {"inputs": [tensor | {"parameters": {"binary_data_size": len(data)}}], "outputs": [output]}
    )
    fields = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return Message(head + data, fields)


def predictions(answer: Message) -> Probabilities:
    """Decode the response of Glyph's `/predict` or of the peers' `classify.document`."""
    rows = [prediction["probabilities"] for prediction in orjson.loads(answer.body)["predictions"]]
    return np.array([list(row.values()) if isinstance(row, dict) else row for row in rows], np.float32)


def bare_predictions(answer: Message) -> Probabilities:
    """Decode MLflow's response."""
    return np.array(orjson.loads(answer.body)["predictions"], np.float32)


def tensors(answer: Message) -> Probabilities:
    """Decode an Open Inference Protocol response, JSON or binary."""
    length = int(answer.headers.get(BINARY_HEADER, len(answer.body)))
    tensor = orjson.loads(answer.body[:length])["outputs"][0]
    if "data" in tensor:
        return np.array(tensor["data"], np.float32).reshape(tensor["shape"])
    return np.frombuffer(answer.body[length:], "<f4").reshape(tensor["shape"])
