"""More than can be answered: a bounded queue, refusals that say when to come back, and deadlines."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bench.support.pictures import png
from bench.support.processes import Part, Service, form, running
from bundle.repository import Bundle
from serving.errors import BadTimeoutError, DeadlineExceededError, OverloadedError
from serving.predict.load_shedding import AdmissionControl, check_deadline, deadline
from tests.serving.worker.wire import connected, post, read_answer

Pixels = npt.NDArray[np.uint8]


def children(pid: int) -> list[int]:
    """Return a process's children: of Gunicorn's arbiter, the workers."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_gate_lets_in_as_many_as_its_limit_and_again_when_one_leaves() -> None:
    """Neither more requests nor more bytes than were allowed."""
    admission = AdmissionControl(2, 100)
    admission.enter()
    admission.enter()
    with pytest.raises(OverloadedError) as refused:
        admission.enter()
    assert refused.value.headers["Retry-After"] == "1"
    admission.leave()
    admission.enter()
    admission.reserve(90)
    with pytest.raises(OverloadedError):
        admission.reserve(11)
    admission.release(90)
    admission.reserve(100)


def test_retry_after_is_what_waits_by_the_rate_at_which_it_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred waiting, ten a second: ten seconds (Little's law); and never more than a minute."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    admission = AdmissionControl(1000, 0)
    for _ in range(200):
        admission.enter()
    for _ in range(100):
        now += 0.1
        admission.leave()
    assert admission.waiting == 100
    assert admission.retry_after() == pytest.approx(10, abs=1)
    for _ in range(900):
        admission.enter()
    assert admission.retry_after() == 60


@pytest.mark.parametrize(
    ("value", "seconds"), [(None, 30.0), ("1", 0.001), ("1500", 1.5), ("30001", 30.0), ("9" * 400, 30.0)]
)
def test_a_deadline_is_the_clients_up_to_the_ceiling(value: str | None, seconds: float) -> None:
    """Milliseconds from the arrival; without the field, the ceiling."""
    assert deadline(value, 100.0, 30.0) == pytest.approx(100.0 + seconds)


@pytest.mark.parametrize("value", ["", "0", "-1", "1.5", "soon", "\u0661", "1 000", "0x10"])
def test_what_is_no_time_is_refused(value: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(BadTimeoutError):
        deadline(value, 0.0, 30.0)


def test_a_deadline_that_has_passed_is_told() -> None:
    """Before it, nothing happens."""
    check_deadline(time.perf_counter() + 60)
    with pytest.raises(DeadlineExceededError):
        check_deadline(time.perf_counter() - 0.001)


@pytest.fixture(scope="module", params=["inference", "gthread"])
def narrow(
    bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Service]:
    """Return a service that works on one large request at a time and lets three wait."""
    directory = tmp_path_factory.mktemp("narrow")
    limits: dict[str, Any] = {
        "threads": 1,
        "queue_limit": 4 if request.param == "inference" else 3,
        "queue_bytes": 4 << 20,
    }
    common: dict[str, Any] = {"until": "/readyz", "model": bundle.path.parent, "worker": request.param}
    with running(directory, **common, **limits) as started:
        yield started


def at_once(service: Service, request: bytes, count: int) -> list[tuple[int, dict[str, str], bytes]]:
    """Send the same request on many connections while the process stands still, and let it go on."""
    (worker,) = children(service.process.pid)
    with ExitStack() as stack:
        connections = [stack.enter_context(connected(service.port)) for _ in range(count)]
        streams = [stack.enter_context(connection.makefile("rb")) for connection in connections]
        os.kill(worker, signal.SIGSTOP)
        try:
            for connection in connections:
                connection.sendall(request)
        finally:
            os.kill(worker, signal.SIGCONT)
        return [read_answer(stream) for stream in streams]


def large(digit: Pixels, *fields: bytes) -> bytes:
    """Return a request that takes some 10 ms, all of it inside the service."""
    body, content_type = form(*[Part(png(digit))] * 250)
    return post(body, *fields, kind=content_type.encode())


def test_beyond_the_queue_the_answer_is_503_with_retry_after(narrow: Service, digit: Pixels) -> None:
    """What fits is answered, what does not is told when to come back, and then all is well again."""
    answers = at_once(narrow, large(digit), 24)
    assert {status for status, _, _ in answers} == {200, 503}
    assert sum(status == 200 for status, _, _ in answers) >= 4
    for status, headers, body in answers:
        if status == 503:
            assert 1 <= int(headers["retry-after"]) <= 60
            assert b"urn:glyph:problem:overloaded" in body
            assert headers["connection"] == "keep-alive"
    for _ in range(50):  # a thread gives its place back a moment after its client has the answer
        if (status := narrow.post(png(digit)).status) != 503:
            break
    assert status == 200


def test_a_connection_that_was_refused_is_answered_when_there_is_room(narrow: Service, digit: Pixels) -> None:
    """Small requests that come when large ones have filled the queue; each client asks on until it is answered."""
    (worker,) = children(narrow.process.pid)
    small = post(png(digit))
    with ExitStack() as stack:
        connections = [stack.enter_context(connected(narrow.port)) for _ in range(24)]
        streams = [stack.enter_context(connection.makefile("rb")) for connection in connections]
        os.kill(worker, signal.SIGSTOP)
        try:
            for number, connection in enumerate(connections):
                connection.sendall(large(digit) if number < 12 else small)
        finally:
            os.kill(worker, signal.SIGCONT)
        refused = 0
        for connection, stream in list(zip(connections, streams, strict=True))[12:]:
            while (answer := read_answer(stream))[0] == 503:
                refused += 1
                assert "retry-after" in answer[1]
                assert answer[1]["connection"] == "keep-alive"
                assert b"urn:glyph:problem:overloaded" in answer[2]
                connection.sendall(small)
            assert answer[0] == 200
        assert refused


@pytest.mark.parametrize("narrow", ["inference"], indirect=True)
def test_what_cannot_be_held_in_memory_is_503(narrow: Service, digit: Pixels) -> None:
    """Bodies that have arrived in part count."""
    with connected(narrow.port) as one, connected(narrow.port) as other, other.makefile("rb") as stream:
        request = post(bytes(3 << 20), b"Expect: 100-continue")
        head = request.index(b"\r\n\r\n") + 4
        one.sendall(request[:head])
        assert one.recv(100).startswith(b"HTTP/1.1 100 ")
        one.sendall(request[head:-1])
        for _ in range(400):  # the service reads what has arrived, a part of it in each turn
            other.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
            assert read_answer(stream)[0] == 200
        other.sendall(post(bytes(3 << 20)))
        status, headers, body = read_answer(stream)
        assert status == 503
        assert "retry-after" in headers
        assert b"the memory for requests" in body
        one.sendall(b"\0")
        with one.makefile("rb") as first:
            assert read_answer(first)[0] == 415
        while status == 503:  # a thread gives the memory back just after it has answered
            other.sendall(post(bytes(3 << 20)))
            status, _, _ = read_answer(stream)
        assert status == 415


def test_after_its_deadline_a_request_is_504_and_not_computed(narrow: Service, digit: Pixels) -> None:
    """Of four that wait for the one thread, the last have no time left; no time was spent on them."""
    answers = at_once(narrow, large(digit, b"X-Request-Timeout-Ms: 12"), 4)
    late = [(headers, body) for status, headers, body in answers if status == 504]
    assert late
    for headers, body in late:
        assert b"urn:glyph:problem:deadline-exceeded" in body
        assert "infer" not in headers.get("server-timing", "")
    assert narrow.post(png(digit)).status == 200


def test_a_timeout_that_is_no_number_is_400(narrow: Service, digit: Pixels) -> None:
    """In the form of the route."""
    answer = narrow.ask("POST", "/predict", png(digit), Content_Type="image/png", X_Request_Timeout_Ms="soon")
    assert answer.status == 400
    answer = narrow.ask("POST", "/v2/models/synthetic/infer", b"{}", X_Request_Timeout_Ms="soon")
    assert answer.status == 400
    assert "X-Request-Timeout-Ms" in answer.json()["error"]
