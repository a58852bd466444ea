"""Benchmarks: `python -m bench NAME` runs one and prints a table.

Contenders take turns, round by round, so that other load on the machine slows all of them; figures are medians over
the rounds. `__main__.py` lists the names.

- `comparison/`: Glyph beside other model servers; `http11/`: HTTP/1.1 compliance beside other servers
- `serving/`, `scoring/`, `training/`: each part alone; `memory/`, `gpu/`
- `fuzzing/`: damaged images and requests, random or coverage-guided
- `load/`: load generators and server processes; `support/`: code shared with the tests
"""
