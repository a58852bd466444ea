"""Hostile bytes over gRPC: none is answered with a failure of the service, or ends the process."""

import gzip
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bundle.repository import Bundle
from serving.worker.rpc.messages import MAX_FIELDS
from serving.worker.rpc.status import CODES
from tests.serving.worker.rpc.peer import INFER, Peer, Request, a_request, framed

INTERNAL = 13
EVERYWHERE = settings(max_examples=1500, suppress_health_check=list(HealthCheck), deadline=None)


def _seeds() -> list[bytes]:
    """Return requests with something in every field."""
    image = np.arange(784, dtype=np.uint16).astype(np.uint8).reshape(1, 28, 28)
    full = a_request(image, raw=False, id="mine", model_version="1")
    for holder in (full, full.inputs[0], full.outputs.add(name="logits")):
        holder.parameters["a"].int64_param = -1
        holder.parameters["b"].string_param = "é"
        holder.parameters["c"].double_param = float("nan")
    full.inputs[0].contents.fp32_contents.extend([0.5, float("inf")])
    full.inputs[0].contents.bytes_contents.append(b"x")
    return [a_request(image).SerializeToString(), full.SerializeToString(), b""]


SEEDS = _seeds()


@pytest.fixture(scope="module")
def peer(bundle: Bundle) -> Iterator[Peer]:
    """Return a client of a process whose bodies are short."""
    made = Peer(bundle.path.parent, max_body_bytes=8192)
    yield made
    made.close()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Return a request with some bytes replaced, removed, repeated or put in."""
    body = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, len(body)))
        length = draw(st.integers(0, 16))
        match draw(st.sampled_from(("replace", "remove", "repeat", "put in"))):
            case "replace":
                body[at : at + length] = draw(st.binary(max_size=16))
            case "remove":
                del body[at : at + length]
            case "repeat":
                body[at:at] = body[at : at + length] * draw(st.integers(1, 64))
            case _:
                body[at:at] = draw(st.binary(max_size=16))
    return bytes(body)


@given(body=mutated(), compressed=st.sampled_from((0, 0, 0, 1, 2, 255)))
@EVERYWHERE
def test_a_mutated_request_is_answered_or_rejected(peer: Peer, body: bytes, compressed: int) -> None:
    """With a status that is the client's fault, or with outputs; the connection goes on."""
    coding = {"grpc-encoding": "gzip"} if compressed else {}
    result = peer.ask(gzip.compress(body) if compressed else body, INFER, coding, compressed=compressed)
    assert result.status in {code for code, _ in CODES.values()} - {INTERNAL} | {0}, result
    assert result.ended
    assert peer.dispatcher.admission.reserved_bytes == peer.dispatcher.admission.waiting == 0


@given(data=st.binary(max_size=400), head=st.sampled_from(("preface", "call", "nothing")))
@EVERYWHERE
def test_any_bytes_on_a_connection_end_it_at_worst(peer: Peer, data: bytes, head: str) -> None:
    """Whether they come first, after the settings, or in the middle of a call."""
    peer.connect()
    if head == "nothing":
        peer.connection = peer.connections.connect(type(peer.connection))
        peer.transport = type(peer.transport)()
        peer.transport.protocol = peer.connection  # type: ignore[assignment]
        peer.connection.connection_made(peer.transport)
    elif head == "call":
        peer.begin()
        peer.exchange()
    if peer.transport.open:
        peer.connection.data_received(data)
    peer.transport.take()
    if peer.transport.open:
        peer.connection.tick(peer.loop.time())
        peer.transport.close()
    assert peer.dispatcher.admission.reserved_bytes == 0


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Return whole frames of any type, flags and stream, with a payload of any bytes or a good one."""
    made = b""
    good = b"\x83\x86\x44\x2a" + INFER.encode()[:42] + b"\x0f\x10\x10application/grpc"
    for _ in range(draw(st.integers(1, 8))):
        payload = draw(st.one_of(st.binary(max_size=40), st.just(good), st.just(framed(SEEDS[0]))))
        kind, flags = draw(st.integers(0, 12)), draw(st.sampled_from((0, 1, 4, 5, 8, 0x20, 255)))
        stream = draw(st.sampled_from((0, 1, 1, 3, 5, 2, (1 << 31) - 1)))
        made += len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    return made


@given(data=frames())
@EVERYWHERE
def test_any_frames_on_a_connection_end_it_at_worst(peer: Peer, data: bytes) -> None:
    """Frames in any order, of streams that there are and are not."""
    peer.connect()
    peer.connection.data_received(data)
    peer.transport.take()
    peer.until(lambda: peer.dispatcher.admission.waiting == 0 or not peer.transport.open)
    if peer.transport.open:
        peer.transport.close()
    assert peer.dispatcher.admission.reserved_bytes == 0


@pytest.mark.parametrize(
    "piece",
    [
        b"\x2a\x00",  # inputs
        b"\x32\x00",  # outputs
        b"\x22\x00",  # parameters
        b"\x3a\x00",  # raw contents
        b"\x2a\x02\x2a\x00",  # contents within inputs
        b"\x2a\x02\x22\x00",  # parameters within inputs
        b"\x78\x01",  # a field that there is not
    ],
)
def test_a_body_of_small_fields_takes_no_memory(bundle: Bundle, piece: bytes) -> None:
    """It is rejected after so many, whichever they are."""
    peer = Peer(bundle.path.parent)
    try:
        result = peer.ask(piece * (1 << 20))
        assert result.fields["grpc-message"].startswith(f"the message has more than {MAX_FIELDS} fields")
    finally:
        peer.close()
    assert Request.FromString(piece * 2)
