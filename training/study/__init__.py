"""`python -m training study`: many models that differ in one thing, and a page about them.

From top to bottom; imports go down only. Open `study.py` first.

- `study`
- `study_report` (the page), over `study_figures` and `statistics` (means and intervals)
- `study_runs` (a record for each run), over `studies` (what each study varies)
"""
