"""The bench of idle connections: what it counts, against a server on loopback, and by hand."""

import contextlib
import socket

import pytest

from bench.memory.idle import Crowd, Found
from tests.bench.test_generator import REQUEST, response, serving
from tests.bench.test_serving_arithmetic import reading


def test_a_crowd_knows_whom_the_server_has_ended() -> None:
    """Of five that have asked once, the server ends two."""
    held: list[socket.socket] = []

    def answer(_: int, client: socket.socket) -> None:
        held.append(client)
        for piece in (response(b"fine")[:-4], b"fine"):  # an answer in two pieces is read to its end
            client.sendall(piece)

    with serving(answer) as port, contextlib.closing(Crowd(port, REQUEST)) as crowd:
        crowd.grow(2)
        crowd.grow(5)
        assert (len(held), crowd.closed()) == (5, 0)
        for client in held[:2]:
            client.shutdown(socket.SHUT_WR)
        for one in crowd.connections[:2]:
            assert one.socket.recv(1) == b""
        assert crowd.closed() == 2


def test_a_first_answer_that_is_none_is_told() -> None:
    """A server that refuses is not measured as if it had kept the connection."""
    refused = response(b"", "503 Service Unavailable")
    with (
        serving(lambda _, client: client.sendall(refused)) as port,
        contextlib.closing(Crowd(port, REQUEST)) as crowd,
        pytest.raises(RuntimeError, match="503"),
    ):
        crowd.grow(1)


def test_the_table_divides_the_growth_by_the_idle_and_compares_with_none() -> None:
    """By hand: 2 MiB for a thousand are 2.0 KiB each, and half the rate is 0.50."""
    found = Found(
        readings={0: [reading(1000)], 1000: [reading(500), reading(400), reading(600)]},
        memory={0: 10 << 20, 1000: 12 << 20},
    )
    assert found.rows("Glyph") == [
        "| Glyph | 0 | - | 1,000 | 1.00 | 2.00 | 1.00 | 100 | 1.00 |",
        "| Glyph | 1,000 | 2.0 | 500 | 0.50 | 2.00 | 1.00 | 100 | 1.00 |",
    ]
