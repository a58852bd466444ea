"""What a connection holds: all of it is counted when it has arrived, bounded, and given back."""

import contextlib
import select
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.memory import held
from bench.support.processes import Service, running
from bundle.repository import Bundle
from serving.errors import OverloadedError
from serving.predict.load_shedding import UNCOUNTED_BYTES, AdmissionControl, MemoryReservation
from serving.security.tokens import digest_of
from serving.worker.dispatcher import Dispatcher
from serving.worker.http11.request_body import LengthBody
from tests.serving.worker.fakes import a_dispatcher, connect
from tests.serving.worker.wire import ANSWER_SECONDS, connected, post, read_answer

MEGABYTE = 1 << 20
BUDGET = 4 * MEGABYTE
CLIENTS = 400


@pytest.fixture
def dispatcher(bundle: Bundle) -> Iterator[Dispatcher]:
    """Return the dispatcher of a process that may hold 4 MiB."""
    made = a_dispatcher(bundle, queue_bytes=BUDGET, max_body_bytes=MEGABYTE)
    yield made
    made.threads.shutdown()


def head(length: int) -> bytes:
    """Return the head of a prediction."""
    return post(b"", path=b"/predict").replace(b"Content-Length: 0", b"Content-Length: %d" % length)


CHUNKED = b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
FIELDS = (b"X: " + b"a" * 1019 + b"\r\n") * 24
HELD = {
    "an unfinished head": (b"GET / HTTP/1.1\r\nHost: a\r\n" + FIELDS, 24_000),
    "a body on its way": (head(500_000) + bytes(100_000), 100_000),
    "chunks on their way": (CHUNKED + b"30000\r\n" + bytes(100_000), 100_000),
    "a body that waits": (head(100_000) + bytes(100_000), 100_000),
    "a large head that waits": (b"GET / HTTP/1.1\r\nHost: a\r\n" + FIELDS + b"\r\n", 24_000),
    "a request behind one that waits": (head(4) + b"abcd" + head(100_000) + bytes(90_000), 90_000),
}


@pytest.mark.parametrize("name", HELD)
def test_what_has_arrived_is_counted_and_given_back(dispatcher: Dispatcher, name: str) -> None:
    """Wherever it lies: in the input, in a body, or in the queue."""
    data, least = HELD[name]
    connection, transport = connect(dispatcher)
    for at in range(0, len(data), 65536):
        connection.data_received(data[at : at + 65536])
    assert least <= dispatcher.admission.reserved_bytes <= 3 * len(data)
    transport.close()
    assert dispatcher.admission.reserved_bytes == 0


def test_what_is_only_announced_is_not_counted(dispatcher: Dispatcher) -> None:
    """A promise costs its client nothing, so it takes nothing from anybody else."""
    for _ in range(100):
        connect(dispatcher)[0].data_received(head(MEGABYTE))
    assert dispatcher.admission.reserved_bytes == 0
    connection, transport = connect(dispatcher)
    connection.data_received(head(MEGABYTE))
    connection.data_received(bytes(MEGABYTE))
    assert connection.phase == "response"
    assert transport.written == b""


@pytest.mark.parametrize("name", HELD)
def test_there_is_a_bound_whatever_it_is_made_of(dispatcher: Dispatcher, name: str) -> None:
    """Many clients send as much as they can; what does not fit is refused, and what is counted never grows beyond."""
    data, _ = HELD[name]
    ends = []
    for number in range(400):
        connection, transport = connect(dispatcher, f"203.0.113.{number % 250}")
        ends.append(transport)
        for at in range(0, len(data), 65536):
            connection.data_received(data[at : at + 65536])
        assert dispatcher.admission.reserved_bytes <= BUDGET
    refused = [end for end in ends if b" 503 " in end.written]
    cut = [end for end in ends if end.protocol._must_close]
    assert refused or cut
    for transport in ends:
        if transport.open:
            transport.close()
    assert dispatcher.admission.reserved_bytes == 0


def test_answers_that_are_not_taken_are_counted(dispatcher: Dispatcher) -> None:
    """Beyond a few kilobytes; a client whose answers find no room loses its connection."""
    connection, transport = connect(dispatcher)
    transport.write(bytes(100_000))
    assert dispatcher.admission.reserved_bytes == 100_000
    transport.take()
    assert dispatcher.admission.reserved_bytes == 0
    transport.write(bytes(BUDGET + 1))
    assert not transport.open
    assert connection.phase == "closed"
    assert dispatcher.admission.reserved_bytes == 0


def test_a_body_of_small_pieces_takes_no_more_than_its_bytes() -> None:
    """A list of them would: an object of Python's is 33 bytes and more."""
    body = LengthBody(MEGABYTE)
    for _ in range(100_000):
        body.feed(b"ab")
    assert sys.getsizeof(body.data) < 2 * body.held == 400_000


def test_one_address_may_hold_a_share() -> None:
    """And no more, while others may; addresses that hold nothing are forgotten."""
    admission = AdmissionControl(10, 100, 50)
    admission.reserve(40, "a")
    with pytest.raises(OverloadedError, match="this address"):
        admission.reserve(11, "a")
    admission.reserve(50, "b")
    admission.release(40, "a")
    admission.release(50, "b")
    assert admission.reserved_bytes == 0
    assert not admission._reserved_by


def test_an_account_is_what_is_held_now() -> None:
    """More or less than before; what is refused changes nothing, and what is small is not counted."""
    admission = AdmissionControl(10, 100_000, 50_000)
    reservation = MemoryReservation(admission, "a")
    for size in (20_000, 50_000, 30_000):
        reservation.resize(size)
        assert admission.reserved_bytes == size
    with pytest.raises(OverloadedError, match="this address"):
        reservation.resize(50_001)
    assert admission.reserved_bytes == reservation.size == 30_000
    reservation.resize(UNCOUNTED_BYTES)
    assert admission.reserved_bytes == reservation.size == 0
    assert not admission._reserved_by


@pytest.fixture(scope="module")
def small(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Return a service that holds 4 MiB and asks for tokens."""
    directory = tmp_path_factory.mktemp("small")
    tokens = directory / "tokens"
    tokens.write_text(f"till sha256:{digest_of('secret').hex()}\n")
    settings: dict[str, Any] = {"queue_bytes": BUDGET, "max_body_bytes": MEGABYTE, "tokens_file": tokens}
    with running(directory, until="/readyz", model=bundle.path.parent, **settings) as started:
        yield started


@pytest.mark.parametrize("kind", ["a head", "a body", "answers that are not taken, and more"])
def test_a_workers_memory_stays_within_the_sum(bundle: Bundle, tmp_path: Path, kind: str) -> None:
    """Whatever hundreds of clients have it hold: the queue, and a few kilobytes for each (`python -m bench held`)."""
    worker, _ = held.grown(tmp_path, bundle.path.parent, held.KINDS[kind], CLIENTS)
    assert worker <= held.allowed(CLIENTS)


TOKEN = b"Authorization: Bearer secret"


def test_promises_leave_room_for_everybody_else(small: Service) -> None:
    """Forty clients announce a megabyte each and send a byte; another sends one and is answered."""
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            connection = stack.enter_context(connected(small.port))
            connection.sendall(post(bytes(MEGABYTE), TOKEN)[: -MEGABYTE + 1])
        connection = stack.enter_context(connected(small.port))
        connection.sendall(post(bytes(MEGABYTE - 1), TOKEN))
        assert read_answer(connection.makefile("rb"))[0] == 415


@pytest.mark.parametrize("path", [b"/predict", b"/v2/models/synthetic/infer", b"/metadata", b"/nowhere"])
def test_a_token_is_asked_for_before_the_body(small: Service, path: bytes) -> None:
    """The answer comes when the head is there; what follows is not kept, and the connection goes on."""
    with connected(small.port) as connection, connection.makefile("rb") as stream:
        request = post(bytes(MEGABYTE), path=path)
        connection.sendall(request[: -MEGABYTE + 100])
        status, headers, _ = read_answer(stream)
        assert status == 401
        assert headers["www-authenticate"].startswith("Bearer")
        connection.sendall(bytes(MEGABYTE - 100) + post(b"x", TOKEN))
        assert read_answer(stream)[0] == 415


def test_an_addresss_share_leaves_room_for_others(small: Service) -> None:
    """One client has its half; another, from another address, is answered all the same."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connected(small.port)) for _ in range(4)]
        for connection in connections:
            connection.sendall(post(bytes(MEGABYTE), TOKEN)[:-1])
        answered, _, _ = select.select(connections, [], [], ANSWER_SECONDS)
        assert answered
        for connection in answered:
            status, _, body = read_answer(stack.enter_context(connection.makefile("rb")))
            assert status == 503
            assert b"this address" in body
        source = ("127.0.0.2", 0)
        with socket.create_connection(("127.0.0.1", small.port), 30, source) as other:
            other.sendall(post(bytes(MEGABYTE), TOKEN))
            assert read_answer(other.makefile("rb"))[0] == 415
