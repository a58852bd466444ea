"""`python -m bench http11`: how strictly servers read HTTP/1.1, beside each other.

The cases are those of Http11Probe (github.com/MDA2AV/Http11Probe, MIT licence, 215 cases at commit 95bc6a9): its
identifiers, what each sends and which answers count, written anew from the RFCs that it names; no code of it is here.

`case.py` says what a case is and how an answer is judged; `compliance.py`, `smuggling.py`, `malformed.py` and
`others.py` are the cases by family; `prober.py` asks; `contenders.py` starts the servers (`peers/` has what they
serve); `command.py` prints. Start with `case.py`.
"""

from bench.http11 import compliance, malformed, others, smuggling
from bench.http11.case import Case

CASES: tuple[Case, ...] = (*compliance.CASES, *smuggling.CASES, *malformed.CASES, *others.CASES)
