"""The other servers, each in one small file that runs in that server's own environment.

Every one serves the graph of `BENCH_MODEL` by `classify.py`, with the settings its documentation
recommends for speed; `bench/comparison/contenders.py` starts them and says where each setting is from.
"""
