"""A service that loses its GPU when a file says so; its model computes on the CPU and poses as one on CUDA.

    python -m gunicorn --config python:tests.serving.losing

The file, LOSING_FILE, has the ids of the processes whose every CUDA call fails from then on.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving.process import gunicorn_conf

globals().update({name: value for name, value in vars(gunicorn_conf).items() if not name.startswith("__")})

wsgi_app = "tests.serving.losing:application()"
FILE = "LOSING_FILE"


class Failing:
    """A session that fails as one does whose process has met an error that CUDA does not forget."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def run(self, names: list[str], feeds: dict[str, Any]) -> Any:
        """Run, or fail."""
        if str(os.getpid()) in Path(os.environ[FILE]).read_text().split():
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")
        return self._session.run(names, feeds)


def application() -> Any:
    """Return the service's application, with a model that poses."""
    from bundle.golden import GoldenExamples
    from serving.model.store import ModelStore
    from serving.web.app import start_app

    app = start_app()
    state: ModelStore = app.extensions["glyph"]
    (loaded,) = state._loaded
    engine = loaded.engine
    golden = GoldenExamples.from_bytes(engine.bundle.read("golden.npz"), engine.bundle.manifest)
    probe = GoldenExamples(images=golden.images[:1], probabilities=golden.probabilities[:1])
    posing = replace(engine, provider="cuda", session=Failing(engine.session), probe=probe)
    state.provider, state._loaded = "cuda", (replace(loaded, engine=posing),)
    return app
