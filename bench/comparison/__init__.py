"""`python -m bench serving`: Glyph beside other model servers, each serving the same graph.

`command.py` is the command line; `contenders.py` lists the servers (`contender.py` is the type), `commands.py` has
their command lines, `peers/` their code, and `environments.py` installs them; `rounds.py` measures in a closed loop,
`openloop.py` in an open loop; `report.py` and `chart.py` write the report.
"""
