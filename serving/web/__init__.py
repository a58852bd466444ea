"""The Flask application: all routes, except that the inference worker answers predictions without it.

- `app.py`: the routes, and how an error becomes a response; read it first
- `hooks.py`: request hooks: authentication, header fields, metrics and access log
- `predictions.py`, `wsgi_body.py`: the prediction routes under WSGI servers, and reading a body from WSGI
- `oip_metadata.py`: health and metadata of the Open Inference Protocol
- `triton_extensions.py`, `inference_statistics.py`: Triton's extensions of it
- `model_status.py`: the model's status as TensorFlow Serving's and KServe's older clients ask for it
- `api_docs/`: `/metadata`, `/openapi.json`, `/docs`; `page/`: the page at `/`
- `constant.py`: responses that never change while the process runs
"""
