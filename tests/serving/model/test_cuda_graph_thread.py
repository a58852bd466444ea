"""CUDA graphs have one thread in a process, which makes, captures, runs and frees them: here by sessions that pose."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.support.models import publish_synthetic
from bench.support.pictures import Pixels
from bench.support.processes import ROOT
from bundle.repository import Bundle
from serving.errors import ProviderError
from serving.model import cuda
from serving.model.bound_session import OUTPUTS
from serving.model.cuda_graph_thread import GraphThread
from serving.model.engine import BUCKETS, open_engine
from serving.model.store import ModelStore
from serving.settings import ServiceSettings
from tests.serving.posing import BoundOnCpu, Posing, posing, settle

ALONE = "cuda-graphs"
NAMES = list(OUTPUTS)


def batch(count: int) -> Pixels:
    """Return as many images of noise, always the same for a number."""
    return np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)


@pytest.fixture(autouse=True)
def pose() -> Iterator[None]:
    """Let every session pose."""
    with posing():
        yield


def used() -> set[str]:
    """Return the names of all threads that have used a session, or freed it."""
    settle()
    return {name for _, name in Posing.used}


def count(what: str) -> int:
    """Return how often it was done."""
    return [done for done, _ in Posing.used].count(what)


def test_every_call_of_a_session_is_the_threads(bundle: Bundle) -> None:
    """Made, captured and proven, asked by others, and freed when nobody refers to it any more."""
    opened = open_engine(bundle, "cuda", 0, cuda_graphs=True)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(opened.infer, [batch(count) for count in (1, 3, 64, 300)]))
    assert count("run_with_iobinding") > len(BUCKETS) + 5
    del opened
    assert used() == {ALONE}
    assert count("made") == count("freed") == 1


def test_a_plain_session_is_whoever_asks(bundle: Bundle) -> None:
    """ONNX Runtime allows that where graphs are off."""
    open_engine(bundle, "cuda", 0)
    assert used() == {threading.current_thread().name}


def test_threads_do_not_meet_in_a_buffer(bundle: Bundle) -> None:
    """Each of many that ask at once gets the answers for its own images, bit for bit."""
    plain = open_engine(bundle, "cuda", 0)
    tested = open_engine(bundle, "cuda", 0, cuda_graphs=True)
    inputs = [np.roll(batch(8), shift, axis=1) for shift in range(24)]
    expected = [plain.infer(images).logits.tobytes() for images in inputs]

    def ask(images: Pixels) -> set[bytes]:
        return {tested.infer(images).logits.tobytes() for _ in range(40)}

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, inputs)) == [{one} for one in expected]


def test_reloads_capture_between_requests_and_free_what_nobody_asks_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five versions while four clients ask: each answer has the bits of a plain session, all on the one thread."""
    monkeypatch.setattr(cuda, "missing", lambda _: None)
    first = publish_synthetic(tmp_path)
    images = batch(5)
    expected = open_engine(first, "cuda", 0).infer(images).probabilities.tobytes()
    Posing.used = ()
    state = ModelStore.start(
        ServiceSettings(model=first.path.parent, provider="cuda", cuda_graphs=True, kept_versions=0)
    )
    ended = threading.Event()

    def ask() -> set[bytes]:
        found = set()
        while not ended.is_set():
            found.add(state.engine().infer(images).probabilities.tobytes())
        return found

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            for version in range(2, 7):
                publish_synthetic(tmp_path)
                state.load(prove_first=False)  # a child would ask a real GPU
                assert state.engine().bundle.version == version
        finally:
            ended.set()
        assert [one.result() for one in asking] == [{expected}] * 4
    assert used() == {ALONE}
    assert (count("made"), count("freed")) == (6, 5)
    state.close()
    assert used() == {ALONE}
    assert count("freed") == 6


def test_a_session_that_cannot_be_captured_is_freed_there_too(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever refers to it is let go before the error goes to whoever asked, who may keep it for long."""
    run = BoundOnCpu.run

    def failing(self: BoundOnCpu, names: list[str], feeds: dict[str, Pixels]) -> Any:
        if len(feeds["images"]) == 64:
            raise RuntimeError("operation not permitted when stream is capturing")
        return run(self, names, feeds)

    monkeypatch.setattr(BoundOnCpu, "run", failing)
    with pytest.raises(ProviderError, match=r"stream is capturing.*GLYPH_CUDA_GRAPHS=false"):
        open_engine(bundle, "cuda", 0, cuda_graphs=True)
    assert used() == {ALONE}
    assert count("made") == count("freed") == 1


def test_a_session_that_cannot_be_made_whole_is_freed_there(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error's frames refer to it, and the error is kept here."""

    def failing(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(BoundOnCpu, "__init__", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        open_engine(bundle, "cuda", 0, cuda_graphs=True)
    assert used() == {ALONE}
    assert count("made") == count("freed") == 1


def test_at_the_end_what_is_left_is_freed_and_nothing_is_taken_on(bundle: Bundle) -> None:
    """Whoever comes later is told so, but garbage collection, which cannot do anything about it."""
    thread = GraphThread()

    def make() -> BoundOnCpu:
        session = Posing((bundle.path / "model.onnx").read_bytes(), None, None, enable_fallback=0)
        return BoundOnCpu(session, "cuda", 0, 10, 256)

    left, gone = thread.open(make), thread.open(make)
    assert left.run(NAMES, {"images": batch(3)})[0].shape == (3, 10)
    thread.close()
    thread.close()
    assert count("made") == count("freed") == 2
    with pytest.raises(RuntimeError, match="the process is ending"):
        left.run(NAMES, {"images": batch(3)})
    del left, gone
    assert used() == {ALONE}


END = """
import sys
from pathlib import Path
from bundle.repository import Bundle
from serving.model.engine import open_engine
from tests.serving import posing
posing.note = lambda what: print(what, posing.threading.current_thread().name, flush=True)
with posing.posing():
    kept = open_engine(Bundle.open(Path(sys.argv[1])), "cuda", 0, cuda_graphs=True)
sys.kept = kept  # so that nothing else frees it
print("the end", flush=True)
"""

FORK = """
import os, threading
from serving.model.cuda_graph_thread import graph_thread
assert threading.active_count() == 1, "nobody has asked for it yet"
thread = graph_thread()
assert thread is graph_thread()
child = os.fork()
if child == 0:
    os._exit(0 if graph_thread() is not thread and graph_thread().call(os.getpid) == os.getpid() else 1)
assert os.waitpid(child, 0)[1] == 0
assert thread.call(os.getpid) == os.getpid()
"""


def scripted(program: str, *arguments: str) -> str:
    """Run a program in a process of its own, and return what it prints."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_interpreters_end_frees_sessions_before_cuda_goes(bundle: Bundle) -> None:
    """On their thread, though something still refers to them."""
    lines = scripted(END, str(bundle.path)).splitlines()
    assert lines[-2:] == ["the end", f"freed {ALONE}"]


def test_a_forked_process_has_a_thread_of_its_own() -> None:
    """None is started before somebody asks for it, and threads are not forked."""
    scripted(FORK)
