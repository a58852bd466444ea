"""The network and what a training step does to it: layers, loss, optimizers; teachers; how good it is.

From top to bottom; imports go down only. Open `model.py` first.

- `robustness`: accuracy on images that were moved or turned
- `evaluate`: metrics, calibration
- `distill` (the loss against teachers), over `teacher` (layers built from a published graph)
- `objective` (the loss), `optimize` (optimizers, learning rates, averaged weights)
- `model`, over `stochastic` (Dropout and noise); `parameters` (their number)
"""
