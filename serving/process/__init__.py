"""What runs before a worker has a model: it starts the processes of the service and replaces them.

- `gunicorn_conf.py`: Gunicorn's configuration, from our settings; read it first
- `announcement.py`: what is printed when the service is ready
- `management_process.py`: the arbiter's side of the management process

The arbiter imports this, and forks the workers: nothing here imports ONNX Runtime or Flask outside a worker.
"""
