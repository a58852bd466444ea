"""A service that writes down each try to open a version, and gives it LOAD_SECONDS.

python -m serving.arbiter --config python:tests.serving.counting_tries
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving import gunicorn_conf, proofs

globals().update({name: value for name, value in vars(gunicorn_conf).items() if not name.startswith("__")})

wsgi_app = "tests.serving.counting_tries:application()"
proofs.LOAD_SECONDS = int(os.environ["LOAD_SECONDS"])


def application() -> Any:
    """Return the service's application; its tries stand in TRIES_FILE: 'load 2', or 'child 2'.

    Where there is a HELD_FILE to be written, the first process to load version 2 writes its number there, and waits.
    """
    from serving import app, state

    def noting(how: str, then: Callable[..., Any], version: Callable[[Any], str]) -> Callable[..., Any]:
        def noted(first: Any, *rest: Any) -> Any:
            words = f"{how} {version(first)}"
            with Path(os.environ["TRIES_FILE"]).open("a") as file:
                file.write(f"{words}\n")
            held = Path(os.environ["HELD_FILE"])
            if words == "load 2" and not held.exists():
                held.write_text(str(os.getpid()))
                time.sleep(3600)
            return then(first, *rest)

        return noted

    for how, name, version in (
        ("child", "prove", lambda path: path.name),
        ("load", "open_version", lambda bundle: str(bundle.version)),
    ):
        setattr(state, name, noting(how, getattr(state, name), version))
    return app.start_app()
