"""Counts the requests that Flask answers by itself; those of the prediction routes the pipeline counts."""

import re
import time

from flask import Flask, Response, g, request

from serving.metrics import Metrics
from serving.pipeline import Pipeline

_VARIABLE = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")
OTHER = "other"


def measure(app: Flask, pipeline: Pipeline, metrics: Metrics) -> None:
    """Let the application tell `metrics` of its requests. An error handler leaves its kind in `g.refusal`."""

    def begin() -> None:
        g.arrived = time.perf_counter()

    def end(response: Response) -> Response:
        if not pipeline.is_prediction(request.method, request.path):
            seconds = time.perf_counter() - g.get("arrived", time.perf_counter())
            metrics.request(route(), request.method, response.status_code, seconds, g.get("refusal", ""))
        return response

    app.before_request(begin)
    app.after_request(end)


def route() -> str:
    """Return the current request's route as the API's description has it, `other` where there is none."""
    return OTHER if request.url_rule is None else _VARIABLE.sub(r"{\1}", request.url_rule.rule)
