"""What a trained model is published as: exported, proven equal to the trained one, measured, described.

From top to bottom; imports go down only. Open `publish.py` first.

- `publish`
- `parity`: the proof that each file says what the trained model says
- `export` (ONNX, TorchScript and torch.export files), `integer_graph` (the first layer in integers), `model_card`
"""
