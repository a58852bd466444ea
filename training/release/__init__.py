"""What a trained model is published as: exported, proven equal to the trained one, measured, described.

From top to bottom; imports go down only. Open `release.py` first.

- `release`
- `export` (ONNX, TorchScript and torch.export files, and the proof), over `integer` (the first layer in integers)
- `card` (the model card)
"""
