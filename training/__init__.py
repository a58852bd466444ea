"""The batch job: images on disk become a published bundle.

Open `job.py` first: it is the whole way, top to bottom. Then, by what they are about:

- settings and start: `settings`, `presets`, `defaults`, `errors` (exit codes), `__main__`
- data: `datasets` (what `--data` takes), `data` (arrays, the split), `fetch`, `idx`, `folder`, `npz`
- the model and the step: `model`, `stochastic`, `optimize`, `objective`
- augmentation: `augmentation_policy` (how much, by data set), `augment`, `warp`, `noise`
- the run: `fit` (the training step), `state`, `checkpoint`, `metrics`, `stop`, `distributed`, `captured`, `distill`
- what comes out: `release`, `export` (the proof), `integer`, `evaluate`, `robustness`, `facts`, `driver`; `report`,
  `figures`, `advice`, `card`
- many runs: `tune`, `trials`, `space` (the search); `study`, `studies`, `study_runs` (the studies)
"""

import bundle  # noqa: F401  before ONNX Runtime: see there
