"""Gunicorn's gthread worker, which does not accept before its model is proven, and tells when it drains.

All else is Gunicorn's: it reads HTTP, and a thread calls the Flask application. The arbiter imports this module, so it
must not import ONNX Runtime, as `inference_worker` must not.
"""

from types import FrameType

from gunicorn.workers.gthread import TConn, ThreadWorker

from serving.system.addresses import unmap_ipv4
from serving.worker.lifecycle import LifecycleMixin


class ReadyThreadWorker(LifecycleMixin, ThreadWorker):
    """`gthread` with the life cycle of the inference worker."""

    def enqueue_req(self, conn: TConn) -> None:
        """Queue a connection, with an IPv4 client's address as IPv4."""
        conn.client = unmap_ipv4(conn.client)
        super().enqueue_req(conn)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End gracefully, and be not ready from now on."""
        if self.booted and self.alive:  # a second signal may come after the end of the application
            self.wsgi.extensions["glyph"].drain()
        super().handle_exit(sig, frame)
