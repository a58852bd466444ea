"""`config.pbtxt`, with which NVIDIA Triton serves the same model repository, and the same as JSON."""

import json
from typing import Any

MAX_BATCH = 1024

FIRST_LINE = "# Written by Glyph when it publishes; the same for every version of this model."
"""Marks a configuration as written by Glyph."""

_TEMPLATE = """\
{first_line}
name: {name}
platform: "onnxruntime_onnx"
max_batch_size: {max_batch}
input [
  {{ name: "images" data_type: TYPE_UINT8 dims: [ 28, 28 ] }}
]
output [
  {{ name: "logits" data_type: TYPE_FP32 dims: [ {classes} ] }},
  {{ name: "probabilities" data_type: TYPE_FP32 dims: [ {classes} ] }}
]
dynamic_batching {{ }}
"""


def config_pbtxt(name: str, classes: int) -> str:
    """Return Triton's ModelConfig (protobuf text form) for a model of `classes` classes.

    `dims` does not include the batch axis, because `max_batch_size` is above 0. Source: the model configuration
    reference of the Triton Inference Server.
    """
    return _TEMPLATE.format(
        first_line=FIRST_LINE, name=json.dumps(name), classes=classes, max_batch=MAX_BATCH
    )


def model_config(name: str, classes: int, max_batch: int = MAX_BATCH) -> dict[str, Any]:
    """Return `config_pbtxt` as JSON, as Triton's model configuration extension has it: 64-bit integers are numbers."""
    return {
        "name": name,
        "platform": "onnxruntime_onnx",
        "max_batch_size": max_batch,
        "input": [{"name": "images", "data_type": "TYPE_UINT8", "dims": [28, 28]}],
        "output": [
            {"name": output, "data_type": "TYPE_FP32", "dims": [classes]}
            for output in ("logits", "probabilities")
        ],
        "dynamic_batching": {},
    }
