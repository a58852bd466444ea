"""The network and what a training step does to it: layers, loss, optimizers; teachers; how good it is.

From top to bottom; imports go down only. Open `mlp.py` first.

- `robustness`: accuracy on images that were moved or turned
- `evaluation`: metrics, calibration
- `distillation` (the loss against teachers), over `teacher` (layers built from a published graph)
- `loss`, `optimizers` (with learning rates and averaged weights)
- `mlp`, over `noise_layers` (Dropout and noise); `parameters` (their number)
"""
