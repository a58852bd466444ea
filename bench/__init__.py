"""What is measured, against whom: `python -m bench NAME` prints one table.

Contenders run interleaved in one process, round by round, so that a busy machine slows all of
them; figures are medians over the rounds. `__main__.py` lists the names.

- `comparison/`: Glyph beside other model servers; `http11/`: how strictly HTTP is read, beside other servers
- `serving/`, `scoring/`, `training/`: each alone; `memory/`, `gpu/`
- `fuzzing/`: damaged images and requests, at random and by coverage
- `load/`: clients and servers as processes; `support/`: what tests share too
"""
