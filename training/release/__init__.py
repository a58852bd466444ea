"""What a trained model is published as: exported, proven equal to the trained one, measured, described.

From top to bottom; imports go down only. Open `publish.py` first.

- `publish`
- `export` (ONNX, TorchScript and torch.export files, and the proof), over `integer_graph` (the first layer in integers)
- `model_card` (the model card)
"""
