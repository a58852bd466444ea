"""The batch scorer: one model over millions of images, exactly once. `python -m serving.score` runs it.

    inputs -> plan -> parts of a fixed number of rows -> read, decode, score, write -> receipts -> _SUCCESS

From top to bottom; imports go down only.

- `run.py`: a run from its beginning to its end; read it first
- `stored_job.py`: fetches from object stores before a run, and uploads what it writes
- `ray_backend.py`: computes the parts of a run on a Ray cluster
- `parts.py`: encodes and writes a scored part, in this process or in a Ray actor
- `reporting/`: progress, labels, summary and report
- `pipeline.py`: reads, decodes and scores one part after another, with slices of the next ones in flight
- `backends/`: compute the probabilities, in this process or by a running service
- `output/`: files, receipts and locks, which make the output exactly-once and verifiable
- `plan.py`: divides the input into parts; `observer.py`: callbacks of a run
- `inputs/`: opens the inputs by the readers of `imagesets/`, and the pool of decoding processes
- `fork_server.py`: the process that forks the others, for decoding and for the model's proof
- `records.py`: what the stages pass to each other
- `own_output.py`: recognises the scorer's own output, which is no input
- `settings.py`, `errors.py`

Parts are divided by row number alone, and the batches of a part start at its first row. The output therefore does
not depend on how many machines or processes the run had, or how often it was restarted.
"""
