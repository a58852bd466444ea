"""Ask each server all cases, and print how many it passes.

    python -m bench http11 [--server NAME ...] [--verbose]

Servers: glyph, gunicorn, uvicorn, nginx; without any, all. Python servers other than Glyph get an environment of their
own, as for `python -m bench serving`; nginx is the system's, with its JavaScript module. Exits 1 if Glyph misses a
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
"""Each case with its verdict, and what was seen."""


def ask(contender: Contender) -> Judged:
    """Ask one server all cases.

    Raises:
        UnavailableError: it cannot be had here.
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
    """Return the scores in Markdown: a row for each family and each level, a column for each server."""
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
    parser.add_argument("--server", action="append", choices=names, help="may be repeated; all without it")
    parser.add_argument(
        "--verbose", action="store_true", help="say of each case that does not pass what was seen"
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
