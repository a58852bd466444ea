"""The API, described: OpenAPI 3.1, every operation with its media types, errors and examples."""

from typing import Any

from bundle import __version__
from bundle.images import PARSERS
from bundle.manifest import IMAGE_SIZE
from serving.description.errors import ACCESS, FAILURES, INFER, PREDICT, problems, protocol_errors
from serving.description.fields import HEADERS, PARAMETERS
from serving.description.schemas import EXAMPLE_IMAGE, EXAMPLE_PNG, schemas
from serving.errors import NotFoundError
from serving.messages import JSON
from serving.settings import ServiceSettings

_DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_MODEL = {"name": "mnist", "version": 1, "digest": _DIGEST}
_PROBABILITIES = [0.0001, 0.0002, 0.0012, 0.0006, 0.0001, 0.0002, 0.0001, 0.9968, 0.0003, 0.0004]
_PREDICTION = {
    "label": "7",
    "index": 7,
    "probability": 0.9968,
    "probabilities": {str(digit): p for digit, p in enumerate(_PROBABILITIES)},
    "warnings": [],
}
_RAW = f"uint8 of N x {IMAGE_SIZE} x {IMAGE_SIZE}, N at least 1, row by row"
_FLAT = [pixel for row in EXAMPLE_IMAGE for pixel in row]


def document(settings: ServiceSettings) -> dict[str, Any]:
    """Return the OpenAPI document; `settings` has the limits, and whether tokens are asked for."""
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Glyph",
            "version": __version__,
            "summary": f"Classifies {IMAGE_SIZE}x{IMAGE_SIZE} grayscale images.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "predictions", "description": "Images in, labels and probabilities out."},
            {"name": "model", "description": "What is served."},
            {"name": "health", "description": "For probes and load balancers."},
            {
                "name": "open inference protocol",
                "description": "Version 2 over REST, with the binary tensor data extension: what Triton's and "
                "KServe's clients speak.",
            },
            {"name": "pages", "description": "For people, and this description."},
        ],
        "paths": _own_paths() | _protocol_paths() | _pages(),
        "components": {"schemas": schemas(settings), "headers": HEADERS, "parameters": PARAMETERS},
    }
    if settings.tokens_file is not None:
        described["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"bearer": []}]
        for path in _OPEN_PATHS:
            described["paths"][path]["get"]["security"] = []
    return described


_OPEN_PATHS = ("/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready")


def _use(*names: str) -> list[dict[str, str]]:
    return [{"$ref": f"#/components/parameters/{name}"} for name in names]


def _curl(*lines: str) -> list[dict[str, str]]:
    return [{"lang": "Shell", "source": "\n".join(f"curl {line}" for line in lines)}]


def _ok(description: str, content: dict[str, Any], *headers: str) -> dict[str, Any]:
    named = ("X-Request-ID", *headers)
    return {
        "description": description,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in named},
        "content": content,
    }


def _json(schema: str, example: Any) -> dict[str, Any]:
    return {
        JSON: {
            "schema": {"$ref": f"#/components/schemas/{schema}"},
            "examples": {"answer": {"value": example}},
        }
    }


def _get(
    identifier: str, tag: str, summary: str, responses: dict[str, Any], *parameters: str
) -> dict[str, Any]:
    operation = {"operationId": identifier, "tags": [tag], "summary": summary, "responses": responses}
    return {"get": operation | ({"parameters": _use(*parameters)} if parameters else {})}


def _own_paths() -> dict[str, Any]:
    predict = {
        "operationId": "predict",
        "tags": ["predictions"],
        "summary": "Classify images",
        "description": "What the body is, its Content-Type says. Images come as a file, a form of files, JSON, or "
        "plain pixels; the answer has one prediction for each, in their order.",
        "x-codeSamples": _curl(
            "-H 'Content-Type: image/png' --data-binary @digit.png 'http://localhost:8080/predict?top=3'",
            "-F image=@one.png -F image=@two.png http://localhost:8080/predict",
            "-H 'Content-Type: application/x-npy' --data-binary @images.npy http://localhost:8080/predict",
        ),
        "parameters": _use("top", "threshold", "X-Request-ID", "X-Request-Timeout-Ms"),
        "requestBody": {"required": True, "content": _predict_bodies()},
        "responses": {
            "200": _ok("One prediction for each image.", _predictions(), "Server-Timing"),
            **problems(PREDICT),
        },
    }
    running = {"provider": "cpu", "arithmetic": "mixed"}
    ready = {"ready": True, "model": _MODEL, **running, "loaded": [3], "refused": []}
    readiness = {"200": _ok("Send traffic.", _json("Ready", ready)), **problems(FAILURES)}
    metrics = {"images": 10000, "accuracy": 0.9927, "nll": 0.024, "ece": 0.004, "nll_calibrated": 0.024}
    metadata = {
        "model": _MODEL,
        "created": "2026-11-22T00:00:00Z",
        **running,
        "input": {
            "height": IMAGE_SIZE,
            "width": IMAGE_SIZE,
            "dtype": "uint8",
            "polarity": "white-on-black",
            "media_types": list(PARSERS),
            "conversions": {"alpha": "is composited on black"},
        },
        "classes": [str(digit) for digit in range(10)],
        "validation": metrics | {"ece_calibrated": 0.003},
        "test": metrics | {"ece_calibrated": 0.003},
        "calibration": {"method": "temperature scaling", "temperature": 1.02},
        "limits": {"body_bytes": 8388608, "image_bytes": 1048576, "files": 256, "images": 1024},
    }
    return {
        "/predict": {"post": predict},
        "/metadata": _get(
            "metadata",
            "model",
            "What the model takes, its classes, its accuracy and its calibration",
            {
                "200": _ok("Of the model that is served.", _json("Metadata", metadata)),
                **problems((*ACCESS, *FAILURES)),
            },
        ),
        "/livez": _get("livez", "health", "Whether the process answers", _live()),
        "/readyz": _get("readyz", "health", "Whether predictions are answered", readiness),
        "/healthz": _get("healthz", "health", "The same as /readyz", readiness),
    }


def _live() -> dict[str, Any]:
    return {"200": _ok("It answers.", _json("Live", {"live": True}))}


def _predict_bodies() -> dict[str, Any]:
    file = {"type": "string", "format": "binary", "contentMediaType": "image/png"}
    form = {
        "type": "object",
        "properties": {"image": {"type": "array", "items": file, "minItems": 1}},
        "required": ["image"],
        "additionalProperties": False,
        "description": "One file or several. Parts may have another name; text fields are refused.",
    }
    instances = {
        "pixels": {"summary": "28 lists of 28 numbers", "value": {"instances": [EXAMPLE_IMAGE]}},
        "flat": {"summary": "784 numbers", "value": {"instances": [_FLAT]}},
        "files": {
            "summary": "Base64, in its three forms",
            "value": {
                "instances": [EXAMPLE_PNG, {"b64": EXAMPLE_PNG}, f"data:image/png;base64,{EXAMPLE_PNG}"]
            },
        },
        "mixed": {"summary": "One of each", "value": {"instances": [_FLAT, EXAMPLE_PNG]}},
    }
    binary = {"type": "string", "format": "binary"}
    return {
        **{media_type: {"schema": {**binary, "contentMediaType": media_type}} for media_type in PARSERS},
        "multipart/form-data": {"schema": form, "encoding": {"image": {"contentType": ", ".join(PARSERS)}}},
        JSON: {"schema": {"$ref": "#/components/schemas/Instances"}, "examples": instances},
        "application/octet-stream": {"schema": {**binary, "description": f"{_RAW}, without a header."}},
        "application/x-npy": {"schema": {**binary, "description": f"What numpy.save writes of {_RAW}."}},
    }


def _predictions() -> dict[str, Any]:
    listed = {"7": 0.9968, "2": 0.0012, "3": 0.0006}
    abstained = _PREDICTION | {"label": None, "index": None}
    examples = {
        "one": {"predictions": [_PREDICTION]},
        "top": {"predictions": [_PREDICTION | {"probabilities": listed}]},
        "abstained": {"predictions": [abstained]},
        "form": {"predictions": [_PREDICTION | {"filename": "digit.png"}]},
    }
    return {
        JSON: {
            "schema": {"$ref": "#/components/schemas/Predictions"},
            "examples": {name: {"value": {"model": _MODEL} | value} for name, value in examples.items()},
        }
    }


def _protocol_paths() -> dict[str, Any]:
    tag = "open inference protocol"
    access = protocol_errors((*ACCESS, *FAILURES))
    found = protocol_errors((*ACCESS, *FAILURES, NotFoundError))
    server = {"name": "glyph", "version": __version__, "extensions": ["binary_tensor_data"]}
    shape = [-1, IMAGE_SIZE, IMAGE_SIZE]
    model = {
        "name": "mnist",
        "versions": ["1"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": shape}],
        "outputs": [
            {"name": name, "datatype": "FP32", "shape": [-1, 10]} for name in ("logits", "probabilities")
        ],
        "properties": {
            "digest": _DIGEST,
            "execution_provider": "CPUExecutionProvider",
            "arithmetic": "mixed",
        },
    }
    paths = {
        "/v2": _get(
            "serverMetadata",
            tag,
            "The server",
            {"200": _ok("Its extensions.", _json("Server", server)), **access},
        ),
        "/v2/health/live": _get("serverLive", tag, "Whether the server answers", _live()),
        "/v2/health/ready": _get(
            "serverReady",
            tag,
            "Whether the model is ready",
            {
                "200": _ok("It is.", _json("ServerReady", {"ready": True, "live": True})),
                **protocol_errors(FAILURES),
            },
        ),
    }
    for name, path, parameters in (
        ("model", "/v2/models/{model}", ("model",)),
        ("version", "/v2/models/{model}/versions/{version}", ("model", "version")),
    ):
        paths[path] = _get(
            f"{name}Metadata",
            tag,
            "The model",
            {"200": _ok("Its tensors.", _json("ModelMetadata", model)), **found},
            *parameters,
        )
        ready = {"200": _ok("It is.", _json("ModelReady", {"name": "mnist", "ready": True})), **found}
        paths[f"{path}/ready"] = _get(f"{name}Ready", tag, "Whether the model is ready", ready, *parameters)
        paths[f"{path}/infer"] = {"post": _infer(f"{name}Infer", tag, parameters)}
    return paths


def _infer(identifier: str, tag: str, parameters: tuple[str, ...]) -> dict[str, Any]:
    given = {"name": "images", "datatype": "UINT8", "shape": [1, IMAGE_SIZE, IMAGE_SIZE]}
    answered = {
        "model_name": "mnist",
        "model_version": "1",
        "id": "42",
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [1, 10], "data": _PROBABILITIES}],
    }
    request = {
        "schema": {"$ref": "#/components/schemas/InferenceRequest"},
        "examples": {
            "flat": {
                "summary": "One output, the data flat",
                "value": {
                    "id": "42",
                    "inputs": [given | {"data": _FLAT}],
                    "outputs": [{"name": "probabilities"}],
                },
            },
            "nested": {
                "summary": "All outputs, the data nested",
                "value": {"inputs": [given | {"data": [EXAMPLE_IMAGE]}]},
            },
            "binary outputs": {
                "summary": "The outputs as binary data",
                "value": {"parameters": {"binary_data_output": True}, "inputs": [given | {"data": _FLAT}]},
            },
        },
    }
    raw = "The JSON and the binary tensor behind it, or one raw tensor alone: Inference-Header-Content-Length tells."
    binary = {"type": "string", "format": "binary"}
    return {
        "operationId": identifier,
        "tags": [tag],
        "summary": "Run the model",
        "x-codeSamples": _curl(
            "-H 'Inference-Header-Content-Length: 0' --data-binary @pixels.bin -o outputs.bin \\\n"
            "  http://localhost:8080/v2/models/mnist/infer"
        ),
        "parameters": _use(
            *parameters, "X-Request-ID", "X-Request-Timeout-Ms", "Inference-Header-Content-Length"
        ),
        "requestBody": {
            "required": True,
            "content": {
                JSON: request,
                "application/octet-stream": {"schema": {**binary, "description": raw}},
            },
        },
        "responses": {
            "200": _ok(
                "The outputs.",
                _json("InferenceResponse", answered) | {"application/octet-stream": {"schema": binary}},
                "Server-Timing",
                "Inference-Header-Content-Length",
            ),
            **protocol_errors(INFER),
        },
    }


def _pages() -> dict[str, Any]:
    html = {"text/html": {"schema": {"type": "string"}}}
    samples = {"samples": [{"label": "7", "png": EXAMPLE_PNG}]}
    described = {JSON: {"schema": {"type": "object", "required": ["openapi", "info", "paths"]}}}
    refused = problems(ACCESS)
    return {
        "/": _get(
            "page", "pages", "The page that classifies what is drawn", {"200": _ok("HTML.", html, "ETag")}
        ),
        "/samples": _get(
            "samples",
            "model",
            "Images of the model's classes",
            {
                "200": _ok("One for each class.", _json("Samples", samples), "ETag"),
                **problems((*ACCESS, *FAILURES)),
            },
        ),
        "/openapi.json": _get(
            "openapi", "pages", "This description", {"200": _ok("OpenAPI 3.1.", described, "ETag"), **refused}
        ),
        "/docs": _get(
            "docs", "pages", "This description for people", {"200": _ok("HTML.", html, "ETag"), **refused}
        ),
    }
