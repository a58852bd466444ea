"""HTTP/1.1 as RFC 9112 has it, over raw sockets; each test asks both ways of serving."""

import io
import socket

import numpy as np
import numpy.typing as npt
import pytest

from bench.support.pictures import png
from bench.support.processes import Part, Service, form
from tests.serving.worker.wire import (
    LAST,
    connected,
    post,
    read_all,
    read_answer,
    settled,
    statuses,
    talk,
)

Pixels = npt.NDArray[np.uint8]
CHUNKED = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n"


def npy(images: Pixels) -> bytes:
    """Return an array as NumPy writes it."""
    buffer = io.BytesIO()
    np.save(buffer, images)
    return buffer.getvalue()


def turned(digit: Pixels, count: int) -> list[bytes]:
    """Return so many different images as PNG files."""
    return [png(np.roll(digit, shift, axis=1)) for shift in range(count)]


def test_both_ways_give_a_prediction_the_same_bytes(
    both_services: tuple[Service, Service], digit: Pixels
) -> None:
    """One image, several, many, a large body, refused ones: each alone, byte for byte."""
    many, several = form(*map(Part, turned(digit, 28) * 9)), form(*map(Part, turned(digit, 5)))
    images = np.random.default_rng(0).integers(0, 256, (700, 28, 28), dtype=np.uint8)
    requests = [
        post(png(digit)),
        post(png(digit), path=b"/predict?top=2"),
        post(png(digit), b"X-Request-ID: abc"),
        post(png(digit), b"Accept-Encoding: gzip"),
        post(several[0], kind=several[1].encode()),
        post(many[0], kind=many[1].encode()),
        post(npy(images), kind=b"application/x-npy"),
        post(npy(images[:3]), kind=b"application/x-npy"),
        post(png(digit)[:-20]),
        post(b""),
        post(bytes(9_000_000)),
        post(png(digit), path=b"/v2/models/synthetic/infer"),
    ]
    for request in requests:
        first, second = (talk(dispatcher.port, request + LAST) for dispatcher in both_services)
        assert len(statuses(first)) == 2
        assert settled(first) == settled(second)


def test_pipelined_requests_are_answered_in_order(service: Service, digit: Pixels) -> None:
    """Sixty requests in one packet, predictions and pages mixed, each answer with its own id."""
    requests = []
    for number in range(60):
        name = b"X-Request-ID: n%d" % number
        requests.append(
            post(png(digit), name)
            if number % 3
            else b"GET /livez HTTP/1.1\r\nHost: a\r\n" + name + b"\r\n\r\n"
        )
    with connected(service.port) as connection, connection.makefile("rb") as stream:
        connection.sendall(b"".join(requests))
        for number in range(60):
            status, headers, _ = read_answer(stream)
            assert status == 200
            assert headers["x-request-id"] == f"n{number}"


def test_a_client_that_pipelines_and_does_not_read_is_not_read_from(service: Service, digit: Pixels) -> None:
    """The service holds a bounded part of the answers, and gives all of them once they are taken."""
    body, content_type = form(*map(Part, turned(digit, 28) * 4))
    request = post(body, kind=content_type.encode())
    with connected(service.port) as connection:
        connection.setblocking(False)
        sent, stalled = 0, 0
        data = request * 400
        while sent < len(data) and stalled < 40:  # until nothing is taken any more
            try:
                sent += connection.send(data[sent : sent + 65536])
                stalled = 0
            except BlockingIOError:
                stalled += 1
                service.ask("GET", "/livez")  # time passes, and others are served meanwhile
        assert sent < len(data)
        whole = sent // len(request)
        connection.setblocking(True)
        connection.settimeout(30)
        with connection.makefile("rb") as stream:
            assert {read_answer(stream)[0] for _ in range(whole)} == {200}


def test_expect_100_continue(service: Service, digit: Pixels) -> None:
    """The body is asked for, then answered (RFC 9110, section 10.1.1)."""
    data = png(digit)
    with connected(service.port) as connection, connection.makefile("rb") as stream:
        head, body = post(data, b"Expect: 100-continue").split(b"\r\n\r\n", 1)
        connection.sendall(head + b"\r\n\r\n")
        assert stream.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert stream.readline() == b"\r\n"
        connection.sendall(body)
        assert read_answer(stream)[0] == 200
        connection.sendall(post(data))
        assert read_answer(stream)[0] == 200


def test_head_has_the_fields_of_get_and_no_body(service: Service) -> None:
    """The next answer on the connection starts where the fields end (RFC 9110, section 9.3.2)."""
    get = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
    whole = settled(talk(service.port, get + LAST))
    without = settled(talk(service.port, get.replace(b"GET", b"HEAD") + LAST))
    assert statuses(without) == [200, 200]
    assert without == whole.replace(b'{"live":true}', b"", 1)


def test_a_half_closed_connection_gets_its_answers(service: Service, digit: Pixels) -> None:
    """A client may close its own side as soon as it has asked."""
    answers = talk(service.port, post(png(digit)) * 3, half_close=True)
    assert statuses(answers) == [200] * 3


@pytest.mark.parametrize("request_", [post(b"x" * 50)[:-10], CHUNKED + b"\r\n5\r\nhel"])
def test_a_body_that_ends_early_is_400(service: Service, request_: bytes) -> None:
    """The client has closed its side in the middle of the body."""
    answer = talk(service.port, request_, half_close=True)
    assert statuses(answer) == [400]
    assert b"ended early" in answer


def test_a_head_that_ends_early_is_no_request(service: Service) -> None:
    """There is nobody to answer."""
    for data in (b"", b"\r\n", b"POST /pre", b"GET /livez HTTP/1.1\r\nHost: a\r\n"):
        assert talk(service.port, data, half_close=True) == b""


def test_a_chunked_body_in_pieces_is_answered(service: Service, digit: Pixels) -> None:
    """Chunks, extensions and trailers, cut anywhere."""
    data = png(digit)
    chunks = b"".join(b"%x;a=b\r\n%s\r\n" % (len(part), part) for part in (data[:7], data[7:100], data[100:]))
    request = CHUNKED + b"\r\n" + chunks + b"0\r\nX-Checksum: 1\r\n\r\n" + LAST
    whole = settled(talk(service.port, request))
    assert statuses(whole) == [200, 200]
    pieces = [request[at : at + 11] for at in range(0, len(request), 11)]
    assert settled(talk(service.port, *pieces)) == whole


def test_http_1_0_is_answered_and_closed_unless_asked_to_stay(service: Service, digit: Pixels) -> None:
    """RFC 9112, section 9.3."""
    request = post(png(digit)).replace(b"HTTP/1.1", b"HTTP/1.0")
    answer = talk(service.port, request)
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
    assert b"Connection: close" in answer
    stay = post(png(digit), b"Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")
    assert statuses(talk(service.port, stay + request)) == [200, 200]


def test_a_refused_chunked_body_is_read_to_its_end(service: Service, digit: Pixels) -> None:
    """The answer comes, and the connection is understood after it."""
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    with connected(service.port) as connection, connection.makefile("rb") as stream:
        connection.sendall(CHUNKED + b"\r\n" + chunk * 150 + b"0\r\n\r\n")
        assert read_answer(stream)[0] == 413
        connection.sendall(post(png(digit)))
        assert read_answer(stream)[0] == 200


def test_a_chunk_that_says_too_much_is_refused_before_it_comes(
    both_services: tuple[Service, Service], digit: Pixels
) -> None:
    """At its size; nobody waits for what would be thrown away. A size of more than 64 bits is none."""
    for size, status in ((b"900000", 413), (b"7fffffffffffffff", 413), (b"10000000000000000", 400)):
        with connected(both_services[0].port) as connection, connection.makefile("rb") as stream:
            connection.sendall(CHUNKED + b"\r\n" + size + b"\r\n")
            assert read_answer(stream)[0] == status
    with connected(both_services[0].port) as connection, connection.makefile("rb") as stream:
        connection.sendall(CHUNKED + b"\r\n900000\r\n")
        assert read_answer(stream)[0] == 413
        connection.sendall(bytes(0x900000) + b"\r\n0\r\n\r\n" + post(png(digit)))
        assert read_answer(stream)[0] == 200


def test_a_refusal_of_head_has_no_body(both_services: tuple[Service, Service]) -> None:
    """A body that is broken is refused before the application is asked (RFC 9110, section 9.3.2)."""
    answer = talk(both_services[0].port, CHUNKED.replace(b"POST", b"HEAD") + b"\r\nx\r\n")
    assert statuses(answer) == [400]
    assert answer.endswith(b"\r\n\r\n")


def test_a_client_that_goes_away_harms_nobody(service: Service, digit: Pixels) -> None:
    """Resets in the middle of heads, bodies and answers; the next client is served."""
    for data in (post(png(digit)), post(png(digit))[:-10], b"POST /pre", b"GET /livez HTTP/1.1\r\n\r\n"):
        for _ in range(20):
            with connected(service.port) as connection:
                connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
                )  # close by reset
                connection.sendall(data)
    assert statuses(talk(service.port, post(png(digit)) + LAST)) == [200, 200]


def test_after_close_nothing_more_is_answered(service: Service, digit: Pixels) -> None:
    """What follows a request that closes is not a request (RFC 9112, section 9.6)."""
    with connected(service.port) as connection:
        connection.sendall(LAST + post(png(digit)))
        assert statuses(read_all(connection)) == [200]
