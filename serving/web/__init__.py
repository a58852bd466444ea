"""The Flask application: every route that is not a prediction of the event loop's, and every route for other servers.

- `app.py`: which paths there are, and how an error becomes a response; read it first
- `hooks.py`: what happens before and after every view
- `predictions.py`, `wsgi_body.py`: the prediction routes for WSGI servers, and a body read from WSGI
- `oip_metadata.py`: the Open Inference Protocol's other paths
- `api_docs/`: `/metadata`, `/openapi.json`, `/docs`; `page/`: the page at `/`
- `constant.py`: answers that never change while the process runs
"""
