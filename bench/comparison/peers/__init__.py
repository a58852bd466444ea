"""The other servers, each in a small file that runs in the server's own environment.

Every one serves the graph of `BENCH_MODEL` by `classify.py`, with the settings its documentation
recommends for speed; `bench/comparison/contenders.py` starts them and says where each setting is from.
"""
