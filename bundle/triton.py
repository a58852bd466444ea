"""`config.pbtxt`, with which NVIDIA Triton serves the same model repository."""

import json

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
