"""Versions that hang, crash or take all memory: tried once or twice, refused with the reason, and nothing else ends."""

import contextlib
import os
import platform
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bench.support.management import await_
from bench.support.models import deadly, endless, greedy, publish_synthetic
from bench.support.pictures import png
from bench.support.processes import Service, running
from bundle.repository import Bundle
from serving.check import check
from serving.model import proof_table, reloader
from serving.model.proof_table import MAX_DEATHS, ProofTable
from serving.model.prove import ProofResult, _open, prove
from serving.model.reloader import Reloader
from serving.model.store import ModelStore
from serving.score import main as score
from serving.settings import ServiceSettings
from serving.system import memory
from serving.telemetry.metrics import Metrics

NAME = proof_table.proof_key("a version")
X86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only x86 traps there")


@contextmanager
def counted(
    directory: Path, *, worker: int = 3600, child: int = 3600, held: bool = False, **settings: Any
) -> Iterator[tuple[Service, Counter[str]]]:
    """Serve what is published in a directory; at the end the tries are in the counter.

    Args:
        directory: where version 1 is.
        worker: seconds that a worker has to load.
        child: seconds that a child has to prove.
        held: whether the first to load version 2 waits.
        settings: of the service.
    """
    tries = directory / "tries"
    if not held:
        (directory / "held").touch()
    command = [sys.executable, "-m", "gunicorn", "--config", "python:tests.serving.counting_tries"]
    settings = dict[str, Any](until="/readyz", model=directory / "synthetic", reload_seconds=0.2) | settings
    found: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOAD_SECONDS", str(worker))
        patch.setenv("CHILD_SECONDS", str(child))
        patch.setenv("TRIES_FILE", str(tries))
        patch.setenv("HELD_FILE", str(directory / "held"))
        with running(directory, command=command, **settings) as service:
            yield service, found
    found.update(tries.read_text().splitlines())


def refused(service: Service) -> str:
    """Return why version 2 is not served, empty if nothing is said against it."""
    reasons = {one["version"]: one["reason"] for one in service.ask("GET", "/readyz").json()["refused"]}
    return str(reasons.get(2, ""))


def children(pid: int) -> list[int]:
    """Return a process's children, those of all its threads, and no zombies."""
    found = []
    for one in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
            found += [child for child in map(int, one.read_text().split()) if not gone(child)]
    return found


def provers(service: Service) -> list[int]:
    """Return the children of the workers, each of which proves a version."""
    return [child for worker in children(service.process.pid) for child in children(worker)]


def gone(pid: int) -> bool:
    """Tell whether a process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def await_ready(service: Service, version: int, workers: int) -> None:
    """Wait until so many workers have begun to serve a version."""
    await_(lambda: service.log().count(f"ready: synthetic version {version}") == workers, service.log)


# The service


@pytest.mark.parametrize("workers", [1, 3])
def test_a_version_that_computes_for_ever_is_given_up_and_the_service_serves_on(
    tmp_path: Path, digit: npt.NDArray[np.uint8], workers: int
) -> None:
    """One child tries it for all workers; requests are answered meanwhile, by the same workers as before."""
    publish_synthetic(tmp_path)
    with counted(tmp_path, child=3, workers=workers) as (service, tries):
        await_ready(service, 1, workers)
        before = children(service.process.pid)
        publish_synthetic(tmp_path, graph=endless())
        await_(lambda: bool(provers(service)))
        while provers(service):
            assert service.post(png(digit)).json()["model"]["version"] == 1
        await_(lambda: service.log().count("version 2 failed verification: ") == workers, service.log)
        assert "took longer than 3 s" in refused(service)
        assert children(service.process.pid) == before
    assert tries == {"load 1": workers, "child 2": 1}


def test_a_version_whose_proof_is_killed_is_refused_and_no_worker_is_at_risk(tmp_path: Path) -> None:
    """As the kernel kills what takes all memory: the child first. Other files are tried again."""
    publish_synthetic(tmp_path)
    with counted(tmp_path, workers=2) as (service, tries):
        await_ready(service, 1, 2)
        before = children(service.process.pid)
        second = publish_synthetic(tmp_path, graph=endless())
        await_(lambda: bool(provers(service)))
        (prover,) = provers(service)
        await_(lambda: Path(f"/proc/{prover}/oom_score_adj").read_text() == "1000\n")
        os.kill(prover, signal.SIGKILL)
        await_(lambda: service.log().count("version 2 failed verification: ") == 2, service.log)
        assert "killed by SIGKILL, probably for lack of memory" in refused(service)
        second.path.rename(tmp_path / "bad")
        publish_synthetic(tmp_path)
        await_ready(service, 2, 2)
        assert children(service.process.pid) == before
    assert tries == {"load 1": 2, "load 2": 2, "child 2": 2}


@X86
def test_a_version_that_crashes_its_process_ends_no_worker_that_serves(tmp_path: Path) -> None:
    """Published beside one that is served."""
    publish_synthetic(tmp_path)
    with counted(tmp_path) as (service, tries):
        before = children(service.process.pid)
        publish_synthetic(tmp_path, graph=deadly())
        await_(lambda: "crashed by SIGFPE" in refused(service), service.log)
        assert children(service.process.pid) == before
    assert tries == {"load 1": 1, "child 2": 1}


@X86
def test_a_version_that_crashes_its_process_is_no_trap_at_a_start(tmp_path: Path) -> None:
    """One worker dies of it, the others leave it alone and serve the version before, and a child confirms it."""
    publish_synthetic(tmp_path)
    publish_synthetic(tmp_path, graph=deadly())
    with counted(tmp_path, workers=3) as (service, tries):
        await_ready(service, 1, 3)
        await_(lambda: "crashed by SIGFPE" in refused(service), service.log)
    assert tries == {"load 2": 1, "load 1": 3, "child 2": 1}


def test_a_version_that_computes_for_ever_is_no_trap_at_a_start(tmp_path: Path) -> None:
    """The first worker is ended by the arbiter, and the next one serves the version before."""
    publish_synthetic(tmp_path)
    publish_synthetic(tmp_path, graph=endless())
    with counted(tmp_path, worker=20, child=3, timeout_seconds=20) as (service, tries):
        await_(lambda: "took longer than 3 s" in refused(service), service.log)
        assert "WORKER TIMEOUT" in service.log()
    assert (tries["load 2"], tries["child 2"]) == (1, 1)


def test_a_version_that_computes_for_ever_at_a_start_keeps_one_worker_busy_and_not_the_others(
    tmp_path: Path,
) -> None:
    """They serve the version before long before the first is given up."""
    publish_synthetic(tmp_path)
    publish_synthetic(tmp_path, graph=endless())
    with counted(tmp_path, workers=3, graceful_timeout_seconds=1) as (service, tries):
        await_ready(service, 1, 2)
    assert tries == {"load 2": 1, "load 1": 2}


def test_a_bad_version_is_tried_by_one_worker_at_a_start(tmp_path: Path) -> None:
    """The others know what it found."""
    publish_synthetic(tmp_path)
    publish_synthetic(tmp_path, golden_shift=0.001)
    with counted(tmp_path, workers=3) as (service, tries):
        await_ready(service, 1, 3)
        assert service.log().count('not ready: "the golden examples, run in one batch') == 3
    assert tries == {"load 2": 1, "load 1": 3}


def test_a_worker_that_is_killed_while_it_loads_costs_a_good_version_nothing(tmp_path: Path) -> None:
    """A child proves the version, and it is served, even where nobody looks for versions after a start."""
    publish_synthetic(tmp_path)
    publish_synthetic(tmp_path)

    def kill() -> None:
        await_((tmp_path / "held").exists)
        await_(lambda: (tmp_path / "held").read_text() != "")
        os.kill(int((tmp_path / "held").read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with counted(tmp_path, held=True, reload_seconds=0) as (service, tries):
        killer.join()
        await_ready(service, 2, 1)
        await_(lambda: refused(service) == "")
    assert tries == {"load 2": 2, "load 1": 1, "child 2": 1}


# The child


def proven(bundle: Bundle, seconds: float = 3600, shutdown: threading.Event | None = None) -> ProofResult:
    """Return what a child finds."""
    settings = ServiceSettings(model=bundle.path.parent, arithmetic="float32")
    return prove(bundle.path, "cpu", settings, seconds, shutdown or threading.Event())


def test_a_child_says_what_came_of_it(tmp_path: Path) -> None:
    """Proven, or why not, told apart as the metrics do."""
    assert proven(publish_synthetic(tmp_path)) == ("proven", "")
    status, reason = proven(publish_synthetic(tmp_path, golden_shift=0.001))
    assert (status, reason[:19]) == ("golden_mismatch", "the golden examples")
    status, reason = proven(publish_synthetic(tmp_path, graph=b"\x08\x0a"))
    assert (status, reason[:27]) == ("invalid", "model.onnx cannot be loaded")


@pytest.mark.parametrize("signalled", [True, False], ids=["SIGTERM", "shutdown"])
def test_a_child_that_is_told_to_end_says_nothing_of_the_version(tmp_path: Path, *, signalled: bool) -> None:
    """By a signal, or because its worker ends; it is gone then."""
    bad = publish_synthetic(tmp_path, graph=endless())
    shutdown, results = threading.Event(), list[ProofResult]()
    thread = threading.Thread(target=lambda: results.append(proven(bad, shutdown=shutdown)))
    before = set(children(os.getpid()))
    thread.start()
    await_(lambda: len(children(os.getpid())) > len(before))
    (child,) = set(children(os.getpid())) - before
    if signalled:
        os.kill(child, signal.SIGTERM)
    else:
        shutdown.set()
    thread.join()
    assert results == [("unknown", "")]
    assert gone(child)


def test_a_child_ends_with_its_worker(tmp_path: Path) -> None:
    """Whatever ends the worker: the kernel sees to it. The next worker does not try the version without a child."""
    publish_synthetic(tmp_path)
    with counted(tmp_path) as (service, tries):
        publish_synthetic(tmp_path, graph=endless())
        await_(lambda: bool(provers(service)))
        (prover,), (worker,) = provers(service), children(service.process.pid)
        await_(lambda: Path(f"/proc/{prover}/oom_score_adj").read_text() == "1000\n")  # it is past its start
        os.kill(worker, signal.SIGKILL)
        await_(lambda: gone(prover))
        await_(lambda: bool(provers(service)))
    assert tries == {"load 1": 2, "child 2": 2}


def test_a_version_that_takes_more_memory_than_is_free_is_refused_and_its_process_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container: an allocation fails, at a start and in a child, and the kernel need not end anybody."""
    good, bad = publish_synthetic(tmp_path), publish_synthetic(tmp_path, graph=greedy(256 << 20))
    monkeypatch.setattr(memory, "free_memory", lambda: 256 << 20)
    settings = ServiceSettings(model=good.path.parent, provider="cpu", arithmetic="float32")
    state = ModelStore.start(settings)
    assert state.engine().bundle.version == 1
    (refusal,) = state.report()["refused"]
    assert refusal["version"] == 2
    assert "Failed to allocate memory" in refusal["reason"]
    assert _open(bad.path, "cpu", settings) == ("invalid", refusal["reason"])


# What the workers know together


def in_child(act: Callable[[], object]) -> int:
    """Do something in a forked process, and return its status."""
    pid = os.fork()
    if pid == 0:
        act()
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def die_of(table: ProofTable) -> None:
    """Be killed while a version is loaded."""
    with table.loading(NAME):
        os.kill(os.getpid(), signal.SIGKILL)


def test_who_dies_while_it_loads_is_counted_and_who_fails_is_not() -> None:
    """An exception is caught and refused where it happens."""
    table = ProofTable()

    def fail() -> None:
        try:
            with table.loading(NAME):
                raise RuntimeError
        except RuntimeError:
            pass

    in_child(fail)
    assert table.get(NAME).deaths == 0
    in_child(lambda: die_of(table))
    assert (table.get(NAME).status, table.get(NAME).deaths) == ("unknown", 1)


def test_a_proven_version_is_refused_when_worker_after_worker_dies_of_it() -> None:
    """One that loads it between begins the count anew; what was refused stays so."""
    table = ProofTable()
    table.record(NAME, "proven")
    for _ in range(2):
        in_child(lambda: die_of(table))
        assert table.get(NAME).status == "proven"
        with table.loading(NAME):
            pass
    for _ in range(MAX_DEATHS):
        in_child(lambda: die_of(table))
    assert "2 workers were killed or crashed" in table.get(NAME).reason
    assert table.get(NAME).status == "invalid"


def test_a_worker_that_is_told_to_end_while_it_loads_says_nothing_of_the_version() -> None:
    """It loads to the end, or takes its mark away."""
    table = ProofTable()

    def withdraw() -> None:
        with table.loading(NAME):
            table.forget_process()
            os._exit(0)

    in_child(withdraw)
    assert table.get(NAME).deaths == 0


def test_a_version_is_tried_by_one_process_and_its_end_frees_the_turn() -> None:
    """Other versions do not wait for it."""
    table = ProofTable()
    release, held = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        with table.claim(NAME) as own:
            os.write(held[1], b"%d" % own)
            os.read(release[0], 1)
            os._exit(0)
    assert os.read(held[0], 1) == b"1"
    with table.claim(NAME) as own:
        assert not own
    with table.claim(proof_table.proof_key("another")) as own:
        assert own
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with table.claim(NAME) as own:
        assert own
    for descriptor in (*release, *held):
        os.close(descriptor)


def test_a_table_that_was_cut_short_is_an_empty_one_and_no_version_is_remembered_for_ever() -> None:
    """A worker was killed while it wrote; and services run for years."""
    table = ProofTable()
    table.record(NAME, "invalid", "bad")
    os.ftruncate(table._file, 10)
    assert table.get(NAME).status == "unknown"
    for number in range(proof_table.MAX_PROOFS + 1):
        table.record(proof_table.proof_key(number), "invalid", "bad")
    assert table.get(proof_table.proof_key(0)).status == "unknown"
    assert table.get(proof_table.proof_key(1)).status == "invalid"


# The rest


def test_a_load_that_hangs_stops_no_counter_and_no_end(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is counted is counted each second, and an ending process waits so long and no longer."""
    hung, ticks = threading.Event(), threading.Semaphore(0)
    monkeypatch.setattr(reloader, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(reloader, "END_SECONDS", 0.1)
    monkeypatch.setattr(Metrics, "tick", lambda _: ticks.release())
    state = ModelStore.start(
        ServiceSettings(model=bundle.path.parent, provider="cpu", reload_seconds=0.01), Metrics()
    )

    def hang(_: ModelStore) -> None:
        hung.set()
        threading.Event().wait()

    monkeypatch.setattr(ModelStore, "load", hang)
    reloading = Reloader(state)
    reloading.start()
    assert hung.wait(60)
    for _ in range(5):
        assert ticks.acquire(timeout=60)
    reloading.stop()


def test_check_ends_and_says_which_version_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A systemd unit waits for it before each reload."""
    monkeypatch.setattr(proof_table, "LOAD_SECONDS", 2)
    bad = publish_synthetic(tmp_path, graph=endless())
    settings = ServiceSettings(model=bad.path.parent, provider="cpu", timeout_seconds=2)
    assert check(settings) == 3
    assert "took longer than 2 s" in capsys.readouterr().err


def test_the_scorer_ends_and_says_why(
    tmp_path: Path,
    digit: npt.NDArray[np.uint8],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the service does, of a version that never answers."""
    monkeypatch.setattr(proof_table, "LOAD_SECONDS", 2)
    bad = publish_synthetic(tmp_path, graph=endless())
    (tmp_path / "image.png").write_bytes(png(digit))
    places = ["--input", str(tmp_path / "image.png"), "--output", str(tmp_path / "scores")]
    assert score([*places, "--model", str(bad.path.parent), "--provider", "cpu"]) == 70
    assert "took longer than 2 s" in capsys.readouterr().err
    assert not (tmp_path / "scores").exists()
