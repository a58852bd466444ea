"""Children of the fork server: what they are given, what they import, and that they end with this process's socket."""

import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bench.support.management import await_
from serving.scoring.fork_server import ForkServer
from tests.conftest import ROOT

HERE = __name__


def say(connection: socket.socket, argument: int) -> int:
    """Answer with the argument, and the ids of this process and its parent."""
    connection.sendall(f"{argument} {os.getpid()} {os.getppid()}".encode())
    connection.recv(1)
    return 0


def fail(*_: Any) -> int:
    """Fail, as a child of a broken installation does."""
    raise RuntimeError


def heard(connection: socket.socket) -> list[int]:
    """Return the numbers that a child answers with."""
    return [int(word) for word in connection.recv(100).split()]


def test_children_are_forked_by_one_process_and_end_with_their_sockets() -> None:
    """Each has its argument; the server ends when it is closed, and has waited for them then."""
    with closing(ForkServer()) as server:
        children = [server.fork(f"{HERE}:say", "json", number) for number in range(2)]
        told = [heard(child) for child in children]
        assert [argument for argument, _, _ in told] == [0, 1]
        assert {parent for _, _, parent in told} == {server.pid}
        assert len({child for _, child, _ in told}) == 2
        for child in children:
            child.close()
    assert not [child for _, child, _ in told if Path(f"/proc/{child}").exists()]


def test_a_child_that_fails_ends_and_the_next_one_does_not(capfd: pytest.CaptureFixture[str]) -> None:
    """Its socket is at its end; the traceback is on the standard error."""
    with closing(ForkServer()) as server:
        server.preload("json")
        with server.fork(f"{HERE}:fail", "json") as child:
            assert child.recv(1) == b""
        with server.fork(f"{HERE}:say", "json", 1) as child:
            assert heard(child)
    assert "RuntimeError" in capfd.readouterr().err


def test_children_end_when_this_process_is_killed() -> None:
    """Nothing closes the sockets then but the kernel."""
    script = (
        "import os, time\n"
        "from serving.scoring.fork_server import ForkServer\n"
        f"child = ForkServer().fork('{HERE}:say', 'json', 1)\n"
        "print(child.recv(100).decode(), flush=True)\n"
        "time.sleep(3600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        _, *ids = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
    await_(lambda: not any(_runs(pid) for pid in ids))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_server_imports_nothing_before_a_child_needs_it() -> None:
    """A run over arrays has no decoder to wait for."""
    script = "import sys, serving.scoring.fork_server as s; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"numpy", "PIL", "pydantic", "orjson", "subprocess"} & {*loaded}
