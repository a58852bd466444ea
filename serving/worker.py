"""Gunicorn's thread worker, without the lock that can keep it from ending on Ctrl-C."""

from types import FrameType

from gunicorn.workers.base import Worker  # type: ignore[import-untyped]  # it ships no types
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]


class ServingThreadWorker(ThreadWorker):  # type: ignore[misc]
    """`gthread` as it is, but for SIGINT and SIGQUIT, and it is not ready from SIGTERM on."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End gracefully, and say so to whoever asks whether to send more."""
        if (app := getattr(self, "wsgi", None)) is not None:  # it is missing while the model is loaded
            app.extensions["glyph"].drain()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """End at once.

        Gunicorn's own handler (27.0) first shuts the thread pool down, which takes the pool's lock.
        A signal that lands while the main thread holds it, because it is handing a request to the
        pool or is in this very handler for an earlier signal, then waits for ever for itself, and the
        arbiter kills the worker only after the graceful timeout. Ending needs no such shutdown: the
        interpreter ends the pool's idle threads by itself.
        """
        Worker.handle_quit(self, sig, frame)
