"""The messages of the Open Inference Protocol and of gRPC's health checks, made from `messages.binpb`.

The file is both `.proto` files in binary form. Classes are made of it at import, in a descriptor pool of their own:
generated modules would want the protobuf release that generated them, or a later one, and put their names beside those
of any other package with the same messages.
"""

from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from serving.errors import MalformedBodyError, TooManyImagesError
from serving.predict.load_shedding import UNCOUNTED_BYTES

DESCRIPTORS = Path(__file__).with_name("messages.binpb")
MAX_FIELDS = 1024
"""Fields of one request, each element of a repeated message counted: an empty message takes 2 bytes in a body and 80 in
memory, so a body within its limit could otherwise take forty times as much."""

_POOL = DescriptorPool()
for _file in FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
    _POOL.AddSerializedFile(_file.SerializeToString())


def message_class(name: str) -> Any:
    """Return the class of a message, given its full name."""
    return GetMessageClass(_POOL.FindMessageTypeByName(name))


def parsed(kind: Any, body: bytes) -> Any:
    """Return the message of a class that a body holds.

    Raises:
        MalformedBodyError: the body holds no such message.
        TooManyImagesError: it has more fields than any request needs.
    """
    if len(body) > UNCOUNTED_BYTES:
        _count_fields(memoryview(body), kind.DESCRIPTOR, MAX_FIELDS)
    try:
        return kind.FromString(body)
    except DecodeError:
        raise _malformed() from None


def _malformed() -> MalformedBodyError:
    return MalformedBodyError(
        "the message cannot be parsed",
        remedy="Send a message of the Open Inference Protocol, as its clients and generated code do.",
    )


def _count_fields(body: memoryview, descriptor: Any, most: int) -> int:
    """Return how many of `most` fields are left when those of a message and of the messages in it are counted.

    Source: protobuf.dev/programming-guides/encoding: a field is a tag, and a varint, 8 or 4 bytes, or a length and as
    many bytes.
    """
    at, end = 0, len(body)
    while at < end:
        most -= 1
        if most < 0:
            raise TooManyImagesError(
                f"the message has more than {MAX_FIELDS} fields",
                remedy="Send one input, with its images as raw_input_contents or as packed uint_contents.",
            )
        tag, at = _varint(body, at)
        match tag & 7:
            case 0:
                _, at = _varint(body, at)
            case 1:
                at += 8
            case 5:
                at += 4
            case 2:
                length, at = _varint(body, at)
                field = descriptor.fields_by_number.get(tag >> 3)
                if field is not None and field.message_type is not None:
                    most = _count_fields(body[at : at + length], field.message_type, most)
                at += length
            case _:
                raise _malformed()
    if at > end:
        raise _malformed()
    return most


def _varint(body: memoryview, at: int) -> tuple[int, int]:
    """Return a number of 7 bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(body):
            break
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _malformed()
