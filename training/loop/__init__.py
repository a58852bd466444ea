"""A run from its first step to its last: the training step, its state and checkpoints, devices and processes.

From top to bottom; imports go down only. Open `fit.py` first: it is the training step.

- `shared_data`: data on a device, shared by the runs of a search or a study
- `fit`
- `trackers` (TensorBoard and MLflow), `metrics` (a line for each epoch)
- `state` (all that a checkpoint holds), over `checkpoint` (its file) and `distributed` (several processes)
- `precision` (bfloat16), over `device`; `cuda_graph` (a recorded step)
"""
