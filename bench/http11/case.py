"""A test case: the bytes to send, the verdict on the responses, its requirement level and its source."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Level(StrEnum):
    """Requirement level (RFC 2119); `OPEN` is unspecified, such as the maximum length of a name."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"
    OPEN = "open"


class Verdict(StrEnum):
    """The verdict on a case. `WARN`: allowed, but stricter is safer, or not observable."""

    PASS = "passed"  # noqa: S105  a word of the table
    WARN = "warned"
    FAIL = "failed"


PASS, WARN, FAIL = Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A parsed response."""

    status: int
    fields: Mapping[str, str]
    """By lower-case name; the last of repeated fields."""
    body: bytes
    interim: tuple[int, ...] = ()
    """Statuses of preceding 1xx responses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A server's behaviour in a case."""

    answers: tuple[Answer | None, ...]
    """The response to each step; None without a response, or if the connection was closed before."""
    closed: bool
    """The connection was closed at the end: a further request on it had no response."""
    extra: int = 0
    """Responses beyond those to the steps."""

    @property
    def first(self) -> Answer | None:
        """Return the response to the first step."""
        return self.answers[0]

    @property
    def last(self) -> Answer | None:
        """Return the response to the last step."""
        return self.answers[-1]


Judge = Callable[[Outcome], Verdict]
Step = bytes | Callable[[Answer | None], bytes]
"""The bytes to send, or a function of the response to the first step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One case of Http11Probe."""

    name: str
    """The suite's identifier."""
    family: str
    level: Level
    section: str
    """The RFC section of the rule, if any."""
    steps: tuple[Step, ...]
    judge: Judge = field(repr=False)
    scored: bool = True
    """Whether the suite scores it."""
    waits: bool = False
    """The request is incomplete: a server that waits for the rest without responding is right."""

    def begins(self, start: bytes) -> bool:
        """Return whether a step is sent first."""
        first = self.steps[0]
        return isinstance(first, bytes) and first.startswith(start)


def family(name: str) -> Callable[..., Case]:
    """Return a constructor for the cases of a family."""

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


# Verdicts

OK: Collection[int] = range(200, 300)
BAD = (400,)


def answered(
    passed: Collection[int],
    warned: Collection[int] = (),
    *,
    closed: Verdict = PASS,
    silent: Verdict = FAIL,
) -> Judge:
    """Return a verdict by the first response's status.

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
"""400, or closed connection; as in the suite, no response also passes."""
refused_in_words = answered(BAD, closed=FAIL)
"""400 only: the RFC requires a response."""
refused_or_read = answered(BAD, OK)
"""400 is safer, accepting is allowed."""
read = answered(BAD, OK)
"""400 is safer, accepting is allowed."""
refused = answered(BAD, silent=PASS)
"""400, closed connection, or waiting for the rest of the request."""
read = answered(OK, silent=PASS)
"""2xx or closed connection."""


def also(*accepted: int) -> Judge:
    """Pass if the request is rejected by 400 or one of these statuses, or the connection is closed."""
    return answered((*BAD, *accepted))


def echoed(body: bytes) -> Judge:
    """Pass if the body was read: the response is 2xx with the same body."""

    def judge(outcome: Outcome) -> Verdict:
        answer = outcome.first
        return PASS if answer and answer.status in OK and answer.body.rstrip(b"\r\n") == body else FAIL

    return judge
