"""The thread worker's short way: what waits at the same time is answered together, whatever the clients do."""

import json
import os
import random
import re
import select
import signal
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bundle.repository import Bundle
from serving.served import Kept
from tests.pictures import png
from tests.serving.inference.test_overload import at_once, children
from tests.serving.inference.wire import ANSWER_SECONDS, connected, post, read_answer
from tests.serving.processes import Service, running

Pixels = npt.NDArray[np.uint8]
BATCH = re.compile(r'batch;desc="(\d+)"')


@pytest.fixture(scope="module")
def threads(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Return a service of Gunicorn's threads."""
    directory = tmp_path_factory.mktemp("threads")
    with running(directory, until="/readyz", model=bundle.path.parent, worker="gthread") as started:
        yield started


def test_what_waits_at_the_same_time_is_run_as_one_batch(threads: Service, digit: Pixels) -> None:
    """Requests of forty connections that arrive while the process stands still; each has the answer it has alone."""
    alone = probabilities(threads.post(png(digit)).body)
    answers = at_once(threads, post(png(digit)), 40)
    assert {status for status, _, _ in answers} == {200}
    assert max(int(BATCH.findall(fields["server-timing"])[0]) for _, fields, _ in answers) > 20
    for _, _, body in answers:
        assert probabilities(body) == pytest.approx(alone, abs=1e-6)  # other sizes add in another order


def probabilities(body: bytes) -> dict[str, float]:
    """Return those of an answer's one image."""
    found: dict[str, float] = json.loads(body)["predictions"][0]["probabilities"]
    return found


def test_a_client_that_does_not_read_gets_every_answer_when_it_does(threads: Service, digit: Pixels) -> None:
    """More answers than the sockets' buffers take, in their order; others are answered meanwhile."""
    kind, names = b"application/octet-stream", [f"r{number}" for number in range(1600)]
    with socket.socket() as connection, connected(threads.port) as other, other.makefile("rb") as answers:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(ANSWER_SECONDS)
        connection.connect(("127.0.0.1", threads.port))
        asked = 0
        while asked < len(names) and select.select([], [connection], [], 0)[1]:
            field = f"X-Request-ID: {names[asked]}".encode()
            connection.sendall(post(digit.tobytes() * 16, field, kind=kind))
            asked += 1
            other.sendall(post(png(digit)))
            assert read_answer(answers)[0] == 200
        with connection.makefile("rb") as stream:
            for name in names[:asked]:
                status, fields, body = read_answer(stream)
                assert (status, fields["x-request-id"]) == (200, name)
                assert len(json.loads(body)["predictions"]) == 16


def test_what_waits_beyond_the_queue_is_refused_and_its_connection_kept(
    bundle: Bundle, tmp_path: Path, digit: Pixels
) -> None:
    """Of eighty idle connections that ask at once four fit into the queue; the others are told when to come back."""
    limits = {"threads": 1, "queue_limit": 3}
    common = {"until": "/readyz", "model": bundle.path.parent, "worker": "gthread"}
    with running(tmp_path, **common, **limits) as narrow, ExitStack() as stack:  # type: ignore[arg-type]
        (worker,) = children(narrow.process.pid)
        connections = [stack.enter_context(connected(narrow.port)) for _ in range(80)]
        streams = [stack.enter_context(connection.makefile("rb")) for connection in connections]
        for connection, stream in zip(connections, streams, strict=True):
            connection.sendall(post(png(digit)))
            assert read_answer(stream)[0] == 200
        os.kill(worker, signal.SIGSTOP)
        try:
            for connection in connections:
                connection.sendall(post(png(digit)))
        finally:
            os.kill(worker, signal.SIGCONT)
        answers = [read_answer(stream) for stream in streams]
        assert {status for status, _, _ in answers} == {200, 503}
        for status, fields, body in answers:
            if status == 503:
                assert 1 <= int(fields["retry-after"]) <= 60
                assert b"urn:glyph:problem:overloaded" in body
                assert fields["connection"] == "keep-alive"
        for connection, stream in zip(connections, streams, strict=True):  # all are read again, after a while
            connection.sendall(post(png(digit)))
            assert read_answer(stream)[0] in {200, 503}


def test_idle_connections_are_kept_in_the_order_of_a_deque() -> None:
    """Whatever is done to them, in any order."""
    chance = random.Random(5)  # noqa: S311  no secret
    kept, model = Kept(), deque[int]()
    for number in range(2000):
        if not model or chance.random() < 0.5:
            kept.append(number)
            model.append(number)
        elif chance.random() < 0.5:
            assert kept.popleft() == model.popleft()
        else:
            one = chance.choice(list(model))
            kept.remove(one)
            model.remove(one)
        assert (len(kept), bool(kept), list(kept)) == (len(model), bool(model), list(model))
        if model:
            assert kept[0] == model[0]
