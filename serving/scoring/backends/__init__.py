"""Backends compute the probabilities; each implements `records.Backend`.

- `local.py`: the service's ONNX Runtime session in this process
- `remote.py`: a running service, by the Open Inference Protocol
"""
