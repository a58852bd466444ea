"""Publishing a trained model: export, proof of parity, evaluation, model card.

Open `publish.py` first. Imports go down only, in this order:

- `publish`
- `parity`: the proof that each exported file computes what the trained model computes
- `export` (ONNX, TorchScript and torch.export files), `integer_graph` (the first layer in integers), `model_card`
"""
