"""The JSON Schemas of the API's description, and the example image that its examples show."""

from typing import Any

from bundle.images import PARSERS
from bundle.manifest import IMAGE_SIZE
from serving.settings import ServiceSettings

EXAMPLE_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAABwAAAAcAQAAAABaduI5AAAAOUlEQVR42oXJsQmAMAAF0ZePkM55Mr6jZAyLgBYm2OkVx8HxSblO"
    "YRMGNJkC/akoXeRYo1rjrd0PNxSnBiD0fo7EAAAAAElFTkSuQmCC"
)
"""A drawn 7, 28x28, as a PNG file in base64."""

_ROWS = (0,) * 6 + (
    *(0x1FFF80, 0x1FFFC0, 0x1FFF80, 0x380, 0x700, 0x700, 0xE00, 0xE00),
    *(0x1C00, 0x3800, 0x3800, 0x7000, 0x7000, 0xE000, 0xE000, 0x1C000),
)
EXAMPLE_IMAGE = [
    [255 * (bits >> (IMAGE_SIZE - 1 - column) & 1) for column in range(IMAGE_SIZE)]
    for bits in _ROWS + (0,) * (IMAGE_SIZE - len(_ROWS))
]
"""The same as 28 lists of 28 numbers."""

_PIXEL = {"type": "integer", "minimum": 0, "maximum": 255}
_PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1.00001}
_DIGEST = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_BASE64_IMAGE = {
    "type": "string",
    "format": "image-base64",
    "contentEncoding": "base64",
    "description": f"An image file ({', '.join(PARSERS)}), base64 (RFC 4648, section 4).",
}


def _array(items: dict[str, Any], length: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": length, "maxItems": length}


def _object(
    properties: dict[str, Any], *, optional: tuple[str, ...] = (), closed: bool = True
) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
    }
    return schema | ({"additionalProperties": False} if closed else {})


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def schemas(settings: ServiceSettings) -> dict[str, Any]:
    """Return the schemas by name; `settings` has the limits that they state."""
    return _predictions(settings) | _metadata() | _protocol(settings)


def _predictions(settings: ServiceSettings) -> dict[str, Any]:
    pixels = {
        "oneOf": [
            _array(_PIXEL, IMAGE_SIZE**2) | {"title": "784 numbers, row by row"},
            _array(_array(_PIXEL, IMAGE_SIZE), IMAGE_SIZE) | {"title": "28 lists of 28 numbers"},
        ]
    }
    instance = {
        "anyOf": [
            pixels,
            _BASE64_IMAGE | {"title": "base64 or a data URL"},
            _object({"b64": _BASE64_IMAGE}) | {"title": "as TensorFlow Serving writes it"},
        ]
    }
    return {
        "Instances": _object(
            {
                "instances": {
                    "type": "array",
                    "items": instance,
                    "minItems": 1,
                    "maxItems": settings.max_images,
                }
            }
        ),
        "Model": _object(
            {"name": {"type": "string"}, "version": {"type": "integer", "minimum": 1}, "digest": _DIGEST}
        ),
        "Prediction": _object(
            {
                "label": {"type": ["string", "null"], "description": "Null where ?threshold is not reached."},
                "index": {"type": ["integer", "null"], "minimum": 0},
                "probability": _PROBABILITY,
                "probabilities": {"type": "object", "additionalProperties": _PROBABILITY},
                "warnings": {"type": "array", "items": {"type": "string"}},
                "filename": {"type": "string"},
            },
            optional=("filename",),
        ),
        "Predictions": _object(
            {
                "model": _ref("Model"),
                "predictions": {"type": "array", "items": _ref("Prediction"), "minItems": 1},
            }
        ),
        "Problem": _object(
            {
                "type": {"type": "string", "format": "uri", "pattern": "^urn:glyph:problem:"},
                "title": {"type": "string"},
                "status": {"type": "integer", "minimum": 400, "maximum": 599},
                "detail": {"type": "string"},
                "remedy": {"type": "string"},
                "upload": {"type": "integer", "minimum": 0, "description": "Which file of a form, from 0."},
                "filename": {"type": ["string", "null"]},
                "instance": {"type": "integer", "minimum": 0, "description": "Which instance, from 0."},
            },
            optional=("upload", "filename", "instance"),
            closed=False,
        )
        | {"description": "RFC 9457 problem details, with the remedy."},
    }


def _metadata() -> dict[str, Any]:
    number = {"type": "number", "minimum": 0}
    names = ("images", "accuracy", "nll", "ece", "nll_calibrated", "ece_calibrated")
    return {
        "Live": _object({"live": {"type": "boolean"}}),
        "Ready": _object(
            {
                "ready": {"type": "boolean"},
                "model": _ref("Model"),
                "provider": {"enum": ["cpu", "cuda"]},
                "arithmetic": {"enum": ["float32", "integer", "mixed"]},
                "loaded": {"type": "array", "items": {"type": "integer"}},
                "refused": {
                    "type": "array",
                    "items": _object({"version": {"type": "integer"}, "reason": {"type": "string"}}),
                },
            },
            closed=False,
        ),
        "Metrics": _object(dict.fromkeys(names, number)),
        "Metadata": _object(
            {
                "model": _ref("Model"),
                "created": {"type": "string"},
                "provider": {"enum": ["cpu", "cuda"]},
                "arithmetic": {"enum": ["float32", "integer", "mixed"]},
                "input": _object(
                    {
                        "height": {"const": IMAGE_SIZE},
                        "width": {"const": IMAGE_SIZE},
                        "dtype": {"const": "uint8"},
                        "polarity": {"enum": ["white-on-black", "black-on-white"]},
                        "media_types": {"type": "array", "items": {"type": "string"}},
                        "conversions": {"type": "object", "additionalProperties": {"type": "string"}},
                    }
                ),
                "classes": {"type": "array", "items": {"type": "string"}, "minItems": 2},
                "validation": _ref("Metrics"),
                "test": _ref("Metrics"),
                "calibration": _object({"method": {"type": "string"}, "temperature": number}),
                "limits": _object(
                    {name: {"type": "integer"} for name in ("body_bytes", "image_bytes", "files", "images")}
                ),
            }
        ),
        "Samples": _object(
            {
                "samples": {
                    "type": "array",
                    "items": _object({"label": {"type": "string"}, "png": _BASE64_IMAGE}),
                }
            }
        ),
    }


def _protocol(settings: ServiceSettings) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "additionalProperties": {"type": ["string", "number", "boolean"]},
        "description": "Names other than those of the extensions are left alone.",
    }
    flag = {"type": "boolean", "default": False}
    numbers = {"anyOf": [_PIXEL, {"type": "array", "items": {"type": "array", "items": _PIXEL}}]}
    tensor = {"name": {"type": "string"}, "datatype": {"type": "string"}}
    shape = {"type": "array", "items": {"type": "integer"}}
    images = {"type": "integer", "minimum": 1, "maximum": settings.max_images}
    size = {"const": IMAGE_SIZE}
    return {
        "ProtocolError": _object({"error": {"type": "string"}}),
        "Server": _object(
            {
                "name": {"type": "string"},
                "version": {"type": "string"},
                "extensions": {"type": "array", "items": {"type": "string"}},
            }
        ),
        "ServerReady": _object({"ready": {"const": True}, "live": {"const": True}}),
        "ModelReady": _object({"name": {"type": "string"}, "ready": {"const": True}}),
        "Tensor": _object(tensor | {"shape": shape}),
        "ModelMetadata": _object(
            {
                "name": {"type": "string"},
                "versions": {"type": "array", "items": {"type": "string"}},
                "platform": {"const": "onnx_onnxv1"},
                "inputs": {"type": "array", "items": _ref("Tensor")},
                "outputs": {"type": "array", "items": _ref("Tensor")},
                "properties": {"type": "object", "additionalProperties": {"type": "string"}},
            }
        ),
        "InferenceRequest": _object(
            {
                "id": {"type": "string"},
                "parameters": parameters | {"properties": {"binary_data_output": flag}},
                "inputs": _array(_ref("RequestInput"), 1),
                "outputs": {"type": "array", "items": _ref("RequestOutput"), "maxItems": 2},
            },
            optional=("id", "parameters", "outputs"),
            closed=False,
        ),
        "RequestInput": _object(
            {
                "name": {"const": "images"},
                "datatype": {"const": "UINT8"},
                "shape": {"type": "array", "prefixItems": [images, size, size], "minItems": 3, "maxItems": 3},
                "data": {
                    "type": "array",
                    "items": numbers,
                    "minItems": 1,
                    "description": "As many numbers as the shape says, flat or nested as the shape is.",
                },
                "parameters": parameters,
            },
            optional=("parameters",),
            closed=False,
        ),
        "RequestOutput": _object(
            {
                "name": {"enum": ["logits", "probabilities"]},
                "parameters": parameters | {"properties": {"binary_data": flag}},
            },
            optional=("parameters",),
            closed=False,
        ),
        "InferenceResponse": _object(
            {
                "model_name": {"type": "string"},
                "model_version": {"type": "string"},
                "id": {"type": "string"},
                "outputs": {"type": "array", "items": _ref("ResponseOutput"), "minItems": 1, "maxItems": 2},
            },
            optional=("id",),
        ),
        "ResponseOutput": _object(
            tensor
            | {
                "shape": shape,
                "data": {"type": "array", "items": {"type": "number"}},
                "parameters": parameters,
            },
            optional=("data", "parameters"),
        ),
    }
