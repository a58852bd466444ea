"""The batch scorer: one model over millions of images, exactly once. `python -m serving.score` runs it.

    inputs -> plan -> parts of a fixed number of rows -> read, decode, score, write -> receipts -> _SUCCESS

Open `job.py` first (a run from its beginning to its end), then `pipeline.py` (how one part is read,
decoded and scored while the next is on its way), `parts.py` (how it is written, here or by Ray) and `records.py`
(what the stages hand to each other).
`inputs.py` says what can be read, `output.py` what is written and why it is written exactly once,
`job_files.py` how it is known to be there still.

Parts are cut by row number alone, and each part is scored in batches cut from its first row on. So what
is written does not depend on how many machines, processes or lives the run had.
"""
