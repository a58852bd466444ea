"""What computes the probabilities; each is a `records.Backend`.

- `local.py`: the service's own session, in this process
- `remote.py`: a running service, by the Open Inference Protocol
"""
