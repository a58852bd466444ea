"""A service whose first worker takes SLOW_SECONDS to load its model; a worker has LOAD_SECONDS for that.

python -m serving.arbiter --config python:tests.serving.slow_to_load
"""

import os
import time
from pathlib import Path
from typing import Any

from serving import gunicorn_conf, handover

globals().update({name: value for name, value in vars(gunicorn_conf).items() if not name.startswith("__")})

wsgi_app = "tests.serving.slow_to_load:application()"
handover.LOAD_SECONDS = int(os.environ["LOAD_SECONDS"])


def application() -> Any:
    """Return the service's application, in the first process late."""
    from serving.app import start_app

    first = Path(os.environ["FIRST_FILE"])
    if not first.exists():
        first.touch()
        time.sleep(float(os.environ["SLOW_SECONDS"]))
    return start_app()
