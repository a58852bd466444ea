"""Who notices what is stopped, stuck or killed, and what a killed service leaves in memory."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.support.management import Managed, await_, managed
from bench.support.pictures import a_digit, png
from bench.support.processes import ROOT, START_SECONDS, environment, free_port, serving_command
from bundle.repository import Bundle
from serving.management.workers import STUCK_TICKS
from serving.system.memory_directory import LOCK, remove_stale
from tests.serving.management.test_management import (
    directory_of,
    is_gone,
    management_of,
    workers_of,
)

HOLDER = """
import sys
from pathlib import Path
from serving.system import memory_directory
directory, descriptor = memory_directory.create(Path(sys.argv[1]))
print(directory, flush=True)
sys.stdin.read()
"""


def answers_anew(pod: Managed, before: int) -> bool:
    """Tell whether another management process than before answers."""
    try:
        return management_of(pod.service.process.pid) != before and pod.ask("/readyz").status == 200
    except (OSError, ValueError):  # there is none at this moment, or it does not listen yet
        return False


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
def test_a_management_process_that_is_killed_or_stopped_is_replaced(
    bundle: Bundle, tmp_path: Path, sign: signal.Signals
) -> None:
    """The port answers again, and the service's own port has not noticed."""
    with managed(tmp_path, model=bundle.path.parent) as pod:
        assert pod.service.post(png(a_digit())).status == 200
        workers, before = workers_of(pod.service.process.pid), management_of(pod.service.process.pid)
        os.kill(before, sign)
        await_(lambda: answers_anew(pod, before), pod.service.log)
        assert is_gone(before)
        assert f"the management process (pid:{before}) has ended" in pod.service.log()
        assert workers_of(pod.service.process.pid) == workers
        assert pod.value("glyph_http_requests_total", route="/predict") == 1


def test_a_stopped_worker_is_not_ready_before_it_is_replaced(
    bundle: Bundle, tmp_path: Path, worker_class: str
) -> None:
    """A probe that asks the management port learns it, and the metrics have it; it is over when it goes on."""
    with managed(tmp_path, model=bundle.path.parent, worker=worker_class, timeout_seconds=600) as pod:
        (worker,) = workers_of(pod.service.process.pid)
        os.kill(worker, signal.SIGSTOP)
        try:
            await_(lambda: pod.ask("/readyz").status == 503)
            answer = pod.ask("/readyz").json()
            assert answer["detail"] == "the workers are stopped or stuck"
            assert "GLYPH_TIMEOUT_SECONDS" in answer["remedy"]
            assert answer["workers"] == {"stuck": 1}
            assert pod.value("glyph_workers", state="stuck") == 1
        finally:
            os.kill(worker, signal.SIGCONT)
        await_(lambda: pod.ask("/readyz").status == 200)
        pod.await_value(1, "glyph_workers", state="ready")


def test_a_stopped_arbiter_is_told_to_whoever_asks_whether_the_service_lives(
    bundle: Bundle, tmp_path: Path
) -> None:
    """Nobody within the service can start it again, so that a liveness probe has to fail; it is over with the stop."""
    with managed(tmp_path, model=bundle.path.parent, graceful_timeout_seconds=1) as pod:
        arbiter = pod.service.process.pid
        os.kill(arbiter, signal.SIGSTOP)
        try:
            await_(lambda: pod.ask("/livez").status == 503)
            assert "the arbiter, is stopped or stuck" in pod.ask("/livez").json()["detail"]
            assert pod.ask("/readyz").status == 200  # workers answer
        finally:
            os.kill(arbiter, signal.SIGCONT)
        await_(lambda: pod.ask("/livez").status == 200)


def test_a_pause_of_the_whole_service_is_over_when_it_goes_on(bundle: Bundle, tmp_path: Path) -> None:
    """As `docker pause` does it: nobody was silent while nobody ran."""
    with managed(tmp_path, model=bundle.path.parent) as pod:
        arbiter = pod.service.process.pid
        management = management_of(arbiter)
        processes = [arbiter, management, *workers_of(arbiter)]
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(STUCK_TICKS + 2)  # the pause itself
        for pid in processes[::-1]:
            os.kill(pid, signal.SIGCONT)
        answer = pod.ask("/readyz")
        assert (answer.status, answer.json()["workers"]) == (200, {"ready": 1})
        assert management_of(arbiter) == management


def what_a_killed_service_leaves(bundle: Bundle, tmp_path: Path) -> Path:
    """Kill every process of a service at once, so that none can remove its directory, and return that."""
    with managed(tmp_path, model=bundle.path.parent, code=-signal.SIGKILL) as pod:
        arbiter = pod.service.process.pid
        processes = [arbiter, management_of(arbiter), *workers_of(arbiter)]
        directory = directory_of(processes[-1])
        for sign in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, so that none sees another go
            for pid in processes[::-1]:
                os.kill(pid, sign)
        pod.service.process.wait()
        for pid in processes:
            await_(functools.partial(is_gone, pid))
    return directory


def test_a_start_removes_what_a_killed_service_left(bundle: Bundle, tmp_path: Path) -> None:
    """And says so, unless a service of another test started in between and was first: then once more."""
    for _ in range(5):
        directory = what_a_killed_service_leaves(bundle, tmp_path)
        with managed(tmp_path, model=bundle.path.parent) as pod:
            assert not directory.exists()
            assert directory_of(workers_of(pod.service.process.pid)[0]).exists()
            if f"removed {directory}" in pod.service.log():
                return
    pytest.fail("five services that started removed nothing")


def test_only_directories_of_dead_services_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a living one's, not another user's, not what a link leads to, and nothing that somebody else put there."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        try:
            assert holder.stdout
            held = Path(holder.stdout.readline().strip())
            assert (held / LOCK).exists()
            foreign = tmp_path / "glyph-pictures"
            foreign.mkdir()
            (foreign / LOCK).touch()
            (foreign / "mine.png").touch()
            plain = tmp_path / "glyph-empty"
            plain.mkdir()
            elsewhere = tmp_path / "elsewhere"
            elsewhere.mkdir()
            (elsewhere / LOCK).touch()
            (tmp_path / "glyph-link").symlink_to(elsewhere)
            assert remove_stale(tmp_path) == []
        finally:
            holder.kill()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert remove_stale(tmp_path) == []
    assert remove_stale(tmp_path) == [held]
    assert not held.exists()
    assert {path.name for path in tmp_path.iterdir()} == {
        "glyph-pictures",
        "glyph-empty",
        "glyph-link",
        "elsewhere",
    }
    assert (elsewhere / LOCK).exists()


def in_a_full_memory(*options: str) -> list[str]:
    """Return what runs the command that follows with a full /dev/shm of its own; it may not be possible here."""
    mount = f"mount -t tmpfs -o {','.join(('size=1m', *options))} tmpfs /dev/shm"  # else half of all memory is filled
    fill = 'cat /dev/zero > /dev/shm/full 2> /dev/null; exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", f"{mount} && {{ {fill}; }}", "sh"]
    tried = subprocess.run([*command, "true"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"no file system can be mounted here: {tried.stderr.decode()}")
    return command


def test_a_full_memory_file_system_takes_no_probe_away(bundle: Bundle, tmp_path: Path) -> None:
    """Both ports say the same, the numbers are there, and the log has what to do; so after a worker's death."""
    command = [*in_a_full_memory(), *serving_command()]
    with managed(tmp_path, model=bundle.path.parent, command=command) as pod:
        assert pod.service.post(png(a_digit())).status == 200
        ours, theirs = pod.ask("/readyz"), pod.service.ask("GET", "/readyz")
        assert (ours.status, theirs.status) == (200, 200)
        assert ours.json() == theirs.json() | {"workers": {"ready": 1}}
        assert pod.value("glyph_http_requests_total", route="/predict") == 1
        log = pod.service.log()
        for words in ("has no room for the metrics of this process", "--shm-size", "No space left on device"):
            assert words in log
        (worker,) = workers_of(pod.service.process.pid)
        os.kill(worker, signal.SIGKILL)
        pod.await_value(1, "glyph_worker_exits_total", how="died")
        await_(lambda: pod.ask("/readyz").status == 200)
        assert pod.ask("/readyz").json()["workers"] == {"ready": 1}


def test_no_room_for_a_directory_ends_the_start_with_a_sentence(bundle: Bundle) -> None:
    """And with code 3, before a worker is started; without a management port there is no need of it."""
    ended = subprocess.run(
        [*in_a_full_memory("nr_inodes=2"), *serving_command()],
        env=environment(
            model=bundle.path.parent, provider="cpu", port=free_port(), management_port=free_port()
        ),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    assert ended.returncode == 3
    assert "error: no directory for the workers' metrics can be made in /dev/shm/" in ended.stderr
    assert "GLYPH_MANAGEMENT_PORT=0" in ended.stderr
    assert "Traceback" not in ended.stderr
