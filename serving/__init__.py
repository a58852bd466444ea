"""The service: loads the newest published bundle, proves it, and answers what is asked of it over HTTP.

From top to bottom; imports go down only. Commands stand here; read `predict/pipeline.py` first, a request's way.

- `process/`: what runs before a worker has a model: Gunicorn's configuration, the management process's start
- `worker/`: the Gunicorn worker classes: an event loop that reads HTTP/1.1 and runs batches; threads
- `web/`: the Flask application: its routes, the page, the API's description
- `management/`: the management process: probes and metrics of all workers, on a port of their own
- `scoring/`: the batch scorer
- `predict/`: a prediction, from a body to an answer, whoever reads HTTP
- `model/`: how a version is loaded, proven, run, and replaced by the next
- `security/`: bearer tokens, and the fields of answers that protect browsers
- `telemetry/`: metrics, logs and traces
- `system/`: what is asked of the operating system
- `settings.py`, `errors.py`: what an operator can set; every error that is raised on purpose

It reads what `training` published, through `bundle`, and imports neither `training` nor torch.
"""

import bundle  # noqa: F401  before ONNX Runtime: see there
