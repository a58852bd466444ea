"""What a case is: bytes, the answers that count, how much it matters, and where it is written."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Level(StrEnum):
    """The word of the RFC (RFC 2119); `OPEN` is what no RFC says, such as how long a name may be."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"
    OPEN = "open"


class Verdict(StrEnum):
    """What came of a case. `WARN`: allowed, and a stricter server is safer, or it could not be seen."""

    PASS = "passed"  # noqa: S105  a word of the table
    WARN = "warned"
    FAIL = "failed"


PASS, WARN, FAIL = Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One response, its framing undone."""

    status: int
    fields: Mapping[str, str]
    """By name in lower case; the last of a repeated one."""
    body: bytes
    interim: tuple[int, ...] = ()
    """Statuses of the 1xx responses before it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a server did with all of a case."""

    answers: tuple[Answer | None, ...]
    """To each step; None where none came, and where the connection was closed before the step."""
    closed: bool
    """The connection was closed by the end: a further request on it had no answer."""
    extra: int = 0
    """Answers to no request of ours, besides those to the steps."""

    @property
    def first(self) -> Answer | None:
        """Return the answer to the first step."""
        return self.answers[0]

    @property
    def last(self) -> Answer | None:
        """Return the answer to the last step."""
        return self.answers[-1]


Judge = Callable[[Outcome], Verdict]
Step = bytes | Callable[[Answer | None], bytes]
"""What is sent, or how it is made of the answer to the first step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One case of Http11Probe."""

    name: str
    """The suite's identifier."""
    family: str
    level: Level
    section: str
    """Where the rule is written, if anywhere."""
    steps: tuple[Step, ...]
    judge: Judge = field(repr=False)
    scored: bool = True
    """The suite counts it."""
    waits: bool = False
    """The request is not whole, so that a server that waits for the rest answers nothing, and is right."""

    def begins(self, start: bytes) -> bool:
        """Tell whether this is what is sent first."""
        first = self.steps[0]
        return isinstance(first, bytes) and first.startswith(start)


def family(name: str) -> Callable[..., Case]:
    """Return what makes the cases of a family."""

    def case(
        name_: str, level: Level, section: str, step: Step, judge: Judge, *more: Step, **options: bool
    ) -> Case:
        return Case(
            name=name_,
            family=name,
            level=level,
            section=section,
            steps=(step, *more),
            judge=judge,
            scored=options.get("scored", True),
            waits=options.get("waits", False),
        )

    return case


# How answers are judged

OK: Collection[int] = range(200, 300)
BAD = (400,)


def answered(
    passed: Collection[int],
    warned: Collection[int] = (),
    *,
    closed: Verdict = PASS,
    silent: Verdict = FAIL,
) -> Judge:
    """Judge the first answer's status.

    Args:
        passed: statuses that pass.
        warned: statuses that warn; all else fails.
        closed: the verdict on a connection that is closed without an answer.
        silent: the verdict where nothing comes at all, and the connection stays.
    """

    def judge(outcome: Outcome) -> Verdict:
        if (answer := outcome.first) is None:
            return closed if outcome.closed else silent
        return PASS if answer.status in passed else WARN if answer.status in warned else FAIL

    return judge


refused = answered(BAD, silent=PASS)
"""400, or the connection is closed; as in the suite it passes too to say nothing, and to wait for more."""
refused_in_words = answered(BAD, closed=FAIL)
"""400, and nothing else will do: the RFC asks for an answer."""
refused_or_read = answered(BAD, OK)
"""400 is safer, to read it is allowed."""
read = answered(BAD, OK)
"""400 is safer, to read it is allowed."""
refused = answered(BAD, silent=PASS)
"""400, or the connection is closed, or the rest of the request is waited for."""
read = answered(OK, silent=PASS)
"""2xx, or the connection is closed."""


def also(*accepted: int) -> Judge:
    """Judge that the request is refused by 400 or one of these statuses, or the connection is closed."""
    return answered((*BAD, *accepted))


def echoed(body: bytes) -> Judge:
    """Judge whether the body was read: the server answers 2xx with it."""

    def judge(outcome: Outcome) -> Verdict:
        answer = outcome.first
        return PASS if answer and answer.status in OK and answer.body.rstrip(b"\r\n") == body else FAIL

    return judge
