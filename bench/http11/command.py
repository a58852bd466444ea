"""Run all cases against each server, and print how many pass.

    python -m bench http11 [--server NAME ...] [--verbose]

Servers: glyph, gunicorn, uvicorn, nginx; default: all. Python servers other than Glyph have environments of their
own, as in `python -m bench serving`; nginx is the system's, with its JavaScript module. Exits 1 if Glyph fails a
MUST.
"""

import sys
from collections import Counter
from collections.abc import Callable, Sequence

from bench.comparison.environments import UnavailableError
from bench.http11 import CASES
from bench.http11.case import FAIL, Case, Level, Verdict
from bench.http11.contenders import CONTENDERS, Contender, serving
from bench.http11.prober import probe_all
from bench.support.options import bench_parser

ORDER = [*Level, *dict.fromkeys(case.family for case in CASES)]

Judged = list[tuple[Case, Verdict, str]]
"""Each case with its verdict and the observed responses."""


def ask(contender: Contender) -> Judged:
    """Run all cases against a server.

    Raises:
        UnavailableError: the server is not available on this machine.
    """
    with serving(contender) as address:
        outcomes = probe_all(CASES, address)
    judged = []
    for case, outcome in zip(CASES, outcomes, strict=True):
        statuses = ["-" if answer is None else str(answer.status) for answer in outcome.answers]
        seen = " ".join(statuses) + (", closed" if outcome.closed else "")
        judged.append(
            (case, case.judge(outcome), seen + (f", {outcome.extra} extra" if outcome.extra else ""))
        )
    return judged


def table(results: dict[str, Judged]) -> str:
    """Return the scores as a Markdown table: a row per family and level, a column per server."""
    rows: list[tuple[str, list[Case]]] = [("all that are scored", [case for case in CASES if case.scored])]
    parts: list[Callable[[Case], str]] = [lambda case: case.level, lambda case: case.family]
    for part in parts:
        names = sorted({part(case) for case in CASES if case.scored}, key=ORDER.index)
        rows += [(name, [case for case in CASES if case.scored and part(case) == name]) for name in names]
    rows.append(("not scored", [case for case in CASES if not case.scored]))
    lines = [["passed / warned / failed", "cases", *results], ["---", *["---:"] * (1 + len(results))]]
    for title, cases in rows:
        wanted = {case.name for case in cases}
        cells = []
        for judged in results.values():
            counts = Counter(verdict for case, verdict, _ in judged if case.name in wanted)
            cells.append(" / ".join(str(counts[verdict]) for verdict in Verdict))
        lines.append([title, str(len(cases)), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = bench_parser("http11", __doc__)
    names = {contender.title.split(",")[0].lower(): contender for contender in CONTENDERS}
    parser.add_argument(
        "--server", action="append", choices=names, help="server, may be repeated; default: all"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="print the observed responses of each case that does not pass"
    )
    options = parser.parse_args(arguments)
    results: dict[str, Judged] = {}
    missed = False
    for name in options.server or names:
        contender = names[name]
        try:
            judged = ask(contender)
        except UnavailableError as error:
            print(f"{contender.title}: {error}", file=sys.stderr)
            continue
        results[f"{contender.title} ({contender.version()})"] = judged
        for case, verdict, seen in judged:
            if verdict == FAIL and case.level == Level.MUST and case.scored and name == "glyph":
                missed = True
            if options.verbose and verdict is not Verdict.PASS:
                print(f"{name:9} {verdict:7} {case.level:6} {case.name:44} {seen}")
    print(table(results))
    return int(missed)
