"""A service whose workers ail as a file says, while they load their model or later.

    python -m gunicorn --config python:tests.serving.ailing

The file is AILMENT, and its word what comes: `wait` as long as it says so, `stuck` for the first to read it, `import`
the same, and an error of its own when it is aborted, `slow` the same for SLOW_SECONDS, `raise` an error, `provider` one
that CUDA does not work, `begin` to wait when it is about to serve, `run` an error then.
LOAD_SECONDS, if it is given, is what a worker has to load its model in.
"""

import os
import time
from pathlib import Path
from typing import Any, NoReturn

import uvloop

from serving.model import proof_table
from serving.process import gunicorn_conf

globals().update({name: value for name, value in vars(gunicorn_conf).items() if not name.startswith("__")})

wsgi_app = "tests.serving.ailing:application()"
proof_table.LOAD_SECONDS = int(os.environ.get("LOAD_SECONDS", proof_table.LOAD_SECONDS))
AILMENT = Path(os.environ["AILMENT"])
SLOW_SECONDS = 8


def _ail() -> None:
    from serving.errors import ProviderError

    word = AILMENT.read_text()
    if word in ("stuck", "import", "slow"):
        AILMENT.write_text("")
        try:
            time.sleep(SLOW_SECONDS if word == "slow" else 3600)
        except SystemExit:
            if word == "import":
                raise ImportError("a library was interrupted") from None
            raise
    elif word == "raise":
        raise RuntimeError("it cannot be loaded today")
    elif word == "provider":
        raise ProviderError("CUDA does not work today")
    elif word == "wait":
        _wait(word)


def _wait(word: str) -> None:
    print(f"{os.getpid()} waits", flush=True)
    while AILMENT.read_text() == word:
        time.sleep(0.02)


def application() -> Any:
    """Return the service's application, if all goes well."""
    from serving.model.store import ModelStore
    from serving.web.app import start_app

    start = ModelStore.start

    def late(*arguments: Any) -> ModelStore:
        _ail()
        return start(*arguments)

    ModelStore.start = staticmethod(late)  # type: ignore[method-assign, assignment]
    return start_app()


def post_worker_init(worker: Any) -> None:
    """Let the worker fail where Gunicorn runs it."""
    gunicorn_conf.post_worker_init(worker)
    word = AILMENT.read_text()
    if word == "run":
        worker.run = _fail
    elif word == "begin":
        uvloop.new_event_loop = _late_loop


def _late_loop() -> uvloop.Loop:
    _wait("begin")
    return uvloop.Loop()


def _fail() -> NoReturn:
    raise RuntimeError("it cannot be served today")
