"""What runs in Gunicorn's arbiter, which starts the processes of the service and replaces them.

- `gunicorn_conf.py`: Gunicorn's configuration and hooks; read it first
- `management_process.py`: starts, watches and ends the management process
- `announcement.py`: the text that is printed when the service is ready

The arbiter imports this package and forks the workers, so nothing here imports ONNX Runtime or Flask outside a worker.
"""
