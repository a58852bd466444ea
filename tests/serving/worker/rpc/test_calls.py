"""Calls over gRPC: what each is answered, by a connection without sockets."""

import gzip
import hashlib
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.errors import problem_classes
from serving.worker.rpc.messages import message_class
from serving.worker.rpc.status import CODES
from tests.serving.worker.rpc.peer import INFER, Peer, Pixels, Request, Response, Result, a_request, framed

SERVICE = "/inference.GRPCInferenceService/"
HEALTH = "/grpc.health.v1.Health/"
INVALID, DEADLINE, NOT_FOUND, EXHAUSTED, UNIMPLEMENTED, UNAVAILABLE, UNAUTHENTICATED = 3, 4, 5, 8, 12, 14, 16
HealthResponse = message_class("grpc.health.v1.HealthCheckResponse")
HealthRequest = message_class("grpc.health.v1.HealthCheckRequest")


@pytest.fixture(scope="module")
def images() -> Pixels:
    """Return a few images."""
    return np.random.default_rng(5).integers(0, 256, (3, 28, 28), dtype=np.uint8)


def outputs(peer: Peer, images: Pixels) -> dict[str, bytes]:
    """Return what the engine computes, as little-endian bytes."""
    found = peer.store.engine().infer(images)
    return {name: getattr(found, name).astype("<f4").tobytes() for name in ("logits", "probabilities")}


def raw(result: Result) -> dict[str, bytes]:
    """Return the raw outputs of an answer."""
    assert result.status == 0, result
    message = Response.FromString(result.message)
    return {
        one.name: content for one, content in zip(message.outputs, message.raw_output_contents, strict=True)
    }


def test_a_raw_request_is_answered_with_the_engines_bytes(peer: Peer, images: Pixels) -> None:
    """With the request's id, the model's name and version, the shapes, and what was measured."""
    result = peer.ask(a_request(images, id="mine"), headers={"x-request-id": "a-request"})
    message = Response.FromString(result.message)
    assert raw(result) == outputs(peer, images)
    assert (message.id, message.model_name, message.model_version) == ("mine", "synthetic", "1")
    assert [(one.datatype, list(one.shape)) for one in message.outputs] == [("FP32", [3, 10])] * 2
    assert "image 0: looks inverted" in message.parameters["warnings"].string_param
    assert result.fields["x-request-id"] == "a-request"
    assert "batch" in result.fields["server-timing"]
    assert result.fields[":status"] == "200"


@pytest.mark.parametrize(
    "kind",
    ["uint_contents", "int_contents", "int64_contents", "uint64_contents", "fp32_contents", "fp64_contents"],
)
def test_typed_contents_are_answered_in_kind(peer: Peer, images: Pixels, kind: str) -> None:
    """Whichever field of numbers has the pixels, the values are those of a raw request."""
    message = a_request(images)
    message.ClearField("raw_input_contents")
    getattr(message.inputs[0].contents, kind).extend(images.ravel().tolist())
    answer = Response.FromString(peer.ask(message).message)
    found = {one.name: np.array(one.contents.fp32_contents, "<f4").tobytes() for one in answer.outputs}
    assert found == outputs(peer, images)
    assert not answer.raw_output_contents


def test_an_output_can_be_named(peer: Peer, images: Pixels) -> None:
    """The others are left out."""
    message = a_request(images)
    message.outputs.add(name="probabilities")
    assert raw(peer.ask(message)) == {"probabilities": outputs(peer, images)["probabilities"]}


def test_parameters_of_rest_and_unknown_ones_mean_nothing(peer: Peer, images: Pixels) -> None:
    """As the protocol says of those that a server does not know."""
    message = a_request(images)
    message.inputs[0].parameters["binary_data_size"].int64_param = 5
    message.parameters["binary_data_output"].bool_param = False
    message.parameters["priority"].uint64_param = 3
    assert raw(peer.ask(message)) == outputs(peer, images)


def altered(change: Callable[[Any], None]) -> bytes:
    """Return a request that a change has spoilt."""
    message = a_request(np.zeros((1, 28, 28), np.uint8))
    change(message)
    serialized: bytes = message.SerializeToString()
    return serialized


def both(message: Any) -> None:
    """Put contents beside the raw ones."""
    message.inputs[0].contents.uint_contents.append(3)


def bytes_in(message: Any) -> None:
    """Put bytes in the place of numbers."""
    message.ClearField("raw_input_contents")
    message.inputs[0].contents.bytes_contents.append(bytes(784))


def too_bright(message: Any) -> None:
    """Send a pixel of 256."""
    message.ClearField("raw_input_contents")
    message.inputs[0].contents.uint_contents.extend([0] * 783 + [256])


@pytest.mark.parametrize(
    ("body", "code", "sentence"),
    [
        (b"\xff", INVALID, "cannot be parsed"),
        (altered(lambda m: setattr(m, "model_name", "other")), NOT_FOUND, "there is no model 'other'"),
        (altered(lambda m: setattr(m, "model_version", "9")), NOT_FOUND, "version 9 is not loaded"),
        (altered(lambda m: m.inputs.add()), INVALID, "'inputs' is a list of 2"),
        (altered(lambda m: m.ClearField("inputs")), INVALID, "'inputs' is a list of 0"),
        (altered(lambda m: setattr(m.inputs[0], "name", "image")), INVALID, "did you mean 'images'?"),
        (altered(lambda m: setattr(m.inputs[0], "datatype", "FP32")), INVALID, "numpy.rint(255 * array)"),
        (altered(lambda m: m.inputs[0].shape.append(1)), INVALID, "the shape of 'images'"),
        (altered(lambda m: m.raw_input_contents.append(b"")), INVALID, "'raw_input_contents' has 2 elements"),
        (altered(lambda m: m.ClearField("raw_input_contents")), INVALID, "the input has 0 elements"),
        (altered(lambda m: m.raw_input_contents.__setitem__(0, b"x")), INVALID, "the input has 1 elements"),
        (altered(both), INVALID, "both 'contents' and 'raw_input_contents'"),
        (altered(bytes_in), INVALID, "contents are in 'bytes_contents'"),
        (altered(too_bright), INVALID, "pixel 783 is 256"),
        (altered(lambda m: m.outputs.add(name="logit")), INVALID, "did you mean 'logits'?"),
        (altered(lambda m: m.parameters["none"].SetInParent()), INVALID, "'none' of the request is null"),
        (
            altered(lambda m: setattr(m.parameters["classification"], "int64_param", 1)),
            INVALID,
            "unsupported extension",
        ),
    ],
)
def test_a_request_that_is_not_the_protocols_is_rejected(
    peer: Peer, body: bytes, code: int, sentence: str
) -> None:
    """With the sentence that REST would answer, and the status that goes with it."""
    result = peer.ask(body)
    assert (result.status, result.ended, result.data) == (code, True, b"")
    assert sentence in result.fields["grpc-message"]
    assert result.fields["x-request-id"]


def test_a_message_of_many_fields_is_rejected_before_it_is_parsed(peer: Peer) -> None:
    """Two bytes of a body would be eighty in memory."""
    result = peer.ask(Request(model_name="synthetic").SerializeToString() + b"\x2a\x00" * (1 << 20))
    assert result.status == EXHAUSTED
    assert "more than 1024 fields" in result.fields["grpc-message"]


def test_more_images_than_allowed_are_rejected(start: Callable[..., Peer], images: Pixels) -> None:
    """Raw and typed."""
    peer = start(max_images=2)
    for is_raw in (True, False):
        result = peer.ask(a_request(images, raw=is_raw))
        assert result.status == EXHAUSTED
        assert "at most 2" in result.fields["grpc-message"]


def test_a_message_that_is_too_long_is_rejected_by_its_prefix(start: Callable[..., Peer]) -> None:
    """Nothing of it has arrived, and what still does is discarded."""
    peer = start(max_body_bytes=1024)
    stream = peer.begin()
    peer.send(stream, b"\0" + (1025).to_bytes(4, "big"), end=False)
    result = peer.answered(stream)
    assert result.status == EXHAUSTED
    assert "larger than 1024 bytes" in result.fields["grpc-message"]
    assert peer.dispatcher.admission.reserved_bytes == 0
    assert peer.ask(b"\xff").status == INVALID  # the connection is as it was


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "ended before its message"),
        (b"\0\0\0\0\5abc", "ended before its message"),
        (framed(b"") + b"\0", "more than one message"),
    ],
)
def test_a_call_has_one_message(peer: Peer, data: bytes, sentence: str) -> None:
    """None, half of one and two are rejected."""
    stream = peer.begin()
    peer.send(stream, data)
    result = peer.answered(stream)
    assert (result.status, sentence in result.fields["grpc-message"]) == (INVALID, True)


@pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_messages_are_decoded_within_the_limit(
    start: Callable[..., Peer], images: Pixels, coding: str, compress: Callable[[bytes], bytes]
) -> None:
    """One that would become longer than a body may be is rejected."""
    peer = start(max_body_bytes=8192)
    body = compress(a_request(images).SerializeToString())
    assert raw(peer.ask(body, INFER, {"grpc-encoding": coding}, compressed=1)) == outputs(peer, images)
    bomb = peer.ask(compress(bytes(1 << 20)), INFER, {"grpc-encoding": coding}, compressed=1)
    assert (bomb.status, "larger than 8192" in bomb.fields["grpc-message"]) == (EXHAUSTED, True)


def test_a_coding_that_is_not_known_is_not_implemented(peer: Peer) -> None:
    """The head of the answer says which are."""
    result = peer.ask(b"x", INFER, {"grpc-encoding": "snappy"}, compressed=1)
    assert result.status == UNIMPLEMENTED
    assert result.fields["grpc-accept-encoding"] == "identity,deflate,gzip"


def test_a_call_without_a_token_is_rejected_at_its_head(
    start: Callable[..., Peer], images: Pixels, tmp_path: Path
) -> None:
    """Before a message arrives; health needs none, metadata needs one, as over REST."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"me sha256:{hashlib.sha256(b'secret').hexdigest()}\n")
    peer = start(tokens_file=tokens)
    for authorization, code in (
        ({}, UNAUTHENTICATED),
        ({"authorization": "Bearer wrong"}, UNAUTHENTICATED),
        ({"authorization": "Bearer"}, INVALID),
    ):
        stream = peer.begin(INFER, authorization)
        peer.exchange()
        assert peer.answered(stream).status == code, authorization
    assert "www-authenticate" in peer.results[stream].fields
    good = {"authorization": "Bearer secret"}
    assert raw(peer.ask(a_request(images), INFER, good)) == outputs(peer, images)
    for path, needs_token in (
        (f"{SERVICE}ServerLive", False),
        (f"{SERVICE}ServerReady", False),
        (f"{HEALTH}Check", False),
        (f"{SERVICE}ServerMetadata", True),
        (f"{SERVICE}ModelMetadata", True),
        (f"{SERVICE}ModelReady", True),
        (f"{SERVICE}Other", True),
    ):
        assert (peer.ask(b"", path).status == UNAUTHENTICATED) is needs_token, path
        assert peer.ask(b"", path, good).status != UNAUTHENTICATED, path


def test_a_full_queue_sheds_with_the_time_to_wait(start: Callable[..., Peer], images: Pixels) -> None:
    """As a pushback, which gRPC's clients heed when they retry; the connection is not read for a moment."""
    peer = start(queue_limit=1)
    peer.dispatcher.admission.enter()
    result = peer.ask(a_request(images))
    assert result.status == UNAVAILABLE
    assert int(result.fields["grpc-retry-pushback-ms"]) == 1000 * int(result.fields["retry-after"]) >= 1000
    peer.dispatcher.admission.leave()
    peer.until(lambda: raw(peer.ask(a_request(images))) == outputs(peer, images))


@pytest.mark.parametrize("kept", [1, 64])
def test_a_call_that_has_waited_too_long_is_not_computed(peer: Peer, kept: int) -> None:
    """The timeout of gRPC counts from the head: a call whose message comes later than that is answered at once."""
    stream = peer.begin(INFER, {"grpc-timeout": "1m"})
    peer.send(stream, framed(a_request(np.zeros((kept, 28, 28), np.uint8)).SerializeToString()), end=False)
    time.sleep(0.02)
    peer.send(stream, b"")
    time.sleep(0.02)
    assert peer.answered(stream).status == DEADLINE


@pytest.mark.parametrize("timeout", ["", "5", "5s", "123456789S", "-1S"])
def test_a_timeout_that_is_none_is_rejected(peer: Peer, timeout: str) -> None:
    """The specification has up to 8 digits and a unit."""
    assert peer.ask(b"", INFER, {"grpc-timeout": timeout}).status == INVALID


def test_large_requests_are_answered_as_small_ones(peer: Peer) -> None:
    """On a thread; the answer is longer than the client's window and than a frame."""
    images = np.random.default_rng(6).integers(0, 256, (1000, 28, 28), dtype=np.uint8)
    assert raw(peer.ask(a_request(images))) == outputs(peer, images)
    assert peer.dispatcher.admission.reserved_bytes == peer.dispatcher.admission.waiting == 0


def test_a_client_that_opens_no_window_is_given_up(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After GLYPH_WRITE_TIMEOUT_SECONDS, and its bytes are counted until then."""
    images = np.zeros((1000, 28, 28), np.uint8)
    monkeypatch.setattr(peer.h2, "acknowledge_received_data", lambda *_: None)
    stream = peer.begin()
    peer.send(stream, framed(a_request(images).SerializeToString()))
    peer.until(lambda: len(peer.results[stream].data) == 65535)
    peer.tick(29)
    assert peer.results[stream].reset is None
    assert peer.dispatcher.admission.reserved_bytes > 10_000
    peer.tick(31)
    assert peer.results[stream].reset is not None
    assert peer.dispatcher.admission.reserved_bytes == 0


def test_a_message_that_does_not_arrive_is_given_up(peer: Peer) -> None:
    """After GLYPH_BODY_TIMEOUT_SECONDS."""
    stream = peer.begin()
    peer.send(stream, b"\0\0", end=False)
    peer.tick(29)
    assert not peer.results[stream].ended
    peer.tick(31)
    assert peer.results[stream].status == DEADLINE


def test_messages_that_arrive_count_against_the_memory_for_requests(start: Callable[..., Peer]) -> None:
    """Beyond half of it, which is one address's share, they are shed."""
    peer = start(queue_bytes=1 << 20, max_body_bytes=400_000)
    begun = [peer.begin() for _ in range(2)]
    for stream in begun:
        peer.send(stream, framed(bytes(300_000))[:270_000], end=False)
    assert peer.results[begun[0]].fields == {}
    assert peer.results[begun[1]].status == UNAVAILABLE
    assert 270_000 <= peer.dispatcher.admission.reserved_bytes < 300_000
    peer.h2.reset_stream(begun[0])
    peer.exchange()
    assert peer.dispatcher.admission.reserved_bytes == 0


def test_a_message_for_which_there_is_no_memory_is_shed_by_its_prefix(start: Callable[..., Peer]) -> None:
    """Before any of it arrives, as HTTP goes by Content-Length."""
    peer = start(queue_bytes=1 << 20, max_body_bytes=600_000)
    peer.dispatcher.admission.reserve(500_000)
    stream = peer.begin()
    peer.send(stream, b"\0" + (590_000).to_bytes(4, "big"), end=False)
    assert peer.answered(stream).status == UNAVAILABLE


def test_a_call_that_is_cancelled_is_not_computed(peer: Peer, images: Pixels) -> None:
    """It leaves the queue, and nothing is written for it."""
    stream = peer.begin()
    peer.send(stream, framed(a_request(images).SerializeToString()))
    assert peer.dispatcher.admission.waiting == 1
    peer.h2.reset_stream(stream)
    peer.exchange()
    peer.until(lambda: peer.dispatcher.admission.waiting == 0)
    assert peer.results[stream].fields == {}


@pytest.mark.parametrize("path", [INFER, f"{SERVICE}ServerLive"])
def test_a_call_that_is_cancelled_as_it_arrives_is_not_answered(
    peer: Peer, images: Pixels, path: str
) -> None:
    """Head, message and reset come at once, so that h2 has closed the stream before the call is taken."""
    stream = peer.begin(path)
    peer.h2.send_data(stream, framed(b""), end_stream=True)
    peer.h2.reset_stream(stream)
    peer.exchange()
    assert peer.results[stream].fields == {}
    assert raw(peer.ask(a_request(images))) == outputs(peer, images)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (f"{SERVICE}ModelStatistics", {}),
        (f"{HEALTH}List", {}),
        ("/other.Service/Method", {}),
        ("/", {}),
        (INFER, {":method": "GET"}),
        (INFER, {"content-type": "application/json"}),
    ],
)
def test_what_is_no_method_is_not_implemented(peer: Peer, path: str, fields: dict[str, str]) -> None:
    """A method, a service and a content type that are not gRPC's or not ours."""
    assert peer.ask(b"", path, fields).status == UNIMPLEMENTED


def test_health_and_metadata_are_those_of_rest(peer: Peer) -> None:
    """Server and model, by name and version; a process that drains is not ready."""

    def ask(method: str, **fields: str) -> Any:
        request = message_class(f"inference.{method}Request")(**fields)
        answer = peer.ask(request, SERVICE + method).message
        return message_class(f"inference.{method}Response").FromString(answer)

    assert ask("ServerLive").live
    assert ask("ServerReady").ready
    assert ask("ModelReady", name="synthetic", version="1").ready
    assert ask("ServerMetadata").name == "glyph"
    metadata = ask("ModelMetadata", name="synthetic")
    assert (metadata.name, list(metadata.versions), metadata.platform) == ("synthetic", ["1"], "onnx_onnxv1")
    assert [(one.name, one.datatype, list(one.shape)) for one in metadata.outputs] == [
        ("logits", "FP32", [-1, 10]),
        ("probabilities", "FP32", [-1, 10]),
    ]
    other = message_class("inference.ModelReadyRequest")(name="other")
    assert peer.ask(other, f"{SERVICE}ModelReady").status == NOT_FOUND
    assert HealthResponse.FromString(peer.ask(b"", f"{HEALTH}Check").message).status == 1
    assert peer.ask(HealthRequest(service="other"), f"{HEALTH}Check").status == NOT_FOUND
    peer.store.drain()
    assert ask("ServerLive").live
    assert not ask("ServerReady").ready
    assert not ask("ModelReady", name="synthetic").ready
    assert HealthResponse.FromString(peer.ask(b"", f"{HEALTH}Check").message).status == 2


def test_calls_are_counted_as_requests_are(peer: Peer, images: Pixels) -> None:
    """By method, with the status that REST has for the same, and by the kind of problem."""
    peer.ask(a_request(images))
    peer.ask(a_request(images, model="other"))
    peer.ask(b"", f"{SERVICE}ServerLive")
    peer.ask(b"", "/nothing")
    values, offsets = peer.store.metrics._values, peer.store.metrics._offsets
    for route, status in ((INFER, "200"), (INFER, "404"), (f"{SERVICE}ServerLive", "200"), ("other", "405")):
        assert values[offsets["glyph_http_requests_total", route, "POST", status]] == 1, route
    assert values[offsets["glyph_refusals_total", "not-found"]] == 1
    assert values[offsets["glyph_http_requests_in_flight",]] == 0
    assert peer.worker.nr == 4


def test_every_problem_has_a_status_of_grpc() -> None:
    """So that none ends in a KeyError."""
    assert {int(kind.status) for kind in problem_classes()} <= set(map(int, CODES))
