"""The service: loads the newest published bundle, proves it, and answers what is asked of it over HTTP.

It reads what `training` published, through `bundle`, and imports neither `training` nor torch.
Open `pipeline.py` first (a request's way, whatever the door), then `predict.py` and `oip.py` (what is
asked and answered), `engine.py` (how a model is loaded and proven) and `app.py` (the routes).
`__main__.py` is how the service starts, `gunicorn_conf.py` and `readiness.py` how its processes are replaced.
"""

import bundle  # noqa: F401  before ONNX Runtime: see there
