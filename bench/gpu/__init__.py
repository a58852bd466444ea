"""CUDA beside the CPU: the engine and the service on both, and the GPU's software versions.

`command.py` is `python -m bench gpu`, `service.py` measures the service, and `driver.py` prints GPU, driver and library
versions. `bench/gpu.sh` runs everything that needs a GPU.
"""
