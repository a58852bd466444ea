"""`python -m bench http11`: HTTP/1.1 compliance of servers.

The cases are those of Http11Probe (github.com/MDA2AV/Http11Probe, MIT licence, 215 cases at commit 95bc6a9): the same
identifiers, requests and expected responses, implemented independently from the RFCs that it cites.

`case.py` defines a case and its verdict; `compliance.py`, `smuggling.py`, `malformed.py` and `others.py` have the cases
by family; `prober.py` sends them; `contenders.py` starts the servers (`peers/` has their applications); `command.py`
prints the table. Start with `case.py`.
"""

from bench.http11 import compliance, malformed, others, smuggling
from bench.http11.case import Case

CASES: tuple[Case, ...] = (*compliance.CASES, *smuggling.CASES, *malformed.CASES, *others.CASES)
