"""The cases of Http11Probe (`bench/http11`): the inference worker misses none that is a MUST or a SHOULD."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest

from bench.http11 import CASES
from bench.http11.case import Case, Outcome, Step, Verdict
from bench.http11.prober import probe
from bench.support.management import Managed, managed
from bundle.repository import Bundle

ask = partial(probe, patience=60.0, quiet=0.5)

UNREFUSED = "it is well formed (RFC 9110, 8.6 and 5.5), so that to refuse it would be ours to answer for"
NOTHING_THERE = "it names a path that is not there: 404"
ALLOWED = "the RFC has it read"
WARNED = {
    "COMP-HTTP12-VERSION": "no answer passes; it is read as HTTP/1.1 (RFC 9110, 2.5)",
    "COMP-HTTP10-NO-HOST": "HTTP/1.0 has no Host field, and probes of load balancers speak it",
    "COMP-GET-WITH-CL-BODY": ALLOWED,
    "COMP-NO-CL-IN-204": "OPTIONS is answered 200: there is no 204 to be seen",
    "COMP-ACCEPT-NONSENSE": "the page is sent all the same (RFC 9110, 12.5.1 allows either)",
    "SMUG-CL-LEADING-ZEROS": UNREFUSED,
    "SMUG-CL-LEADING-ZEROS-OCTAL": UNREFUSED,
    "SMUG-CL-DOUBLE-ZERO": UNREFUSED,
    "SMUG-CL-TRAILING-SPACE": UNREFUSED,
    "SMUG-CL-EXTRA-LEADING-SP": UNREFUSED,
    "MAL-CL-TAB-BEFORE-VALUE": UNREFUSED,
    "SMUG-TRANSFER_ENCODING": "the field is dropped: in WSGI its name would become the other's",
    "SMUG-TRAILER-CONTENT-TYPE": "nobody reads a trailer",
    "SMUG-HEAD-CL-BODY": ALLOWED,
    "SMUG-OPTIONS-CL-BODY": ALLOWED,
    "SMUG-EXPECT-100-CL": ALLOWED,
    "SMUG-ABSOLUTE-URI-HOST-MISMATCH": "the target's host holds (RFC 9112, 3.2.2)",
    "SMUG-CL0-BODY-POISON": "no answer passes; the length is right, and the byte after the body the next request's",
    "MAL-RANGE-OVERLAPPING": "no answer passes; there are no ranges here",
    "MAL-URL-PERCENT-NULL": NOTHING_THERE,
    "MAL-URL-PERCENT-CRLF": NOTHING_THERE,
    "CAP-LAST-MODIFIED-304": "pages have an ETag, which is exact, and no date",
    "CAP-INM-UNQUOTED": "Werkzeug reads a tag without quotes too",
}
"""Cases that the suite warns of, each with the reason why they stay as they are."""


@pytest.fixture(scope="module")
def probed(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    """Return the inference worker with the routes that the suite asks."""
    command = [sys.executable, "-m", "gunicorn", "-c", "python:bench.http11.peers.glyph"]
    directory = tmp_path_factory.mktemp("http11")
    with managed(directory, model=bundle.path.parent, worker="inference", command=command) as pod:
        yield pod


def data_port(pod: Managed) -> tuple[str, int]:
    """Return where predictions are asked for."""
    return "127.0.0.1", pod.service.port


def aimed(case: Case, start: bytes, *methods: bytes) -> Case:
    """Return a case whose requests to `/` by these methods begin otherwise."""

    def turn(step: Step) -> Step:
        if isinstance(step, bytes):
            for method in methods:
                step = step.replace(method + b" / ", start)
        return step

    return replace(case, steps=tuple(map(turn, case.steps)))


def named(case: Case) -> str:
    """Return a test's name."""
    return case.name


def refused_by_parser(outcome: Outcome) -> bool:
    """Tell whether the first request was refused because of how it is written."""
    answer = outcome.first
    return answer is not None and b"urn:glyph:problem:malformed-" in answer.body


def test_there_are_all_cases() -> None:
    """Http11Probe has 215, of which 161 are scored."""
    assert len({case.name for case in CASES}) == 215
    assert sum(case.scored for case in CASES) == 161
    assert WARNED.keys() <= {case.name for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=named)
def test_the_worker_passes(probed: Managed, case: Case) -> None:
    """Each case passes, or is among those that have a reason not to."""
    outcome = ask(case, data_port(probed))
    assert case.waits or outcome.first is not None or outcome.closed  # to say nothing is not to refuse
    assert case.judge(outcome) == (Verdict.WARN if case.name in WARNED else Verdict.PASS), outcome


def test_every_refusal_is_a_problem_and_is_counted(probed: Managed) -> None:
    """No page of HTML, no text that is not ours, whoever refuses; what the parser does is in the metrics."""
    kinds = ("malformed-request", "malformed-body")
    probed.service.ask("GET", "/livez")  # after all that the tests before have sent, and how they ended
    before = {kind: probed.value("glyph_refusals_total", reason=kind) for kind in kinds}
    refused: Counter[str] = Counter()
    for case in CASES:
        if case.waits:  # refused when the connection ends, which nobody reads
            continue
        outcome = ask(replace(case, steps=case.steps[:1]), data_port(probed))
        if (answer := outcome.first) is not None and answer.status >= 400:
            assert answer.fields["content-type"] == "application/problem+json", case
            refused[json.loads(answer.body)["type"].rpartition(":")[2]] += 1
    for kind in kinds:
        assert refused[kind] > 20
        probed.await_value(before[kind] + refused[kind], "glyph_refusals_total", reason=kind)


@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.waits and case.begins(b"POST / ")], ids=named
)
def test_what_is_refused_of_a_page_is_refused_of_a_prediction(probed: Managed, case: Case) -> None:
    """The fast path reads no request that the other refuses, and ends the connection as the other does."""
    page = ask(case, data_port(probed))
    prediction = ask(aimed(case, b"POST /predict ", b"POST"), data_port(probed))
    assert prediction.extra == 0
    assert refused_by_parser(prediction) == refused_by_parser(page)
    if refused_by_parser(page):
        assert page.first is not None
        assert prediction.first is not None
        assert (prediction.first.status, prediction.closed) == (page.first.status, page.closed)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.family in ("compliance", "smuggling", "malformed")], ids=named
)
def test_the_management_port_takes_nothing_hidden_for_a_request(probed: Managed, case: Case) -> None:
    """What it does not refuse ends the connection, or is right; each request has one answer."""
    outcome = ask(aimed(case, b"GET /livez ", b"POST", b"GET", b"OPTIONS"), ("127.0.0.1", probed.port))
    assert outcome.extra == 0
    answer = outcome.first
    if case.judge(outcome) == Verdict.FAIL and case.name != "COMP-VERSION-LEADING-ZEROS":  # read as 1.1
        assert outcome.closed or (answer is not None and answer.status >= 400), outcome
