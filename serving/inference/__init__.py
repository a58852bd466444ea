"""The inference worker: a Gunicorn worker class that reads HTTP/1.1 on an event loop and runs batches.

The arbiter, its signals, hooks, logs and TLS settings are Gunicorn's. Open `worker.py` first; a request
then goes through `connection.py` (the socket), `input.py`, `head.py` and `chunked.py` (its bytes), `door.py` (where
it belongs), and `batcher.py` (a prediction) or `bridge.py` (a page of the Flask application); its answer through
`response.py` and `output.py`. `connections.py` has the connections of a process together.
"""
