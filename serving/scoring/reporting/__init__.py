"""What a run reports to its user.

- `console.py`: the observer that prints progress, summary and report; read it first
- `report.py`: the HTML report; `summary.py`, `part_statistics.py`: the sum of the parts' statistics
- `labels.py`: true labels (`--labels`); `progress.py`: a bar in a terminal, lines in a log
"""
