"""Studies of one setting with many models, and the report about them: `python -m training study`.

Open `run.py` first. Imports go down only, in this order:

- `run`
- `page`, over `figures` and `statistics` (means and confidence intervals)
- `runs` (a record for each run), over `designs` (what each study varies)
"""
