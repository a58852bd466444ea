"""Load generation: clients, server processes and statistics for the benches of services.

`client.py` loads `POST /predict` of Glyph; `generator.py` loads any server over raw sockets, with the request formats
of `wire.py`; `processes.py` starts and measures servers; `statistics.py` has percentiles, medians and ratios.
"""
