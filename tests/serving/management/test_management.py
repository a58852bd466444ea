"""The management port of real services: probes and metrics of all workers, whatever happens to them."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from bench.support.management import Managed, await_, managed
from bench.support.models import publish_synthetic
from bench.support.pictures import a_digit, png
from bench.support.processes import (
    ROOT,
    START_SECONDS,
    await_ok,
    environment,
    free_port,
    serving_command,
)
from bundle.repository import Bundle
from serving.system.addresses import tcp_problem
from tests.serving.conftest import AILING
from tests.serving.model.test_reload import publish_bad


def workers_of(arbiter: int) -> list[int]:
    """Return the workers' process ids; the management process is no worker."""
    children = Path(f"/proc/{arbiter}/task/{arbiter}/children").read_text().split()
    return [
        int(pid)
        for pid in children
        if b"serving.management.server" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def management_of(arbiter: int) -> int:
    """Return the process id of the management process."""
    children = Path(f"/proc/{arbiter}/task/{arbiter}/children").read_text().split()
    (management,) = {int(pid) for pid in children} - set(workers_of(arbiter))
    return management


def directory_of(worker: int) -> Path:
    """Return where the workers' shared memory is."""
    maps = Path(f"/proc/{worker}/maps").read_text().splitlines()
    (directory,) = {Path(line.split()[-1]).parent for line in maps if line.endswith(".counters")}
    return directory


def open_files(pid: int, descriptor: str = "*") -> list[str]:
    """Return what a process has open, as the kernel names it."""
    found = []
    for path in Path(f"/proc/{pid}/fd").glob(descriptor):
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            found.append(str(path.readlink()))
    return found


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_probes_answer_on_both_ports_alike(pod: Managed, bundle: Bundle) -> None:
    """Live, ready, and what is served; the management port counts the workers too."""
    for path in ("/readyz", "/healthz"):
        ours, theirs = pod.ask(path), pod.service.ask("GET", path)
        assert (ours.status, theirs.status) == (200, 200)
        assert ours.json() == theirs.json() | {"workers": {"ready": 2}}
        assert ours.json()["model"]["digest"] == bundle.manifest.digest
        assert ours.headers["Cache-Control"] == theirs.headers["Cache-Control"] == "no-store"
    assert pod.ask("/livez").json() == pod.service.ask("GET", "/livez").json() == {"live": True}


def test_the_management_port_answers_nothing_else(pod: Managed) -> None:
    """Predictions belong on the other port, and refusals are problem documents (RFC 9457)."""
    for path, method, status in (
        ("/predict", "GET", 404),
        ("/", "GET", 404),
        ("/metrics", "POST", 405),
        ("/livez", "DELETE", 405),
        ("/livez", "BREW", 501),
    ):
        answer = pod.ask(path, method)
        assert answer.status == status
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["status"] == status
        assert answer.json()["remedy"]


def test_head_answers_as_get_does_without_a_body(pod: Managed) -> None:
    """Some load balancers probe so."""
    answer = pod.ask("/readyz", "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["Content-Length"]) > 0


def test_one_connection_serves_many_scrapes(pod: Managed) -> None:
    """Prometheus keeps its connection."""
    with socket.create_connection(("127.0.0.1", pod.port), timeout=START_SECONDS) as connection:
        for _ in range(3):
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: pod\r\n\r\n")
            received = b""
            while not received.endswith(b'{"live":true}'):
                received += connection.recv(4096)


def test_bytes_that_are_no_request_are_refused(pod: Managed) -> None:
    """The answer is a problem document, and the port goes on answering."""
    with socket.create_connection(("127.0.0.1", pod.port), timeout=START_SECONDS) as connection:
        connection.sendall(b"\x16\x03\x01\r\n\r\n")
        assert b"urn:glyph:problem:malformed-body" in connection.makefile("rb").read()
    assert pod.ask("/livez").status == 200


def test_the_counts_of_all_workers_are_added_up(bundle: Bundle, tmp_path: Path, worker_class: str) -> None:
    """Each of sixty requests on a connection of its own is counted once, whichever worker had it."""
    with managed(tmp_path, worker=worker_class, model=bundle.path.parent, workers=2) as pod:
        for _ in range(60):
            assert pod.service.post(png(a_digit())).status == 200
        assert pod.service.post(b"no image").status == 415
        count = pod.value("glyph_http_requests_total", route="/predict", method="POST")
        assert count == 61
        assert pod.value("glyph_http_requests_total", route="/predict", status="415") == 1
        assert pod.value("glyph_refusals_total") == 1
        assert pod.value("glyph_http_request_duration_seconds_count", route="/predict") == 61
        assert pod.value("glyph_http_requests_in_flight") == 0
        assert pod.value("glyph_phase_duration_seconds_count", phase="infer") == 60
        assert pod.value("glyph_batch_images_sum") == 60
        pod.await_value(60, "glyph_predictions_total", version="1")
        pod.await_value(60, "glyph_prediction_confidence_count")
        pod.await_value(60, "glyph_drift_window_images", version="1")


def test_what_a_worker_counted_stays_counted_when_it_is_killed(
    bundle: Bundle, tmp_path: Path, worker_class: str
) -> None:
    """A counter that fell would look like a restart, and its rate like a storm."""
    with managed(tmp_path, worker=worker_class, model=bundle.path.parent) as pod:
        for _ in range(20):
            assert pod.service.post(png(a_digit())).status == 200
        pod.await_value(20, "glyph_predictions_total")
        (worker,) = workers_of(pod.service.process.pid)
        os.kill(worker, signal.SIGKILL)
        pod.await_value(1, "glyph_worker_exits_total", how="died")
        await_ok(pod.service, "/readyz")
        assert pod.service.post(png(a_digit())).status == 200
        pod.await_value(21, "glyph_predictions_total")
        assert pod.value("glyph_http_requests_total", route="/predict") == 21
        assert pod.value("glyph_worker_starts_total") == 2
        assert pod.value("glyph_workers") == 1
        # The management process may die as well: it knows afterwards what it knew before.
        os.kill(management_of(pod.service.process.pid), signal.SIGKILL)
        await_(lambda: _value_or_none(pod, "glyph_worker_exits_total") == 1)
        assert pod.value("glyph_http_requests_total", route="/predict") == 21
        (worker,) = workers_of(pod.service.process.pid)
        os.kill(worker, signal.SIGTERM)
        pod.await_value(1, "glyph_worker_exits_total", how="ended")


def test_a_worker_that_ends_by_an_exception_has_died(
    bundle: Bundle, tmp_path: Path, worker_class: str, ailment: Path
) -> None:
    """While it loads its model or once it serves: the alert is to fire, and the log has the reason."""
    with managed(tmp_path, command=AILING, worker=worker_class, model=bundle.path.parent) as pod:
        for word, reason in (("run", "it cannot be served today"), ("raise", "it cannot be loaded today")):
            died = pod.value("glyph_worker_exits_total", how="died")
            ailment.write_text(word)
            (worker,) = workers_of(pod.service.process.pid)
            os.kill(worker, signal.SIGTERM)
            await_(lambda died=died: pod.value("glyph_worker_exits_total", how="died") > died)  # type: ignore[misc]
            ailment.write_text("")
            await_(lambda: pod.value("glyph_workers", state="ready") == 1)
            assert reason in pod.service.log()
        assert pod.value("glyph_worker_exits_total", how="ended") == 2


def test_a_worker_that_is_told_to_end_while_it_loads_has_not_died(
    bundle: Bundle, tmp_path: Path, worker_class: str, ailment: Path
) -> None:
    """It ends at once, as it has no connection."""
    with managed(tmp_path, command=AILING, worker=worker_class, model=bundle.path.parent) as pod:
        ailment.write_text("wait")
        for count in (1, 2):
            pod.service.process.send_signal(signal.SIGHUP)
            await_(lambda count=count: pod.service.log().count(" waits") == count)  # type: ignore[misc]
            pod.await_value(count, "glyph_worker_exits_total", how="ended")
        assert pod.value("glyph_worker_exits_total") == 2
        ailment.write_text("")


def _value_or_none(pod: Managed, name: str) -> float | None:
    try:
        return pod.value(name)
    except OSError:
        return None


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_the_management_process_ends_with_the_arbiter_and_leaves_nothing(
    bundle: Bundle, tmp_path: Path, sign: signal.Signals
) -> None:
    """Asked or killed: the port is free again and the shared memory is given back."""
    code = 0 if sign == signal.SIGTERM else -sign
    with managed(tmp_path, model=bundle.path.parent, code=code) as pod:
        arbiter = pod.service.process.pid
        workers, management = workers_of(arbiter), management_of(arbiter)
        directory = directory_of(workers[0])
        assert directory.is_dir()
        # Nobody but the arbiter holds the other end of the socket that the management process waits on.
        ours = set(open_files(arbiter)) - set(open_files(workers[0]))
        assert [name for name in ours if name.startswith("socket:")]
        os.kill(arbiter, sign)
        pod.service.process.wait(START_SECONDS)
        await_(lambda: is_gone(management))
        await_(lambda: not directory.exists())
        await_(lambda: all(is_gone(worker) for worker in workers))
        with pytest.raises(ConnectionRefusedError):
            pod.ask("/livez")


def test_the_management_process_ends_with_the_arbiter_even_while_it_is_stopped(
    bundle: Bundle, tmp_path: Path
) -> None:
    """Its port is free again for the next service, and its memory given back."""
    with managed(tmp_path, model=bundle.path.parent, code=-signal.SIGKILL) as pod:
        arbiter = pod.service.process.pid
        management, directory = management_of(arbiter), directory_of(workers_of(arbiter)[0])
        os.kill(management, signal.SIGSTOP)
        os.kill(arbiter, signal.SIGKILL)
        await_(lambda: is_gone(management))
        assert not directory.exists()
        await_(lambda: tcp_problem("127.0.0.1", pod.port) is None)  # all its threads have to end


def test_signals_to_the_whole_group_leave_it_to_the_arbiter(pod: Managed) -> None:
    """Ctrl-C reaches every process of a terminal; probes are answered until the last worker is gone."""
    management = management_of(pod.service.process.pid)
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        os.kill(management, sign)
    assert pod.ask("/readyz").status == 200
    assert management_of(pod.service.process.pid) == management


def test_a_service_without_a_model_is_live_and_says_why_it_is_not_ready(tmp_path: Path) -> None:
    """The reason and the remedy are those of the data port; publishing one makes it ready without a signal."""
    with managed(
        tmp_path, until="/livez", model=tmp_path / "synthetic", reload_seconds=0.1, workers=1
    ) as pod:
        await_(lambda: pod.value("glyph_workers", state="unready") == 1)
        answer = pod.ask("/readyz")
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert "no version is published" in answer.json()["detail"]
        assert answer.json()["workers"] == {"unready": 1}
        assert pod.ask("/livez").status == 200
        publish_synthetic(tmp_path)
        await_(lambda: pod.ask("/readyz").status == 200)
        assert pod.service.post(png(a_digit())).status == 200


def test_a_new_version_is_swapped_in_without_one_failed_request(tmp_path: Path, worker_class: str) -> None:
    """While requests come without a pause, workers go from one version to the next; a bad one is refused."""
    first = publish_synthetic(tmp_path)
    with managed(
        tmp_path, worker=worker_class, model=first.path.parent, workers=2, reload_seconds=0.1
    ) as pod:
        ended = threading.Event()
        statuses: list[int] = []
        seen: set[int] = set()

        def ask() -> None:
            while not ended.is_set():
                answer = pod.service.post(png(a_digit()))
                statuses.append(answer.status)
                seen.add(answer.json()["model"]["version"])

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            pod.await_value(2, "glyph_model_workers", version="1")  # else the slower one begins with the next
            publish_synthetic(tmp_path)
            pod.await_value(2, "glyph_model_workers", version="2")
            bad = publish_bad(tmp_path, "golden mismatch")
            pod.await_value(2, "glyph_model_loads_total", outcome="refused")
            # Requests go on coming after the last change, so that it has been asked through.
            count = len(statuses)
            await_(lambda: len(statuses) > count + 20)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        assert set(statuses) == {200}
        assert seen == {1, 2}
        assert pod.value("glyph_golden_checks_total", outcome="failed") == 2
        assert pod.value("glyph_golden_check_passed") == 0
        assert pod.value("glyph_model_versions_refused") == 1
        assert pod.value("glyph_model_loads_total", outcome="loaded") == 4
        assert pod.value("glyph_model_info", version="2") == 1
        for answer in (pod.ask("/readyz"), pod.service.ask("GET", "/readyz")):
            assert answer.status == 200
            assert answer.json()["loaded"] == [1, 2]
            (refusal,) = answer.json()["refused"]
            assert refusal["version"] == 3
            assert "golden" in refusal["reason"]
        assert pod.service.log().count('version 3 failed verification: "the golden examples') == 2
        shutil.rmtree(bad.path)
        await_(lambda: pod.ask("/readyz").json()["refused"] == [])
        pod.await_value(1, "glyph_golden_check_passed")
        assert pod.value("glyph_model_versions_refused") == 0


def test_a_draining_service_is_not_ready_and_still_answers_probes(
    bundle: Bundle, tmp_path: Path, worker_class: str
) -> None:
    """From SIGTERM until the last request is answered, the port says why no more should be sent."""
    with managed(tmp_path, worker=worker_class, model=bundle.path.parent, graceful_timeout_seconds=30) as pod:
        with (
            socket.create_connection(("127.0.0.1", pod.service.port), timeout=START_SECONDS) as held,
            held.makefile("rb") as answers,
        ):
            body = png(a_digit())
            fields = (
                f"Host: pod\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\nExpect: 100-continue"
            )
            held.sendall(f"POST /predict HTTP/1.1\r\n{fields}\r\n\r\n".encode())
            assert answers.readline() == b"HTTP/1.1 100 Continue\r\n"  # it is at work on it
            assert answers.readline() == b"\r\n"
            held.sendall(body[:-1])
            pod.service.process.terminate()
            await_(lambda: pod.ask("/readyz").status == 503)
            answer = pod.ask("/readyz")
            assert "the service is ending" in answer.json()["detail"]
            assert pod.ask("/livez").status == 200
            held.sendall(body[-1:])
            assert b"200 OK" in answers.readline()
        assert pod.service.process.wait(START_SECONDS) == 0


def test_a_taken_management_port_ends_the_service_with_its_name(bundle: Bundle) -> None:
    """Before Gunicorn starts, in a sentence, as for the other port."""

    def ended(**settings: object) -> tuple[int, str]:
        done = subprocess.run(
            serving_command(),
            env=environment(model=bundle.path.parent, **settings),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        return done.returncode, done.stderr

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, said = ended(port=free_port(), management_port=port)
        assert code == 1
        assert said == (
            f"error: port {port} on 127.0.0.1 is taken by another program: give another one with "
            "GLYPH_MANAGEMENT_PORT or --management-port; 0 is none\n"
        )
    code, said = ended(port=port, management_port=port)
    assert code == 1
    assert "the management port is the service's own port" in said
