"""The output of a job, written exactly once.

- `folder.py`: opens, resumes and finishes the output folder; read it first
- `job_files.py`, `manifest.py`: the paths of a job's files and their receipts; the job's identity
- `locks.py`: a lock for each part; `integrity.py`: hashes and checksums
- `formats.py`: Parquet, CSV and JSON lines
"""
