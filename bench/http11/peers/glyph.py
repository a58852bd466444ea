"""The service, with its inference worker and all its routes, and three more for the suite.

    gunicorn -c python:bench.http11.peers.glyph

`GET /` is the service's page. As in the suite, `POST /` answers with the body; the service itself has nothing there.
"""

from typing import TYPE_CHECKING

from serving.process import gunicorn_conf

if TYPE_CHECKING:
    from flask import Flask

globals().update({name: value for name, value in vars(gunicorn_conf).items() if not name.startswith("__")})

wsgi_app = "bench.http11.peers.glyph:application()"


def application() -> "Flask":
    """Return the service's application with the suite's routes."""
    # Imported here because the arbiter reads this module too, and must not import Flask.
    from flask import Response, request

    from bench.http11.peers.wsgi_echo import cookies, fields
    from serving.wsgi import application as service

    @service.post("/")
    def _body() -> Response:
        return Response(request.get_data(), mimetype="text/plain")

    @service.route("/echo", methods=["GET", "POST"])
    def _echo() -> Response:
        return Response(fields(request.environ), mimetype="text/plain")

    @service.get("/cookie")
    def _cookie() -> Response:
        return Response(cookies(request.headers.get("Cookie", "")), mimetype="text/plain")

    return service
