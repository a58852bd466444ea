"""Standard output and error: whatever becomes of them, the service serves, and says what it could not say."""

import contextlib
import errno
import fcntl
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from bench.support import models
from bench.support.management import Managed, await_, managed
from bench.support.models import publish_synthetic
from bench.support.pictures import a_digit, png
from bench.support.processes import ROOT, environment, running, serving_command
from bundle.manifest import SAMPLE_FILE
from bundle.repository import Bundle
from serving.model.store import ModelStore
from serving.process.announcement import announcement
from serving.settings import ServiceSettings
from serving.system.streams import MAX_BUFFER_BYTES, Stream
from tests.serving.management.test_management import workers_of

LONG_PATH = "/" + 3000 * "x"
"""Of which a few hundred fill what a process keeps."""
DROPPED = "glyph_log_lines_dropped_total"


def with_streams(redirections: str, before: str = "") -> list[str]:
    """Return a command that starts the service with its standard streams as a shell redirects them."""
    return ["sh", "-c", f"{before} exec {shlex.join(serving_command())} {redirections}"]


@pytest.mark.parametrize(
    ("variables", "code"), [({"GLYPH_PORT": "none"}, 2), ({"GLYPH_HOST": "192.0.2.1"}, 1)]
)
def test_the_exit_code_says_what_is_wrong_where_nothing_else_can(
    variables: dict[str, str], code: int, bundle: Bundle
) -> None:
    """As where the log's disk is full."""
    settings = environment(model=bundle.path.parent, provider="cpu") | variables
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            serving_command(), env=settings, cwd=ROOT, stdout=full, stderr=full, check=False
        )
    assert done.returncode == code


@contextlib.contextmanager
def unread(directory: Path) -> Iterator[tuple[Path, Callable[[], bytes]]]:
    """Return a FIFO that nobody reads, and what reads all that it has."""
    path = directory / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # for writing too, so that it can be filled

    def read() -> bytes:
        found = b""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(reader, 1 << 16):
                found += piece
        return found

    try:
        yield path, read
    finally:
        os.close(reader)


ASCII = "export PYTHONIOENCODING=ascii;"
C_LOCALE = "export LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0;"


@pytest.mark.parametrize(
    ("redirections", "before", "log_format"),
    [
        pytest.param(">&- 2>&-", "", "text", id="closed"),
        pytest.param("<&- >&- 2>&-", "", "json", id="all closed"),
        pytest.param(">/dev/full", "", "text", id="full disk"),
        pytest.param(">/dev/full 2>&1", "", "text", id="full disk for both"),
        pytest.param("", ASCII, "text", id="ascii"),
        pytest.param("", ASCII, "json", id="ascii, json"),
        pytest.param("", C_LOCALE, "text", id="C locale"),
    ],
)
def test_the_service_serves_whatever_its_streams_are(
    redirections: str, before: str, log_format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is to say that a class is called as no ASCII can write."""
    monkeypatch.setattr(models, "CLASSES", tuple(f"日本-{name}" for name in models.CLASSES))
    model = publish_synthetic(tmp_path / "models").path.parent
    settings: dict[str, Any] = {"model": model, "log_format": log_format, "access_log": True}
    with running(
        tmp_path, until="/readyz", command=with_streams(redirections, before), **settings
    ) as service:
        assert service.post(png(a_digit())).json()["predictions"][0]["label"].startswith("日本-")
        assert service.ask("GET", quote("/日本")).status == 404
        if log_format == "json":
            lines = service.output.read_bytes().decode().splitlines()
            assert all(isinstance(json.loads(line), dict) for line in lines)
        else:
            service.output.read_text("ascii")


@pytest.mark.parametrize("worker", ["inference", "gthread"])
def test_a_reader_that_stops_stops_neither_requests_nor_supervision(worker: str, tmp_path: Path) -> None:
    """What has no room is dropped and counted, a killed worker is replaced, and the log says where lines lack."""
    model = publish_synthetic(tmp_path / "models").path.parent
    with (
        unread(tmp_path) as (fifo, read),
        managed(
            tmp_path,
            model=model,
            worker=worker,
            access_log=True,
            command=with_streams(f">{shlex.quote(str(fifo))} 2>&1"),
        ) as pod,
    ):
        (first,) = workers_of(pod.service.process.pid)
        with contextlib.closing(pod.service.connect()) as connection:

            def ask() -> bool:
                for _ in range(100):
                    connection.request("GET", LONG_PATH)
                    answer = connection.getresponse()
                    answer.read()
                    assert answer.status == 404
                return pod.value(DROPPED) > 0

            await_(ask)
        assert workers_of(pod.service.process.pid) == [first]
        assert b"curl --data-binary" in read()
        await_(lambda: b"lines were dropped here" in told(pod, read))
        fill(fifo)
        os.kill(first, signal.SIGKILL)
        await_(lambda: answers_again(pod, first))


def told(pod: Managed, read: Callable[[], bytes]) -> bytes:
    """Ask for something, and return what the log has had since."""
    pod.service.ask("GET", "/livez")
    return read()


def fill(fifo: Path) -> None:
    """Leave no room in a FIFO."""
    writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.closing(os.fdopen(writer, "wb", 0)), contextlib.suppress(BlockingIOError):
        while os.write(writer, b"x"):
            pass


def answers_again(pod: Managed, gone: int) -> bool:
    """Tell whether another worker than the one that is gone answers predictions."""
    with contextlib.suppress(OSError):
        if workers_of(pod.service.process.pid) in ([], [gone]):
            return False
        return pod.service.post(png(a_digit())).status == 200
    return False


def test_an_announcement_needs_no_working_directory(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been removed; then the sample's path is said whole."""
    settings = ServiceSettings(model=bundle.path.parent, provider="cpu")
    state = ModelStore.start(settings)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert f"@{bundle.path / SAMPLE_FILE} " in str(announcement(state, settings, listener))


def test_a_reader_that_is_gone_ends_nothing(tmp_path: Path) -> None:
    """EPIPE is not SIGPIPE, and a service whose log nobody reads is not one that nobody asks."""
    model = publish_synthetic(tmp_path / "models").path.parent
    reading, writing = os.pipe()
    with managed(
        tmp_path,
        model=model,
        access_log=True,
        command=with_streams(f">/proc/{os.getpid()}/fd/{writing} 2>&1"),
    ) as pod:
        os.close(writing)
        os.close(reading)
        for _ in range(3):
            assert pod.service.post(png(a_digit())).status == 200
        await_(lambda: pod.value(DROPPED) >= 3)


def a_stream(descriptor: int) -> Stream:
    """Return a stream whose notes are easy to see."""
    return Stream(descriptor, lambda count: f"<{count} dropped>\n".encode())


def drained(reading: int) -> bytes:
    """Return what a pipe has in it."""
    found = b""
    while select.select([reading], [], [], 0)[0] and (piece := os.read(reading, 1 << 16)):
        found += piece
    return found


def a_pipe(kind: str) -> tuple[int, int]:
    """Return a pipe's ends, or a socket pair's, the writing one as `make_nonblocking` leaves it, or has to leave it."""
    if kind == "socket":
        ours, theirs = socket.socketpair()
        return ours.detach(), theirs.detach()
    reading, writing = os.pipe()
    os.set_blocking(writing, kind == "another user's pipe")
    return reading, writing


@pytest.mark.parametrize("kind", ["pipe", "another user's pipe", "socket"])
def test_what_a_stream_does_not_take_is_kept_then_dropped_and_told(kind: str) -> None:
    """Nothing waits; every line is whole, in its order; and where lines are missing stands how many."""
    reading, writing = a_pipe(kind)
    stream = a_stream(writing)
    lines = [f"{number} {'x' * 9000}\n".encode() for number in range(MAX_BUFFER_BYTES // 4500)]
    for line in lines:
        stream.write(line)
    assert 0 < stream.dropped < len(lines)
    found = b""
    while piece := drained(reading):
        found += piece
        stream.flush()
    kept = len(lines) - stream.dropped
    assert found == b"".join(lines[:kept])
    stream.write(b"again\n")
    assert drained(reading) == f"<{stream.dropped} dropped>\nagain\n".encode()
    stream.write(b"and again\n")
    assert drained(reading) == b"and again\n"


def test_a_stream_that_fails_drops_and_tells_when_it_works_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that was full for a while: in the middle of a line, too."""
    reading, writing = os.pipe()
    stream, write = a_stream(writing), os.write

    def half(descriptor: int, data: bytes) -> int:
        if data != b"0123456789\n":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[:5])

    monkeypatch.setattr(os, "write", half)
    stream.write(b"0123456789\n")
    stream.write(b"more\n")
    monkeypatch.undo()
    stream.write(b"whole\n")
    assert stream.dropped == 2
    assert drained(reading) == b"01234\n<2 dropped>\nwhole\n"


def test_a_child_leaves_what_its_parent_kept_to_the_parent() -> None:
    """Every worker is forked while the arbiter may keep something."""
    reading, writing = a_pipe("pipe")
    stream = a_stream(writing)
    line = b"x" * 8191 + b"\n"
    count = fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ) // len(line) + 2
    for _ in range(count):
        stream.write(line)
    whole = drained(reading)
    if (child := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            stream.write(b"the child's\n")
        os._exit(0)
    os.waitpid(child, 0)
    assert drained(reading) == b"the child's\n"
    stream.flush_at_exit()
    assert whole + drained(reading) == count * line


def test_the_end_does_not_wait_for_a_reader_that_has_stopped() -> None:
    """A moment, in which one that reads gets the rest."""
    reading, writing = a_pipe("pipe")
    stream = a_stream(writing)
    for _ in range(3):
        stream.write(b"x" * (1 << 16))
    stream.flush_at_exit()
    assert len(drained(reading)) == 1 << 16


def test_others_who_have_the_same_pipe_may_still_wait_for_it() -> None:
    """O_NONBLOCK is a property of what a shell and its jobs share: it is left as it was."""
    reading, writing = os.pipe()
    program = (
        "import os; from serving.system.streams import make_nonblocking; make_nonblocking(); "
        "os.write(1, b'%d' % os.get_blocking(1))"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=writing, check=True)
    assert os.read(reading, 10) == b"0"
    assert os.get_blocking(writing)


def test_what_is_printed_to_standard_error_is_in_the_log(tmp_path: Path) -> None:
    """Gunicorn prints in places, a thread that dies prints its traceback, and neither past the format."""
    program = (
        "import sys, threading; from serving.telemetry import logs; from serving.settings import ServiceSettings; "
        "logs.configure(ServiceSettings(log_format='json')); print('one\\ntwo', file=sys.stderr); "
        "thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True)
    messages = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert messages[:2] == ["one", "two"]
    assert messages[-1].startswith("ZeroDivisionError")
