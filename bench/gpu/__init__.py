"""CUDA beside the CPU: models and the service on both, and what this machine has.

`command.py` is `python -m bench gpu`, `service.py` asks the service, and `driver.py` looks at the machine, with the
standard library alone. `bench/gpu.sh` runs all that is to be shown on a GPU.
"""
