"""Gunicorn's thread worker, gthread, which tells when its model is proven and when it ends.

All else is Gunicorn's: it reads HTTP, and a thread asks the Flask application. Like the inference worker, this
module is imported by the arbiter and must not import ONNX Runtime.
"""

from types import FrameType

from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]  # it ships no types

from serving.handover import HandoverWorker


class ReadyThreadWorker(HandoverWorker, ThreadWorker):  # type: ignore[misc]
    """`gthread` that accepts nothing before its model is proven, and is not ready from SIGTERM on."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End gracefully, and say so to whoever asks whether to send more."""
        application = getattr(self, "wsgi", None)  # it is missing while the model is loaded
        if application is not None:
            application.extensions["glyph"].drain()
        super().handle_exit(sig, frame)
