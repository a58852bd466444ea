"""Ends and restarts: what was asked is answered, what dies is replaced, and only its own requests fail."""

import contextlib
import functools
import http.client
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pytest

from bench.support.pictures import png
from bench.support.processes import START_SECONDS, Service, running, serving_command
from bundle.repository import Bundle
from tests.serving.conftest import AILING
from tests.serving.worker.test_overload import children, large
from tests.serving.worker.wire import connected, post, read_answer, statuses

Pixels = npt.NDArray[np.uint8]
PATIENCE = 120.0
READY = b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n"


INFERENCE = pytest.mark.parametrize("start", ["inference"], indirect=True)
"""How gthread ends is Gunicorn's: it resets what it has not accepted, and SIGINT waits for threads that read."""


@pytest.fixture(params=["inference", "gthread"])
def start(bundle: Bundle, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Service]]:
    """Return what starts a service; each ends with the test, and well, if the test has not ended it."""
    with ExitStack() as stack:

        def begin(**settings: object) -> Service:
            common = {"until": "/readyz", "model": bundle.path.parent, "worker": request.param}
            service = stack.enter_context(running(tmp_path, **(common | settings)))
            if (workers := settings.get("workers", 1)) != 1:  # one that is ready answers for all
                until(lambda: service.log().count("ready: ") == workers)
            return service

        yield begin


def is_pending(pid: int, sign: signal.Signals) -> bool:
    """Tell whether a stopped process has been sent a signal (proc_pid_status(5): ShdPnd, a mask in hexadecimal)."""
    (mask,) = re.findall(r"(?m)^ShdPnd:\t(\w+)$", Path(f"/proc/{pid}/status").read_text())
    return bool(int(mask, 16) >> (sign - 1) & 1)


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the pause is between looks."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


class Load:
    """Clients that ask without a pause on connections they keep, and count what they get."""

    def __init__(self, service: Service, body: bytes, clients: int) -> None:
        self.statuses: Counter[int] = Counter()
        self.failures: list[BaseException] = []
        self._service, self._body = service, body
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Ask no more, and wait for the answers that are due."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def answered(self, more: int) -> None:
        """Wait until so many more requests have been answered."""
        before = self.statuses.total()
        until(lambda: self.statuses.total() - before >= more or bool(self.failures))

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._service.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            while not self._ended.is_set():
                try:
                    connection.request("POST", "/predict", self._body, {"Content-Type": "image/png"})
                    response = connection.getresponse()
                    response.read()
                except (OSError, http.client.HTTPException) as error:
                    self.failures.append(error)
                    connection.close()
                else:
                    self.statuses[response.status] += 1


@pytest.mark.parametrize(
    ("allowed", "word", "replaced"),
    [(15, "stuck", True), (15, "import", True), (120, "slow", False)],
    ids=["stuck", "stuck in a library", "slow"],
)
def test_a_worker_has_so_long_to_load_its_model(
    start: Callable[..., Service],
    ailment: Path,
    monkeypatch: pytest.MonkeyPatch,
    allowed: int,
    word: str,
    *,
    replaced: bool,
) -> None:
    """Longer than it may be silent once it serves, and then another takes its place: also one that loads for ever."""
    ailment.write_text(word)
    monkeypatch.setenv("LOAD_SECONDS", str(allowed))
    service = start(command=AILING, timeout_seconds=5)
    assert ("WORKER TIMEOUT" in service.log()) is replaced


@INFERENCE
def test_sigterm_answers_what_was_asked_and_exits_0(start: Callable[..., Service], digit: Pixels) -> None:
    """Requests that wait, in the process and on connections it has not accepted yet, and not ready at once."""
    service = start(threads=1)
    (worker,) = children(service.process.pid)
    with ExitStack() as stack:
        kept = stack.enter_context(connected(service.port))
        kept_stream = stack.enter_context(kept.makefile("rb"))
        kept.sendall(READY)
        assert read_answer(kept_stream)[0] == 200
        os.kill(worker, signal.SIGSTOP)
        try:
            new = [stack.enter_context(connected(service.port)) for _ in range(12)]
            for number, connection in enumerate(new):
                connection.sendall(large(digit) if number % 2 else post(png(digit)))
            service.process.terminate()
            until(lambda: is_pending(worker, signal.SIGTERM))  # later than the arbiter's log has it
            kept.sendall(READY * 50)
        finally:
            os.kill(worker, signal.SIGCONT)
        ready = statuses(kept_stream.read())
        assert ready[-1] == 503  # and some before it, as far as they were read before the signal
        assert set(ready[:-1]) <= {200}
        for connection in new:
            with connection.makefile("rb") as stream:
                assert read_answer(stream)[0] == 200
    assert service.process.wait(START_SECONDS) == 0


def test_a_hup_under_load_loses_no_request(start: Callable[..., Service], digit: Pixels) -> None:
    """Workers are replaced while clients ask without a pause."""
    service = start(workers=2)
    with Load(service, png(digit), 4) as load:
        old = set(children(service.process.pid))
        load.answered(50)
        service.process.send_signal(signal.SIGHUP)
        until(lambda: not old & set(children(service.process.pid)))
        load.answered(50)
    assert load.failures == []
    assert set(load.statuses) == {200}


def test_connections_wait_while_the_workers_of_a_hup_load_their_model(
    start: Callable[..., Service], ailment: Path, digit: Pixels
) -> None:
    """The old ones have gone, and nobody is refused."""
    service = start(workers=2, command=AILING)
    old = set(children(service.process.pid))
    ailment.write_text("wait")
    service.process.send_signal(signal.SIGHUP)
    until(lambda: service.log().count(" waits") == 2 and not old & set(children(service.process.pid)))
    with ExitStack() as stack:
        waiting = [stack.enter_context(connected(service.port)) for _ in range(20)]
        for connection in waiting:
            connection.sendall(post(png(digit)))
        ailment.write_text("")
        for connection in waiting:
            with connection.makefile("rb") as stream:
                assert read_answer(stream)[0] == 200


def test_twenty_hups_make_no_more_than_one_generation_beside_the_other(
    start: Callable[..., Service], ailment: Path, digit: Pixels
) -> None:
    """Each new one is still loading when the next HUP comes; those that come meanwhile are one."""
    service = start(workers=2, command=AILING)
    ailment.write_text("wait")
    seen: set[int] = set()

    def waits(count: int) -> bool:
        seen.add(len(children(service.process.pid)))
        return service.log().count(" waits") >= count

    with Load(service, png(digit), 2) as load:
        for number in range(20):
            service.process.send_signal(signal.SIGHUP)
            until(functools.partial(waits, min(number, 6)))
        ailment.write_text("")
        load.answered(50)
    assert 2 < max(seen) <= 4
    assert service.log().count("Hang up") < 20
    assert load.failures == []
    assert set(load.statuses) == {200}


@pytest.mark.parametrize("sign", [signal.SIGHUP, signal.SIGUSR2])
def test_the_arbiters_signals_end_no_worker(
    start: Callable[..., Service], ailment: Path, sign: signal.Signals
) -> None:
    """A terminal that closes sends them to every process of the group; one worker serves, and one loads."""
    service = start(workers=1, command=AILING)
    ailment.write_text("wait")
    service.process.send_signal(signal.SIGTTIN)
    until(lambda: " waits" in service.log())
    workers = children(service.process.pid)
    assert len(workers) == 2
    for pid in workers:
        os.kill(pid, sign)
    ailment.write_text("")
    until(lambda: service.log().count("ready: ") == 2)
    assert children(service.process.pid) == workers
    service.process.terminate()
    assert service.process.wait(START_SECONDS) == 0
    assert "was sent SIG" not in service.log()


def test_a_pause_of_all_processes_makes_no_worker_late(start: Callable[..., Service], digit: Pixels) -> None:
    """Stopped for longer than a worker may be silent, as by `docker pause`, and continued: the clock ran on."""
    service = start(workers=2, timeout_seconds=6)
    workers = children(service.process.pid)
    for pid in (service.process.pid, *workers):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(8)
    for pid in (service.process.pid, *workers):
        os.kill(pid, signal.SIGCONT)
    for count in (1, 2):  # at the second, it has looked at the workers after the first
        service.process.send_signal(signal.SIGUSR1)
        until(lambda count=count: service.log().count("Handling signal: usr1") == count)  # type: ignore[misc]
    assert service.post(png(digit)).status == 200
    assert "WORKER TIMEOUT" not in service.log()
    assert children(service.process.pid) == workers


@pytest.mark.parametrize(
    ("word", "reason"), [("raise", "it cannot be loaded today"), ("provider", "CUDA does not")]
)
def test_a_worker_that_cannot_start_does_not_end_the_others(
    start: Callable[..., Service], ailment: Path, digit: Pixels, word: str, reason: str
) -> None:
    """It is tried again until it can, and the log says why."""
    service = start(workers=2, command=AILING)
    first, second = children(service.process.pid)
    ailment.write_text(word)
    os.kill(first, signal.SIGKILL)
    until(lambda: service.log().count("this worker cannot start") >= 2)
    assert reason in service.log()
    assert second in children(service.process.pid)
    assert service.post(png(digit)).status == 200
    ailment.write_text("")
    until(lambda: service.log().count("ready: ") == 3)


@pytest.mark.parametrize(("word", "code"), [("raise", 3), ("provider", 4)])
def test_a_service_that_was_never_ready_ends_with_its_worker(
    start: Callable[..., Service], ailment: Path, word: str, code: int
) -> None:
    """With the code that the documents say: at the first start there is nobody to be spared."""
    ailment.write_text(word)
    service = start(command=AILING, until=None, code=code)
    assert service.process.wait(START_SECONDS) == code


@pytest.mark.parametrize("before", ["", "wait"], ids=["serving", "loading"])
def test_a_worker_ends_when_its_arbiter_is_killed(
    start: Callable[..., Service], ailment: Path, before: str
) -> None:
    """Also one that would load for ever."""
    service = start(command=AILING, code=-signal.SIGKILL)
    ailment.write_text(before)
    service.process.send_signal(signal.SIGHUP)
    until(lambda: (" waits" if before else "ready: ") in service.log().partition("Hang up")[2])
    until(lambda: len(children(service.process.pid)) == 1)
    (worker,) = children(service.process.pid)
    service.process.kill()
    service.process.wait()
    until(lambda: gone(worker))


def gone(pid: int) -> bool:
    """Tell whether a process has ended, whoever may have to take note of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def started_on_a_copy(
    start: Callable[..., Service], bundle: Bundle, tmp_path: Path, *, reload_seconds: float
) -> tuple[Service, Path]:
    """Start two workers, both of them ready, and return where the model is that they alone serve."""
    model = Path(shutil.copytree(bundle.path.parent, tmp_path / bundle.manifest.name))
    return start(workers=2, model=model, reload_seconds=reload_seconds), model


def test_a_hup_whose_workers_find_no_model_answers_with_the_reason(
    start: Callable[..., Service], bundle: Bundle, digit: Pixels, tmp_path: Path
) -> None:
    """The version is gone from the disk, and the workers that had it in memory end: `--check` tells beforehand."""
    service, model = started_on_a_copy(start, bundle, tmp_path, reload_seconds=0.5)
    old = set(children(service.process.pid))
    aside = model.rename(tmp_path / "aside")
    with Load(service, png(digit), 2) as load:
        service.process.send_signal(signal.SIGHUP)
        until(lambda: 503 in load.statuses or bool(load.failures))
        assert load.failures == []
        assert not old & set(children(service.process.pid))
        assert "no version is published" in service.post(png(digit)).json()["detail"]
        assert "not ready: " in service.log()
        aside.rename(model)
        until(lambda: service.log().count("ready: synthetic") == 4)
        before = load.statuses[200]
        until(lambda: load.statuses[200] - before >= 50 or bool(load.failures))
    assert load.failures == []


def test_who_is_told_to_end_while_workers_start_ends(start: Callable[..., Service]) -> None:
    """HUP, and SIGTERM right behind it: it finds the new workers forked, and not much more."""
    service = start(workers=2, graceful_timeout_seconds=600)
    service.process.send_signal(signal.SIGHUP)
    service.process.terminate()
    assert service.process.wait(START_SECONDS) == 0


@INFERENCE
def test_a_worker_that_is_told_to_end_before_it_serves_loses_no_connection(
    start: Callable[..., Service], ailment: Path, digit: Pixels
) -> None:
    """It accepts what has connected so far, as every worker that ends, and answers it."""
    ailment.write_text("begin")
    service = start(command=AILING, until=None)
    until(lambda: " waits" in service.log())
    (worker,) = children(service.process.pid)
    with connected(service.port) as connection, connection.makefile("rb") as stream:
        connection.sendall(post(png(digit)))
        os.kill(worker, signal.SIGTERM)
        ailment.write_text("")
        assert read_answer(stream)[0] == 200


def test_a_worker_without_a_model_accepts_nothing_while_another_answers(
    start: Callable[..., Service], bundle: Bundle, digit: Pixels, tmp_path: Path
) -> None:
    """It would refuse in no time, and so draw most connections to itself."""
    service, model = started_on_a_copy(start, bundle, tmp_path, reload_seconds=0.5)
    first, second = children(service.process.pid)
    aside = model.rename(tmp_path / "aside")
    os.kill(first, signal.SIGKILL)
    until(lambda: "not ready: " in service.log())
    for _ in range(50):  # each on a connection of its own
        assert service.post(png(digit)).status == 200
    os.kill(second, signal.SIGKILL)  # nobody answers any more: the reason is better than silence
    until(lambda: service.post(png(digit)).status == 503)
    aside.rename(model)
    until(lambda: service.post(png(digit)).status == 200)


@pytest.mark.parametrize(
    "command",
    [
        serving_command(),
        [str(Path(sys.executable).with_name("gunicorn")), "-c", "python:serving.process.gunicorn_conf"],
    ],
    ids=["serving", "gunicorn"],
)
def test_usr2_starts_a_second_service_on_the_same_port_and_loses_no_request(
    start: Callable[..., Service], digit: Pixels, command: list[str]
) -> None:
    """As Gunicorn's binary upgrade goes: USR2, TERM to the old arbiter, and the new one is on its own."""
    service = start(workers=2, command=command)
    old = set(children(service.process.pid))
    with Load(service, png(digit), 2) as load:
        load.answered(50)
        service.process.send_signal(signal.SIGUSR2)
        until(lambda: service.log().count("ready: ") == 4 or service.process.poll() is not None)
        (arbiter,) = set(children(service.process.pid)) - old
        new = set(children(arbiter))
        try:
            load.answered(50)
            service.process.terminate()
            assert service.process.wait(START_SECONDS) == 0
            until(lambda: "Master has been promoted" in service.log())
            load.answered(50)
            os.kill(arbiter, signal.SIGHUP)  # the new one is as good as the old one was
            until(lambda: not new & set(children(arbiter)))
            load.answered(50)
        finally:
            load.end()
            os.kill(arbiter, signal.SIGTERM)
            until(lambda: service.log().count("Shutting down: Master") == 2)
    assert load.failures == []
    assert set(load.statuses) == {200}


@INFERENCE
def test_an_idle_connection_of_a_worker_that_ends_is_closed_in_good_order(
    start: Callable[..., Service], digit: Pixels
) -> None:
    """What a client sends after that is not answered with a reset, which it would have to take for a fault."""
    service = start()
    with connected(service.port) as idle, idle.makefile("rb") as stream:
        idle.sendall(READY)
        assert read_answer(stream)[0] == 200
        service.process.send_signal(signal.SIGHUP)
        assert idle.recv(1) == b""
        idle.sendall(post(png(digit)))
        assert idle.recv(1) == b""
        assert idle.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_max_requests_replaces_a_process_and_loses_no_request(
    start: Callable[..., Service], digit: Pixels
) -> None:
    """The clients see connections that end in good order, and nothing else."""
    service = start(workers=2, max_requests=60)
    old = set(children(service.process.pid))
    with Load(service, png(digit), 3) as load:
        until(lambda: not old & set(children(service.process.pid)) or bool(load.failures))
    assert load.failures == []
    assert set(load.statuses) == {200}


def test_a_worker_that_is_killed_is_replaced_and_only_its_own_requests_fail(
    start: Callable[..., Service], digit: Pixels
) -> None:
    """One of two dies while both are in the middle of a request."""
    service = start(workers=2)
    first, second = children(service.process.pid)
    with ExitStack() as stack:
        connections: dict[int, socket.socket] = {}
        while len(connections) < 2:  # one connection to each process
            connection = stack.enter_context(connected(service.port))
            for pid in (first, second):
                if owns(pid, connection.getsockname()[1]):
                    connections[pid] = connection
        request = post(png(digit))
        for connection in connections.values():
            connection.sendall(request[:-1])
        os.kill(first, signal.SIGKILL)
        with connections[first].makefile("rb") as stream, contextlib.suppress(ConnectionResetError):
            assert stream.read() == b""
        connections[second].sendall(request[-1:])
        with connections[second].makefile("rb") as stream:
            assert read_answer(stream)[0] == 200
    until(lambda: len(set(children(service.process.pid)) - {first}) == 2)
    assert service.post(png(digit)).status == 200


def owns(pid: int, client_port: int) -> bool:
    """Tell whether a process has accepted the connection from a port of this machine."""
    end, inodes = time.monotonic() + PATIENCE, set[str]()
    while not inodes and time.monotonic() < end:  # the kernel lists it when the handshake is done
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[2].endswith(f":{client_port:04X}") and fields[3] == "01" and fields[9] != "0":
                inodes.add(f"socket:[{fields[9]}]")
    return any(link in inodes for link in links(pid))


def links(pid: int) -> Iterator[str]:
    """Yield what a process's file descriptors are."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            yield str(entry.readlink())


def test_a_request_that_never_ends_does_not_keep_the_service_from_ending(
    start: Callable[..., Service],
) -> None:
    """The grace period is all that it gets."""
    service = start(graceful_timeout_seconds=1)
    with connected(service.port) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
        service.ask("GET", "/livez")
        service.process.terminate()
        assert service.process.wait(START_SECONDS) == 0


def test_the_access_log_has_a_line_for_each_request(start: Callable[..., Service], digit: Pixels) -> None:
    """Predictions, pages and refused requests alike."""
    service = start(access_log=True)
    assert service.post(png(digit)).status == 200
    assert service.ask("GET", "/livez").status == 200
    assert service.post(b"").status == 400
    until(lambda: all(word in service.log() for word in ("/predict", "/livez")))


@INFERENCE
def test_sigint_ends_at_once(start: Callable[..., Service]) -> None:
    """It waits for no client."""
    service = start()
    with connected(service.port) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(START_SECONDS) == 0
        assert read_answer_or_end(connection) in (b"", b"HTTP/1.1 400")


def read_answer_or_end(connection: socket.socket) -> bytes:
    """Return the beginning of what comes, nothing if the connection has been reset."""
    try:
        return connection.recv(12)
    except ConnectionResetError:
        return b""
