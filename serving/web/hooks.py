"""Request hooks of the Flask application: authentication before a view; header fields, metrics and access log after it.

For prediction routes the pipeline does this, so that it is the same under both worker classes.
"""

import re
import time

from flask import Flask, Response, g, request

from serving.predict.pipeline import Pipeline, target_of
from serving.security import response_headers
from serving.telemetry.metrics import OTHER
from serving.telemetry.request_record import RequestRecord

HTML = "text/html"
_VARIABLE = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")


def register_hooks(app: Flask, pipeline: Pipeline) -> None:
    """Register the hooks for all paths, unknown ones included; error handlers set `g.refusal` to the problem's kind."""

    def before() -> None:
        g.arrived = time.perf_counter()
        g.target = target_of(request.method, request.path, pipeline.settings.predict_route)
        if g.target is None:
            authorization = request.headers.get("Authorization")
            g.holder = pipeline.authenticator.check_path(request.method, request.path, authorization)

    def after(response: Response) -> Response:
        if g.target is not None:
            return response
        fields = {name.lower(): value for name, value in request.headers.items()}
        if request.method == "OPTIONS":
            response.headers.update(pipeline.headers.of_preflight(fields, response.headers.get("Allow", "")))
        else:
            response.headers.update(pipeline.headers.of(fields))
        if response.mimetype == HTML:
            for name, value in response_headers.PAGE.items():
                response.headers.setdefault(name, value)
        _record(pipeline, fields, response)
        return response

    app.before_request(before)
    app.after_request(after)


def _record(pipeline: Pipeline, fields: dict[str, str], response: Response) -> None:
    record = RequestRecord(
        id=response.headers["X-Request-ID"],
        method=request.method,
        path=request.path,
        route=OTHER if request.url_rule is None else _VARIABLE.sub(r"{\1}", request.url_rule.rule),
        client=request.remote_addr or "",
        status=response.status_code,
        seconds=time.perf_counter() - g.arrived,
        refusal=g.get("refusal", ""),
        holder=g.get("holder"),
        trace=pipeline.request_log.context(fields),
    )
    pipeline.store.metrics.request(record)
    if (own := pipeline.request_log.end(record)) is not None:
        response.headers["traceresponse"] = own
