"""The `config.pbtxt` that lets NVIDIA Triton serve the same model repository, unchanged."""

import json

MAX_BATCH = 1024

FIRST_LINE = "# Written by Glyph when it publishes; the same for every version of this model."
"""By which a configuration is known to be nobody else's."""

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

    The batch axis is left out of `dims`, as `max_batch_size > 0` asks. Source: the model
    configuration reference of the Triton Inference Server.
    """
    return _TEMPLATE.format(
        first_line=FIRST_LINE, name=json.dumps(name), classes=classes, max_batch=MAX_BATCH
    )
