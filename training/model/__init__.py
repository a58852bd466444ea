"""Network, loss and optimizers: layers, schedules, distillation, evaluation and calibration.

Open `mlp.py` first. Imports go down only, in this order:

- `robustness`: accuracy on moved and rotated images
- `evaluation`: metrics and calibration
- `distillation` (the ensemble of teachers), over `teacher` (layers from a published ONNX graph)
- `adversarial`, `loss`, `optimizers` (with learning rate schedules and averaged weights)
- `mlp`, over `noise_layers` (dropout and Gaussian noise); `parameters` (their number)
"""
