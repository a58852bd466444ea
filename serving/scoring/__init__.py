"""The batch scorer: one model over millions of images, exactly once. `python -m serving.score` runs it.

    inputs -> plan -> parts of a fixed number of rows -> read, decode, score, write -> receipts -> _SUCCESS

From top to bottom; imports go down only.

- `run.py`: a run from its beginning to its end; read it first
- `ray_backend.py`: the parts of a run on a Ray cluster
- `parts.py`: what is done with a part that is scored, here or by Ray
- `reporting/`: progress, labels, summary and report
- `pipeline.py`: one part after another, read, decoded and scored while the next is on its way
- `backends/`: what computes the probabilities: this process, or a running service
- `output/`: what is written, why exactly once, and whether it is still there
- `plan.py`: the input cut into parts; `observer.py`: who is told of them
- `inputs/`: what can be read, and the processes that decode it
- `records.py`, `names.py`: what the stages hand to each other
- `settings.py`, `errors.py`

Parts are cut by row number alone, and each part is scored in batches cut from its first row on. So what
is written does not depend on how many machines, processes or lives the run had.
"""
