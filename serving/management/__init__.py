"""The management process: probes and metrics on a port of its own, which traffic cannot starve.

- `server.py`: the process; read it first
- `prometheus.py`: from the workers' numbers to Prometheus's metric families
- `workers.py`: the registry of all workers: their numbers added up, and whether any of them answers
"""
