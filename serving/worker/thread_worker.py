"""Gunicorn's thread worker, gthread, which tells when its model is proven and when it ends.

All else is Gunicorn's: it reads HTTP, and a thread asks the Flask application. Like the inference worker, this
module is imported by the arbiter and must not import ONNX Runtime.
"""

from types import FrameType
from typing import Any

from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]  # it ships no types

from serving.system.addresses import unmap_ipv4
from serving.worker.lifecycle import LifecycleMixin


class ReadyThreadWorker(LifecycleMixin, ThreadWorker):  # type: ignore[misc]
    """`gthread` that accepts nothing before its model is proven, and is not ready from SIGTERM on."""

    def enqueue_req(self, conn: Any) -> None:
        """Have a connection served, under its client's own address."""
        conn.client = unmap_ipv4(conn.client)
        super().enqueue_req(conn)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End gracefully, and say so to whoever asks whether to send more."""
        if self.booted and self.alive:  # a second signal may come when it has ended already
            self.wsgi.extensions["glyph"].drain()
        super().handle_exit(sig, frame)
