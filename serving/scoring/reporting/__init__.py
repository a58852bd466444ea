"""What a run tells its user.

- `console.py`: on the way and at the end; read it first
- `report.py`: one page of HTML; `part_statistics.py`, `summary.py`: what is remembered of each part, and their sum
- `labels.py`: what the images truly are; `progress.py`: a bar, or plain lines
"""
