"""`config.pbtxt`: protobuf text form, with the fields that Triton's ModelConfig has."""

import re
from typing import Any

import pytest

from bundle.triton import config_pbtxt, model_config

TOKEN = re.compile(r'\s+|#[^\n]*|(?P<token>"(?:[^"\\]|\\.)*"|[A-Za-z_]\w*|-?\d+|[:{}\[\],])')


def tokens(text: str) -> list[str]:
    """Split protobuf text form into tokens; what is none is an error."""
    found, position = [], 0
    while position < len(text):
        match = TOKEN.match(text, position)
        assert match, f"no token at {text[position : position + 20]!r}"
        position = match.end()
        if match["token"]:
            found.append(match["token"])
    return found


def parse_value(left: list[str]) -> Any:
    """Take a message, a list, a string, a number or a name off the end of the reversed tokens."""
    first = left.pop()
    if first == "{":
        return parse_message(left, "}")
    if first == "[":
        items = []
        while left[-1] != "]":
            items.append(parse_value(left))
            assert left[-1] == "]" or (left.pop() == "," and left[-1] != "]")
        left.pop()
        return items
    if first.startswith('"'):
        return first[1:-1]
    return int(first) if first.lstrip("-").isdigit() else first


def parse_message(left: list[str], end: str) -> dict[str, Any]:
    """Take fields off the end of the reversed tokens until `end`."""
    fields: dict[str, Any] = {}
    while left and left[-1] != end:
        name = left.pop()
        assert name.isidentifier()
        assert name not in fields
        if left[-1] == ":":
            left.pop()
        else:
            assert left[-1] in "{["  # only messages may go without a colon
        fields[name] = parse_value(left)
    assert not end or left.pop() == end
    return fields


def parse(text: str) -> dict[str, Any]:
    """Parse protobuf text form (its specification's grammar, as far as a configuration needs it)."""
    return parse_message(tokens(text)[::-1], "")


@pytest.mark.parametrize(("name", "classes"), [("mnist", 10), ("a-b.c_d", 2), ("x", 1000)])
def test_the_configuration_is_what_triton_asks_for(name: str, classes: int) -> None:
    """Name, backend, inputs and outputs are as in the model configuration reference of Triton."""
    config = parse(config_pbtxt(name, classes))
    batch = config.pop("max_batch_size")
    assert batch >= 256
    assert config == {
        "name": name,
        "platform": "onnxruntime_onnx",
        # With max_batch_size > 0, dims leave the batch axis out.
        "input": [{"name": "images", "data_type": "TYPE_UINT8", "dims": [28, 28]}],
        "output": [
            {"name": "logits", "data_type": "TYPE_FP32", "dims": [classes]},
            {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [classes]},
        ],
        "dynamic_batching": {},
    }


@pytest.mark.parametrize(("name", "classes"), [("mnist", 10), ("x", 1000)])
def test_the_json_is_what_the_file_says(name: str, classes: int) -> None:
    """As clients get it from Triton and from the service."""
    assert model_config(name, classes) == parse(config_pbtxt(name, classes))


def test_the_same_model_gives_the_same_bytes() -> None:
    """Publishing twice leaves the file as it is."""
    assert config_pbtxt("mnist", 10) == config_pbtxt("mnist", 10)
