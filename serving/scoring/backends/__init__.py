"""Backends compute the probabilities; each implements `records.Backend`.

- `local.py`: the service's ONNX Runtime session in this process
- `proof.py`: proves the model before, in a process of its own
- `remote.py`: a running service, by the Open Inference Protocol
"""
