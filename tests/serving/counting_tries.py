"""A service that writes down each try to open a version: a worker has LOAD_SECONDS for it, a child CHILD_SECONDS.

python -m gunicorn --config python:tests.serving.counting_tries
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving.model import proof_table
from serving.process import gunicorn_conf

globals().update({name: value for name, value in vars(gunicorn_conf).items() if not name.startswith("__")})

wsgi_app = "tests.serving.counting_tries:application()"
proof_table.LOAD_SECONDS = int(os.environ["LOAD_SECONDS"])


def application() -> Any:
    """Return the service's application; its tries stand in TRIES_FILE: 'load 2', or 'child 2'.

    Where there is a HELD_FILE to be written, the first process to load version 2 writes its number there, and waits.
    """
    from serving.model import version_loader
    from serving.model.prove import prove
    from serving.web import app

    def note(words: str) -> None:
        with Path(os.environ["TRIES_FILE"]).open("a") as file:
            file.write(f"{words}\n")
        held = Path(os.environ["HELD_FILE"])
        if words == "load 2" and not held.exists():
            held.write_text(str(os.getpid()))
            time.sleep(3600)

    def by_child(path: Path, *rest: Any) -> Any:
        note(f"child {path.name}")
        provider, settings, _, ending = rest
        return prove(path, provider, settings, float(os.environ["CHILD_SECONDS"]), ending)

    def noting(then: Callable[..., Any]) -> Callable[..., Any]:
        def noted(bundle: Any, *rest: Any) -> Any:
            note(f"load {bundle.version}")
            return then(bundle, *rest)

        return noted

    changed = {"prove": by_child} | {
        name: noting(getattr(version_loader, name)) for name in ("open_version", "open_bounded")
    }
    for name, function in changed.items():
        setattr(version_loader, name, function)
    return app.start_app()
