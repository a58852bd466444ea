"""`python -m bench serving`: Glyph beside other model servers, each serving the same graph.

`command.py` reads the options and says what is measured; `contenders.py` lists who takes part, `contender.py`
says what that is, and `commands.py` how each is started (`peers/` has their code, `environments.py` installs
them); `rounds.py` and `openloop.py` measure; `report.py` and `chart.py` print.
"""
