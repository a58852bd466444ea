"""Many models that differ in one thing, and a page about them: `python -m training study`.

From top to bottom; imports go down only. Open `run.py` first.

- `run`
- `page`, over `figures` and `statistics` (means and intervals)
- `runs` (a record for each run), over `designs` (what each study varies)
"""
