"""What the Open Inference Protocol says about the server and the model, over HTTP and over gRPC.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md and open_inference_rest.yaml.
"""

from typing import Any

from bundle import __version__
from bundle.manifest import IMAGE_SIZE
from serving.model.engine import PROVIDER_NAMES, Engine
from serving.predict.oip import INPUT, OUTPUTS

EXTENSIONS = ["binary_tensor_data"]
PLATFORM = "onnx_onnxv1"
SERVER_METADATA: dict[str, Any] = {"name": "glyph", "version": __version__, "extensions": EXTENSIONS}


def model_metadata(engine: Engine, versions: list[int]) -> dict[str, Any]:
    """Return the metadata of a model.

    Args:
        engine: of the version that was asked for.
        versions: all that are loaded.
    """
    manifest = engine.bundle.manifest
    return {
        "name": manifest.name,
        "versions": [str(loaded) for loaded in versions],
        "platform": PLATFORM,
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, IMAGE_SIZE, IMAGE_SIZE]}],
        "outputs": [
            {"name": name, "datatype": "FP32", "shape": [-1, len(manifest.classes)]} for name in OUTPUTS
        ],
        # Strings by name (open_inference_rest.yaml).
        "properties": {
            "digest": manifest.digest,
            "execution_provider": PROVIDER_NAMES[engine.provider],
            "arithmetic": engine.precision,
            **({"resize": manifest.input.resize} if manifest.input.resize else {}),
        },
    }
