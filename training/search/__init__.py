"""Hyperparameter search with Optuna: `python -m training tune`.

Open `tune.py` first. Imports go down only, in this order:

- `tune`
- `trials` (trials and heartbeats, shared by processes), `best` (the file of the best settings)
- `storage` (the journal or database, and the sampler), `space` (the search space)
"""
