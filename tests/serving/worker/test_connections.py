"""As many connections as there may be: newcomers take the place of idle ones, and descriptors are checked before."""

import contextlib
import errno
import os
import resource
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bench.support.management import managed
from bench.support.pictures import png
from bench.support.processes import ROOT, START_SECONDS, environment, free_port, serving_command
from bundle.repository import Bundle
from common.errors import ConfigurationError
from serving.settings import ServiceSettings
from serving.system import descriptors
from serving.system.descriptors import RESERVE
from serving.worker.inference_worker import InferenceWorker
from tests.serving.worker.wire import connected, post, read_answer

LIMIT = 8


def test_a_newcomer_takes_the_place_of_the_longest_idle(
    bundle: Bundle, tmp_path: Path, digit: npt.NDArray[np.uint8]
) -> None:
    """It does not wait until somebody's keep-alive is over; the log and the metrics say so."""
    request = post(png(digit))
    with (
        managed(tmp_path, model=bundle.path.parent, connections=LIMIT) as pod,
        contextlib.ExitStack() as stack,
    ):
        streams = []
        for _ in range(LIMIT + 1):
            connection = stack.enter_context(connected(pod.service.port))
            streams.append((connection, stack.enter_context(connection.makefile("rb"))))
            connection.sendall(request)
            assert read_answer(streams[-1][1])[0] == 200
        assert streams[0][1].read() == b""
        for connection, stream in streams[1:]:
            connection.sendall(request)
            assert read_answer(stream)[0] == 200
        assert pod.service.log().count("GLYPH_CONNECTIONS") == 1
        pod.await_value(1, "glyph_connections_evicted_total")
        pod.await_value(LIMIT, "glyph_connections")


def test_connections_that_are_not_idle_keep_their_place(
    bundle: Bundle, tmp_path: Path, digit: npt.NDArray[np.uint8]
) -> None:
    """Whoever has begun a request is not cut off; the newcomer waits until one of them is done."""
    request = post(png(digit))
    with (
        managed(tmp_path, model=bundle.path.parent, connections=LIMIT) as pod,
        contextlib.ExitStack() as stack,
    ):
        busy = [stack.enter_context(connected(pod.service.port)) for _ in range(LIMIT)]
        for connection in busy:
            connection.sendall(request[:-1])
        pod.await_value(LIMIT, "glyph_connections")
        newcomer = stack.enter_context(connected(pod.service.port))
        newcomer.sendall(request)
        for connection in busy:
            connection.sendall(request[-1:])
            assert read_answer(connection.makefile("rb"))[0] == 200
        assert read_answer(newcomer.makefile("rb"))[0] == 200


def test_a_lack_of_descriptors_is_said_once_and_pauses() -> None:
    """Until a connection was accepted again; each tick tries."""
    said: list[str] = []
    refusals = [True, True, False, True]

    def accept() -> tuple[Any, Any]:
        if refusals.pop(0):
            raise OSError(errno.EMFILE, "Too many open files")
        raise BlockingIOError

    worker: Any = InferenceWorker.__new__(InferenceWorker)
    worker.log = SimpleNamespace(
        error=lambda words, *values: said.append(words % values), exception=said.append
    )
    worker.connections = SimpleNamespace(has_room=True)
    worker._connecting, worker._listeners, worker._accepting, worker._exhausted = set(), [], True, False
    listener = SimpleNamespace(accept=accept)
    for _ in range(2):
        assert not worker._accept(listener)
        assert not worker._accepting
    assert len(said) == 1
    assert "Too many open files" in said[0]
    assert "GLYPH_CONNECTIONS" in said[0]


def test_the_soft_limit_is_raised_as_far_as_connections_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the hard one allows it; else a sentence says what to set."""
    limits = {"now": (1024, 6000)}
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.update(now=new))
    descriptors.raise_limit(ServiceSettings(connections=800))
    assert limits["now"] == (1024, 6000)
    descriptors.raise_limit(ServiceSettings(connections=4096))
    assert limits["now"] == (4096 + RESERVE, 6000)
    with pytest.raises(ConfigurationError, match=r"GLYPH_CONNECTIONS=6000 needs 6128 .* may open 6000"):
        descriptors.raise_limit(ServiceSettings(connections=6000))


def test_too_few_descriptors_end_the_start_with_a_sentence(bundle: Bundle) -> None:
    """With the exit code of a wrong setting."""
    ended = subprocess.run(
        ["prlimit", "--nofile=512:512", *serving_command()],
        env=environment(model=bundle.path.parent, port=free_port(), connections=4096),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: GLYPH_CONNECTIONS=4096 needs 4224 file descriptors")
    assert "Traceback" not in ended.stderr


def test_the_default_of_connections_follows_a_low_hard_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nobody asked for a number, a host that allows fewer files gets a service with fewer connections."""
    limits = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    monkeypatch.setenv("GLYPH_CONNECTIONS", "")
    assert descriptors.raise_limit(ServiceSettings()).connections == 4096 - descriptors.RESERVE
    assert limits[-1] == (4096, 4096)
    assert os.environ["GLYPH_CONNECTIONS"] == str(4096 - descriptors.RESERVE)
    assert "3968 connections and not 4096" in capsys.readouterr().err
    limits.append((150, 150))
    with pytest.raises(ConfigurationError, match="or raise the limit"):
        descriptors.raise_limit(ServiceSettings())
