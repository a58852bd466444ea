"""A model version in one process: how it is loaded, proven, run, and replaced by the next version.

- `reloader.py`: polls for new versions, beside the requests
- `store.py`: the versions that the process serves at this moment, or the reason why there is none
- `mirror.py`: fetches versions from an object store into scratch, in one process for all
- `version_loader.py`, `prove.py`, `proof_table.py`: a child process proves a new version first, once for all workers
- `engine.py`: loads a version on an execution provider, replays the golden examples, runs batches; read this first
- `bound_session.py`, `cuda_graph_thread.py`, `cuda.py`: fixed buffers, CUDA graphs, and a check of the CUDA driver
"""
