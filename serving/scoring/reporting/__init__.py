"""What a run reports to its user.

- `console.py`: the observer that prints progress, summary and report; read it first
- `report.py`: the HTML report; `part_statistics.py`, `summary.py`: statistics of each part, and their sum
- `labels.py`: true labels (`--labels`); `progress.py`: a bar in a terminal, lines in a log
"""
