"""The Gunicorn worker classes: the inference worker, which serves from one event loop, and Gunicorn's threads.

- `inference_worker.py`, `thread_worker.py`: the classes, which Gunicorn's arbiter imports
- `connections.py`, `connection.py`: the connections of a process; one of them, request after request
- `dispatcher.py`: where a parsed request belongs, and who counts and logs it
- `batcher.py`: one batch of all that has arrived; `wsgi_bridge.py`: the way to the Flask application, on a thread
- `http11/`: HTTP/1.1 between bytes and requests
- `lifecycle.py`: starts, restarts and ends, for both classes
"""
