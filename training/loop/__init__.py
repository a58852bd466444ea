"""A run from its first step to its last: the training step, its state and checkpoints, devices and processes.

From top to bottom; imports go down only. Open `fit.py` first: it is the training step.

- `shared_data`: data on a device, shared by the runs of a search or a study
- `fit`
- `state` (all that a checkpoint holds), over `checkpoint` (its file) and `distributed` (several processes)
- `trackers` (TensorBoard and MLflow), `metrics` (a line for each epoch)
- `device` (the device), `precision` (bfloat16), `cuda_graph` (a step as a CUDA graph)
"""
