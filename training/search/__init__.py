"""A search for settings, by Optuna: `python -m training tune`.

From top to bottom; imports go down only. Open `tune.py` first.

- `tune`
- `trials` (numbers and states shared by processes), `best` (the file of the best settings)
- `storage` (the journal or database), `space` (what is drawn from)
"""
