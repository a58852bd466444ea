"""The one thread of a process on which sessions with CUDA graphs are created, captured, run and freed.

ONNX Runtime keeps a captured graph with the thread that captured it, and forbids `Run` on several threads where graphs
are on. During a capture, an allocation, a copy or a free that any other thread requests from CUDA breaks the capture.
So every thread that creates, runs or frees such a session has it done on this thread, one call after the other. Other
calls wait for one run, or for one capture of a reload, but never for a whole reload.

Source: ONNX Runtime, `cuda_execution_provider.h` (graphs are in the `PerThreadContext`) and `cuda_graph.cc`
(`cudaStreamCaptureModeGlobal`); CUDA's runtime API, `cudaThreadExchangeStreamCaptureMode`.
"""

import atexit
import itertools
import os
import threading
import traceback
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from serving.model.bound_session import BoundSession

END_SECONDS = 10.0
"""How long `close` waits for the thread."""
T = TypeVar("T")


class GraphSession:
    """A handle of a `BoundSession` that any thread may use. The session is freed when the handle is."""

    def __init__(self, thread: "GraphThread", number: int) -> None:
        self._thread, self._number = thread, number
        finalizer = weakref.finalize(self, thread.free, number)
        finalizer.atexit = False  # at exit the thread frees whatever sessions are left

    def run(self, names: list[str], feeds: dict[str, npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.float32]]:
        """Return what `BoundSession.run` returns."""
        return self._thread.call(self._thread.run, self._number, names, feeds)


class GraphThread:
    """A daemon thread that executes calls in order of submission, until the process ends."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._sessions: dict[int, BoundSession] = {}
        """Accessed only on the thread."""
        self._numbers = itertools.count()
        self._closed = False
        self._thread = threading.Thread(target=self._run_calls, name="cuda-graphs", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Schedule a call on the thread, and return its future.

        Raises:
            RuntimeError: the process is ending.
        """
        if self._closed:
            raise RuntimeError("the process is ending, and its CUDA graphs are freed already")
        future: Future[T] = Future()
        self._calls.put((future, partial(function, *arguments)))
        return future

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function on the thread, wait, and return its result."""
        if threading.current_thread() is self._thread:
            return function(*arguments)
        return self.submit(function, *arguments).result()

    def open(self, create: Callable[[], BoundSession]) -> GraphSession:
        """Create a session on the thread."""
        return GraphSession(self, self.call(self._add, create))

    def run(
        self, number: int, names: list[str], feeds: dict[str, npt.NDArray[np.uint8]]
    ) -> list[npt.NDArray[np.float32]]:
        """Run a session. Call this only on the thread."""
        return self._sessions[number].run(names, feeds)

    def free(self, number: int) -> None:
        """Schedule the freeing of a session. Garbage collection calls this on any thread, so it does not wait."""
        if not self._closed:
            self._calls.put((Future(), partial(self._close_session, number)))

    def close(self) -> None:
        """Free all sessions and end the thread. Freed at interpreter exit, they would find CUDA gone, and crash."""
        if not self._closed:
            self._closed = True
            self._calls.put(None)
            self._thread.join(END_SECONDS)

    # On the thread

    def _run_calls(self) -> None:
        while (call := self._calls.get()) is not None:
            _execute(*call)
            del call  # so that the waiting thread keeps no images and no session alive
        for number in list(self._sessions):
            self._close_session(number)

    def _add(self, create: Callable[[], BoundSession]) -> int:
        number = next(self._numbers)
        self._sessions[number] = create()
        return number

    def _close_session(self, number: int) -> None:
        self._sessions.pop(number).close()


def _execute(future: Future[Any], function: Callable[[], Any]) -> None:
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001  the caller gets it from the future
        _clear_frames(error)
        future.set_exception(error)
    else:
        future.set_result(result)


def _clear_frames(error: BaseException) -> None:
    """Clear the frames that an error refers to, so that a session whose capture failed is freed here, on the thread."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__


_lock = threading.Lock()
_graph_thread: GraphThread | None = None


def graph_thread() -> GraphThread:
    """Return this process's thread. The first call starts it, so that no process forks after CUDA was initialised."""
    global _graph_thread  # noqa: PLW0603  one for each process, like CUDA itself
    with _lock:
        if _graph_thread is None:
            _graph_thread = GraphThread()
        return _graph_thread


def _reset_after_fork() -> None:
    """Let a forked child start its own thread, because threads are not forked."""
    global _graph_thread  # noqa: PLW0603
    _graph_thread = None


os.register_at_fork(after_in_child=_reset_after_fork)
