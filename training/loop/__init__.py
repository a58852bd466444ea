"""The training loop: the training step, its state, checkpoints, devices and distributed training.

Open `fit.py` first: it has the training step. Imports go down only, in this order:

- `shared_data`: a data set on a device, shared by the runs of a search or a study
- `fit`
- `trackers` (TensorBoard and MLflow), `metrics` (a JSON line for each epoch), `run_directory` (its lock)
- `state` (the content of a checkpoint), over `checkpoint` (its file) and `distributed` (several processes)
- `precision` (bfloat16), over `device`; `cuda_graph` (the captured training step)
"""
