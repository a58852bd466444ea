"""What happens around every route of the Flask application: who may ask, what it leaves behind, its fields.

The prediction routes have all this in the pipeline, so that it is the same through both doors.
"""

import time

from flask import Flask, Response, g, request

from serving import headers
from serving.flask_metrics import route
from serving.pipeline import Pipeline
from serving.tracing import Finished

HTML = "text/html"


def surround(app: Flask, pipeline: Pipeline) -> None:
    """Put it around the application's routes, unknown paths included."""

    def enter() -> None:
        g.entered = time.perf_counter()
        if not pipeline.is_prediction(request.method, request.path):
            authorization = request.headers.get("Authorization")
            g.holder = pipeline.access.check_path(request.method, request.path, authorization)

    def leave(response: Response) -> Response:
        if pipeline.is_prediction(request.method, request.path):
            return response
        fields = {name.lower(): value for name, value in request.headers.items()}
        if request.method == "OPTIONS":
            _add(response, pipeline.headers.of_preflight(fields, response.headers.get("Allow", "")))
        else:
            _add(response, pipeline.headers.of(fields))
        if response.mimetype == HTML:
            for name, value in headers.PAGE.items():
                response.headers.setdefault(name, value)
        _leave_trail(pipeline, fields, response)
        return response

    app.before_request(enter)
    app.after_request(leave)


def _add(response: Response, fields: dict[str, str]) -> None:
    for name, value in fields.items():
        if name == "Vary":
            response.vary.add(value)
        else:
            response.headers[name] = value


def _leave_trail(pipeline: Pipeline, fields: dict[str, str], response: Response) -> None:
    trail = pipeline.trail
    trace = trail.context(fields)
    if not trail.wanted and trace is None:
        return
    started = g.get("entered", time.perf_counter())
    finished = Finished(
        method=request.method,
        route=route(),
        path=request.path,
        status=response.status_code,
        seconds=time.perf_counter() - started,
        client=request.remote_addr or "",
        request_id=response.headers.get("X-Request-ID"),
        holder=g.get("holder"),
        trace=trace,
        tracestate=fields.get("tracestate"),
    )
    if (own := trail.end(finished)) is not None:
        response.headers["traceresponse"] = own
