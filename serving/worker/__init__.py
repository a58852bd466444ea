"""The Gunicorn worker classes: the inference worker, which serves from one event loop, and Gunicorn's own gthread.

In the order of a request:

- `inference_worker.py`, `thread_worker.py`: the worker classes, which Gunicorn's arbiter imports
- `connections.py`: the connections of a process; `connection.py`: one of them, request after request
- `http11/`: HTTP/1.1, from bytes to requests and from responses to bytes
- `dispatcher.py`: routes requests; `blocking.py`: which of them go to a thread
- `batcher.py`: predictions, in batches; `wsgi_bridge.py`: the Flask application, on a thread
- `rpc/`: the Open Inference Protocol over gRPC, where there is a port for it
- `lifecycle.py`: start, readiness and end of a worker, for both classes
"""
