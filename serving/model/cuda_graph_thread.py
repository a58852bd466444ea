"""The one thread of a process on which sessions with CUDA graphs are made, captured, run and freed.

ONNX Runtime keeps a captured graph with the thread that captured it, and forbids `Run` from several threads where
graphs are on. While a graph is captured, an allocation, a copy or a freeing that any other thread asks CUDA for
breaks the capture. So whoever loads, asks or drops such a session has it done here, one call after the other: what
others wait for is one run, or one capture of a reload, never a whole reload.

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
T = TypeVar("T")


class GraphSession:
    """A `BoundSession` as every thread may use it; it is freed when nobody refers to this any more."""

    def __init__(self, thread: "GraphThread", number: int) -> None:
        self._thread, self._number = thread, number
        finalizer = weakref.finalize(self, thread.free, number)
        finalizer.atexit = False  # the thread frees at the end what is left then

    def run(self, names: list[str], feeds: dict[str, npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.float32]]:
        """Return what `BoundSession.run` returns."""
        return self._thread.call(self._thread.run, self._number, names, feeds)


class GraphThread:
    """Does what it is given, in the order in which it was given. A daemon: it waits for calls until the very end."""

    def __init__(self) -> None:
        self._due: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._sessions: dict[int, BoundSession] = {}
        """Used on the thread alone."""
        self._numbers = itertools.count()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="cuda-graphs", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Have a function called here; its result, or what it raises, is the future's.

        Raises:
            RuntimeError: the process is ending.
        """
        if self._closed:
            raise RuntimeError("the process is ending, and its CUDA graphs are freed already")
        future: Future[T] = Future()
        self._due.put((future, partial(function, *arguments)))
        return future

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Have a function called here, and return its result."""
        if threading.current_thread() is self._thread:
            return function(*arguments)
        return self.submit(function, *arguments).result()

    def open(self, make: Callable[[], BoundSession]) -> GraphSession:
        """Make a session here."""
        return GraphSession(self, self.call(self._keep, make))

    def run(
        self, number: int, names: list[str], feeds: dict[str, npt.NDArray[np.uint8]]
    ) -> list[npt.NDArray[np.float32]]:
        """Run a session; only on the thread."""
        return self._sessions[number].run(names, feeds)

    def free(self, number: int) -> None:
        """Free a session when its turn comes. Garbage collection calls this, anywhere, so it waits for nothing."""
        if not self._closed:
            self._due.put((Future(), partial(self._drop, number)))

    def close(self) -> None:
        """Free all sessions and end. Freed by the interpreter's end, they would find CUDA gone, and crash it."""
        if not self._closed:
            self._closed = True
            self._due.put(None)
            self._thread.join(END_SECONDS)

    # On the thread

    def _work(self) -> None:
        while (due := self._due.get()) is not None:
            _do(*due)
            del due  # while it waits for more, it keeps nobody's images, and no session
        for number in list(self._sessions):
            self._drop(number)

    def _keep(self, make: Callable[[], BoundSession]) -> int:
        number = next(self._numbers)
        self._sessions[number] = make()
        return number

    def _drop(self, number: int) -> None:
        self._sessions.pop(number).close()


def _do(future: Future[Any], function: Callable[[], Any]) -> None:
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001  whoever waits is to be told
        _let_go(error)
        future.set_exception(error)
    else:
        future.set_result(result)


def _let_go(error: BaseException) -> None:
    """Empty the frames that an error refers to: a session that could not be captured is freed here, not elsewhere."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__


_lock = threading.Lock()
_of_process: GraphThread | None = None


def graph_thread() -> GraphThread:
    """Return this process's thread. The first call starts it, so that no process forks with CUDA in it."""
    global _of_process  # noqa: PLW0603  there is one in a process, like CUDA itself
    with _lock:
        if _of_process is None:
            _of_process = GraphThread()
        return _of_process


def _forget() -> None:
    """Let a forked child start its own: threads are not forked."""
    global _of_process  # noqa: PLW0603
    _of_process = None


os.register_at_fork(after_in_child=_forget)
