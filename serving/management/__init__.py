"""The management process: probes and metrics on a port of its own, which traffic cannot starve.

- `server.py`: the process and its HTTP server; read it first
- `workers.py`: the worker registry: the state and the counters of each worker, and the sums
- `prometheus.py`: Prometheus's metric families, from the registry
- `arbiter_monitor.py`: whether the arbiter lives
"""
