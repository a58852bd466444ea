"""Clients that ask, servers as processes, and what is made of the figures: for the benches of services.

`client.py` asks `POST /predict`; `generator.py` asks any server from raw sockets, in the bytes that `wire.py` has for
each; `processes.py` starts and measures servers; `statistics.py` has percentiles, medians and ratios.
"""
