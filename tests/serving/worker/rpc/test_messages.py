"""The messages of gRPC: what the service reads is what its .proto files say."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from serving.errors import MalformedBodyError
from serving.worker.rpc.messages import DESCRIPTORS, message_class, parsed

pytest.importorskip("grpc_tools", reason="grpcio-tools, of the extra 'development', is not installed")


def test_the_binary_form_is_that_of_the_proto_files(tmp_path: Path) -> None:
    """`open_inference.proto` has the command that makes it again."""
    folder, made = DESCRIPTORS.parent, tmp_path / "made"
    protos = sorted(path.name for path in folder.glob("*.proto"))
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        "-I",
        ".",
        "--descriptor_set_out",
        str(made),
        *protos,
    ]
    subprocess.run(command, cwd=folder, check=True)
    assert FileDescriptorSet.FromString(made.read_bytes()) == FileDescriptorSet.FromString(
        DESCRIPTORS.read_bytes()
    )


@pytest.mark.parametrize(
    "body",
    [
        b"\x80" * 11,  # a number without an end
        b"\x0b" * 2,  # a group
        b"\x0a\xff\xff\xff\xff\x0f",  # longer than the body
        b"\x09\0",  # half of eight bytes
    ],
)
def test_a_long_body_that_cannot_be_taken_apart_is_malformed(body: bytes) -> None:
    """Long ones are counted before they are parsed, by the same rules."""
    padding = b"\x0a\xfc\x7f" + bytes(0x3FFC)  # a name of 16 KiB
    kind = message_class("inference.ModelInferRequest")
    assert parsed(kind, padding)
    with pytest.raises(MalformedBodyError):
        parsed(kind, padding + body)
