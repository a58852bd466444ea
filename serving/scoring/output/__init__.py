"""What is written, and why exactly once.

- `folder.py`: the output folder is claimed, gone on with, and finished; read it first
- `job_files.py`, `manifest.py`: where a job's files are; what a job is, and what came of it
- `locks.py`: who is at work on which part; `integrity.py`: whether what was written is still there
- `formats.py`: Parquet, CSV and JSON lines
"""
