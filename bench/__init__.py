"""What is measured, against whom: `python -m bench NAME` prints one table.

Contenders run interleaved in one process, round by round, so that a busy machine slows all of
them; figures are medians over the rounds. `bench.__main__` lists the names.
"""
