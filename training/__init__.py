"""The training job: it turns images on disk into a published bundle.

Open `job.py` first: it is the whole of `fit`. Imports go down only, in this order:

- `__main__` (the commands), `job`, `defaults` (where defaults of settings come from)
- `search/` (the command `tune`), `study/` (the command `study`): many runs
- `release/`: export, parity with the trained model, publishing; `report/`: the HTML report
- `loop/`: the training step, its state, checkpoints, devices, distributed training
- `model/`: layers, loss, optimizers, distillation, evaluation
- `augmentation/`: random deformations; `data/`: data sets
- `interrupts` (signals), `provenance` (code, packages and device in the manifest)
- `presets`, `settings`, `search_settings`, `errors` (with exit codes)
"""

import bundle  # noqa: F401  must be imported before ONNX Runtime
