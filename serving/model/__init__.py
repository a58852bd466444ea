"""A published version in this process: how it is loaded, proven, run, and replaced by the next.

- `reloader.py`: looks for new versions, beside the requests
- `store.py`: what the service answers with at this moment, or why there is nothing
- `trial.py`, `prove.py`, `proofs.py`: a version is proven by a child process first, once for all workers
- `engine.py`: loads a version, chooses the execution provider, replays the golden examples; read it first
- `bound_session.py`, `cuda_graph_thread.py`, `cuda.py`: fixed buffers, CUDA graphs, and what CUDA lacks here
"""
