"""The batch job: images on disk become a published bundle.

Open `job.py` first: it is the whole way of `fit`, top to bottom. The folders, from top to bottom; imports go down only:

- `__main__` (the commands), `job`, `defaults` (what each setting is before options)
- `search/` (`tune`), `study/` (`study`): many runs
- `release/`: export, the proof, the bundle; `report/`: its page
- `loop/`: the training step, its state, checkpoints, devices and processes
- `model/`: layers, loss, optimizers, teachers, metrics
- `augmentation/`: random deformations; `data/`: what is trained on
- `interrupts` (signals), `provenance` (what the manifest says of code, packages and machine)
- `presets`, `settings`, `search_settings`, `errors` (and exit codes)
"""

import bundle  # noqa: F401  before ONNX Runtime: see there
