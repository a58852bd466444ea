"""The way from Gunicorn into the application: called in each worker, after the fork."""

import logging
import sys

from flask import Flask

from serving.app import create_app
from serving.errors import ProviderError
from serving.metrics import Metrics
from serving.reload import Housekeeper
from serving.settings import load_settings

log = logging.getLogger("glyph.serving")

APP_LOAD_ERROR = 4
"""`gunicorn.arbiter.Arbiter.APP_LOAD_ERROR`: the arbiter halts with the same code."""


def application() -> Flask:
    """Return the application of this worker; `gunicorn ... 'serving.wsgi:application()'`.

    A provider that cannot work ends the whole service: Gunicorn's arbiter halts, and does not
    start the worker again, when one exits with APP_LOAD_ERROR.
    """
    try:
        app = create_app(load_settings(), Metrics.create())
    except ProviderError as error:
        log.critical("%s", error)
        sys.exit(APP_LOAD_ERROR)
    Housekeeper(app.extensions["glyph"]).start()
    return app
