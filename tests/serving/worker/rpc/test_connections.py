"""Connections of gRPC's clients: their limits, and how they end without losing a call."""

from collections.abc import Callable

import numpy as np

from serving.worker.rpc.connection import LAST_STREAM, STREAMS
from serving.worker.rpc.messages import message_class
from tests.serving.worker.rpc.peer import Peer, a_request, framed

WATCH = "/grpc.health.v1.Health/Watch"
HealthRequest = message_class("grpc.health.v1.HealthCheckRequest")
IMAGE = np.zeros((1, 28, 28), np.uint8)
REFUSED_STREAM, UNAVAILABLE = 7, 14


def test_calls_of_one_connection_are_one_batch(peer: Peer) -> None:
    """All that have arrived are computed together."""
    streams = [peer.begin() for _ in range(8)]
    for stream in streams:
        peer.h2.send_data(stream, framed(a_request(IMAGE).SerializeToString()), end_stream=True)
    peer.exchange()
    results = [peer.answered(stream) for stream in streams]
    assert all('batch;desc="8"' in result.fields["server-timing"] for result in results)


def test_a_connection_that_drains_answers_what_was_sent_before_the_client_knew(peer: Peer) -> None:
    """The first GOAWAY names no stream; the second, after the ping, the last; a later one is refused, unprocessed."""
    begun = peer.begin()
    peer.send(begun, framed(a_request(IMAGE).SerializeToString()))
    peer.connection.drain()
    late = peer.begin()  # before anything is read
    peer.h2.send_data(late, framed(a_request(IMAGE).SerializeToString()), end_stream=True)
    peer.connection.data_received(peer.h2.data_to_send())
    peer.until(lambda: len(peer.goaways) == 2)
    assert peer.goaways == [LAST_STREAM, late]
    too_late = peer.begin()
    peer.exchange()
    assert peer.results[too_late].reset == REFUSED_STREAM or not peer.results[too_late].fields
    assert [peer.answered(stream).status for stream in (begun, late)] == [0, 0]
    peer.tick(30)
    assert not peer.transport.open
    assert not peer.connections.open


def test_a_stream_after_the_last_is_refused(peer: Peer) -> None:
    """While another call is still computed; a client knows that it was not processed, and tries elsewhere."""
    open_one = peer.begin()
    peer.exchange()
    peer.connection.drain()
    peer.until(lambda: len(peer.goaways) == 2)
    refused = peer.begin()
    peer.exchange()
    assert peer.results[refused].reset == REFUSED_STREAM
    peer.send(open_one, framed(a_request(IMAGE).SerializeToString()))
    assert peer.answered(open_one).status == 0
    peer.tick(30)
    assert not peer.transport.open


def test_a_client_that_answers_no_ping_is_not_waited_for(peer: Peer) -> None:
    """The last stream is named after half of GLYPH_GRACEFUL_TIMEOUT_SECONDS."""
    peer.connection.drain()
    peer.transport.take()
    peer.transport.written = b""
    peer.tick(12)
    assert peer.goaways == []
    peer.tick(13)
    assert peer.goaways == [0]


def test_a_connection_that_comes_while_the_process_drains_is_told_so(peer: Peer) -> None:
    """Its first call is answered, if it was sent at once."""
    peer.dispatcher.alive = False
    peer.connect()
    assert peer.goaways == [LAST_STREAM, 0]


def test_watchers_are_told_that_the_process_ends(peer: Peer) -> None:
    """And of readiness before; a service that there is not is unknown. They hold up no drain."""
    watching = [peer.begin(WATCH) for _ in range(2)]
    peer.send(watching[0], framed(b""))
    peer.send(watching[1], framed(HealthRequest(service="other").SerializeToString()))
    assert [peer.results[stream].data for stream in watching] == [b"\0\0\0\0\2\x08\1", b"\0\0\0\0\2\x08\3"]
    peer.tick()
    assert len(peer.results[watching[0]].data) == 7  # nothing has changed
    peer.store.drain()
    peer.connection.drain()
    peer.exchange()
    assert peer.results[watching[0]].data == b"\0\0\0\0\2\x08\1\0\0\0\0\2\x08\2"
    assert peer.results[watching[0]].status == UNAVAILABLE
    peer.tick(30)
    assert not peer.transport.open


def test_an_idle_connection_is_ended_as_one_of_http(start: Callable[..., Peer]) -> None:
    """After GLYPH_KEEPALIVE_SECONDS, which begin with the last answer; one with a call is not idle."""
    peer = start(keepalive_seconds=50)
    assert peer.connection.idle
    stream = peer.begin()
    peer.exchange()
    assert not peer.connection.idle
    peer.connection.tick(peer.loop.time() + 20)
    peer.send(stream, framed(a_request(IMAGE).SerializeToString()))
    peer.answered(stream)
    assert peer.connection.idle
    peer.tick(49)
    assert peer.goaways == []
    peer.tick(51)
    assert peer.goaways == [LAST_STREAM, stream]


def test_a_client_that_does_not_speak_http_2_is_closed(peer: Peer) -> None:
    """At its first bytes, or if it says nothing, after GLYPH_HEADER_TIMEOUT_SECONDS."""
    for said in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", None):
        peer.connect()
        connection, transport = peer.connections.connect(type(peer.connection)), type(peer.transport)()
        transport.protocol = connection
        connection.connection_made(transport)
        if said:
            connection.data_received(said)
        else:
            transport.take()
            connection.tick(peer.loop.time() + 9)
            assert transport.open
            connection.tick(peer.loop.time() + 11)
        assert not transport.open


def test_an_idle_connection_makes_room_for_a_new_one(start: Callable[..., Peer]) -> None:
    """GLYPH_CONNECTIONS counts both transports; the client is told which call was the last."""
    peer = start(connections=8)
    for _ in range(7):
        peer.connect()
    assert not peer.connections.has_room
    assert peer.connection.idle
    peer.connections.evict(peer.connection)
    peer.exchange()
    assert peer.goaways == [0]
    assert not peer.transport.open
    assert peer.connections.has_room


def test_a_long_connection_holds_few_of_its_calls(peer: Peer) -> None:
    """A client may ask for days on one connection, with what h2 remembers of closed streams."""
    for _ in range(5 * STREAMS):
        peer.ask(b"", "/inference.GRPCInferenceService/ServerLive")
    assert len(peer.connection._h2.streams) <= STREAMS
    assert len(peer.connection._h2._closed_streams) <= 4 * STREAMS


def test_more_calls_than_allowed_at_a_time_end_the_connection(peer: Peer) -> None:
    """The client was told how many there may be."""
    assert peer.h2.remote_settings.max_concurrent_streams == STREAMS


def test_a_client_that_reads_nothing_is_not_read(peer: Peer) -> None:
    """So that pings, which ask for an answer each, fill nobody's memory."""
    paused: list[bool] = []
    peer.transport.pause_reading = lambda: paused.append(True)  # type: ignore[method-assign]
    peer.transport.resume_reading = lambda: paused.append(False)  # type: ignore[method-assign]
    for _ in range(2000):
        peer.h2.ping(b"8 bytes.")
    peer.connection.data_received(peer.h2.data_to_send())
    assert paused == [True]
    peer.transport.take()
    assert paused == [True, False]
    peer.transport.written = b""


def test_half_a_connection_is_enough_for_an_answer(peer: Peer) -> None:
    """A client that has closed its sending side gets what it has asked for whole; the rest is dropped."""
    whole, half = peer.begin(), peer.begin()
    peer.send(whole, framed(a_request(IMAGE).SerializeToString()))
    peer.send(half, b"\0", end=False)
    assert peer.connection.eof_received() is True
    assert peer.answered(whole).status == 0
    assert not peer.transport.open
