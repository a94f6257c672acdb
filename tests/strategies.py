"""Hypothesis strategies: values of every struct of ours, hostile text, and whole stories of one
slot.

A story is what production does: read the state, decide, append, read the state from the last event.
`play` tells one that is given, `stories` any.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from types import UnionType
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin

import msgspec
from hypothesis import strategies as st
from msgspec.structs import replace

from factories import NOW, spec
from qgjet.domain.decide import (
    DRAINED,
    Cancel,
    Command,
    EndAttempt,
    Expire,
    Lose,
    OnDuplicate,
    Release,
    Requeue,
    Start,
    Submit,
    decide,
)
from qgjet.domain.events import (
    EVENT_TYPES,
    PASSING,
    TERMINAL,
    Event,
    JobSpec,
    Outcome,
    Status,
    TestError,
    TestResult,
    Try,
    Verdict,
)
from qgjet.domain.job import Job, state_of
from qgjet.domain.retry import SPENDS_USER_RETRY
from qgjet.errors import Conflict

# Text

json_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
"""Anything that JSON in UTF-8 can hold: no halves of surrogate pairs."""
hostile_text = st.text(
    st.sampled_from(".*>%~/\\ \t\n\0aA2Ee\u00e9\u00a0\u2028\ud800\udfff\U0001f600"), max_size=10
) | st.text(max_size=10)
"""All that NATS, file systems, URLs and Unicode give a meaning to, and any other text."""

# Structs

instants = st.datetimes(
    datetime(1970, 1, 1),  # noqa: DTZ001 - the strategy adds the zone
    datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from(
        [UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-8))]
    ),
)


def values(kind: Any, **leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Values of an annotation: a struct over all its fields, an enum, a tuple, a dict, an optional,
    a leaf.

    `leaves` are other strategies for leaf types, by the type's name.
    """
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return st.one_of(*(values(one, **leaves) for one in args))
    if origin is Annotated:
        return values(args[0], **leaves)
    if origin is tuple:
        return st.lists(values(args[0], **leaves), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(values(args[0], **leaves), values(args[1], **leaves), max_size=2)
    if issubclass(kind, msgspec.Struct):
        return st.builds(
            kind, **{one.name: values(one.type, **leaves) for one in msgspec.structs.fields(kind)}
        )
    if issubclass(kind, StrEnum):
        return st.sampled_from(kind)
    return (_LEAVES | leaves)[kind.__name__]


_LEAVES: dict[str, st.SearchStrategy[Any]] = {
    "str": json_text,
    "int": st.integers(-(2**53), 2**53),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "datetime": instants,
    "NoneType": st.none(),
}

stored_events: st.SearchStrategy[Event] = st.sampled_from(EVENT_TYPES).flatmap(values)
"""Events of every type, over every field."""


def _any_event(kind: Any) -> st.SearchStrategy[Event]:
    """Few values for what the fold looks at, so that it often nearly fits; nothing interesting in
    the rest.
    """
    small = {
        "str": st.sampled_from(["", "a", "b"]),
        "int": st.integers(-1, 3),
        "datetime": st.just(NOW),
    }
    dull = {
        "spec": st.just(spec(job_id="a")),
        "outcome": st.just(Outcome(verdict=Verdict.PASSED)),
        "suite_ids": st.just(()),
        "unresolved": st.just(()),
        "first_failure": st.none(),
    }
    drawn = {
        one.name: dull[one.name] if one.name in dull else values(one.type, **small)
        for one in msgspec.structs.fields(kind)
    }
    return st.builds(kind, **drawn)


any_events: st.SearchStrategy[Event] = st.one_of(*map(_any_event, EVENT_TYPES))
"""Events with no regard to whether they can follow each other."""

# Stories of one slot


class Step(NamedTuple):
    """One command on one slot, and what came of it: an event, or a refusal."""

    command: Command
    now: datetime
    before: Job | None
    seq: int
    event: Event | None
    refusal: Conflict | None
    after: Job | None


Story = list[Step]
T = TypeVar("T")


def step(command: Command, before: Job | None, now: datetime, seq: int) -> Step:
    """What production does: decide, append at `seq`, read the state from the event alone."""
    try:
        event = decide(command, before, now)
    except Conflict as refusal:
        return Step(command, now, before, seq, None, refusal, before)
    return Step(command, now, before, seq, event, None, state_of(event, seq))


def play(*commands: Command, now: datetime = NOW) -> Step:
    """Carry `commands` out at `now` as messages 1, 2, 3 ...; all but the last must be accepted.
    Gives the last step.
    """
    last: Step | None = None
    for seq, command in enumerate(commands, 1):
        assert last is None or last.refusal is None, last
        last = step(command, last.after if last else None, now, seq)
    assert last is not None
    return last


def outcome(verdict: Verdict | str, **tests: str) -> Outcome:
    """`tests`: outcomes of the attempt's test cases by their IDs."""
    return Outcome(verdict=Verdict(verdict), tests=tuple(case(*one) for one in tests.items()))


def case(test_id: str, word: str) -> TestResult:
    error = TestError(message=f"{test_id} is broken")
    tries = (
        (Try(status=word, error=error),) if word in ("failed", "timed_out", "interrupted") else ()
    )
    return TestResult(id=test_id, title=f"title of {test_id}", outcome=word, tries=tries)


def events_of(story: Story) -> list[tuple[int, Event]]:
    """The history: (sequence, event) of what was accepted."""
    return [(one.seq, one.event) for one in story if one.event is not None]


AGENTS = ("agent-1", "agent-2")
_agents = st.sampled_from(AGENTS)
_later = st.sampled_from([timedelta(0), timedelta(0), timedelta(seconds=1), timedelta(minutes=1)])
_retry_in_s = st.sampled_from([0.0, 10.0, 20.0])
_budgets = st.integers(0, 3)
_booleans = st.booleans()
_gaps = st.integers(1, 2)
"""Other slots write to the log too."""
_chances = [st.integers(0, 7 + wrong) for wrong in range(4)]
_on_duplicate = st.sampled_from(OnDuplicate)
_suites: st.SearchStrategy[tuple[str, ...]] = st.sampled_from([(), ("suite-1", "suite-2")])
_verdicts = st.sampled_from([Verdict.FAILED, Verdict.INFRA_ERROR, *Verdict])
_passing_words = st.sampled_from(["passed", "passed", "flaky", "skipped"])
_words = {
    verdict: st.dictionaries(st.sampled_from(["a", "b"]), _passing_words, max_size=2)
    for verdict in PASSING
}
"""What the test cases of an attempt can come to. Any of them may be missing from its report."""
_any_words = st.dictionaries(
    st.sampled_from(["a", "b"]),
    st.sampled_from(["passed", "failed", "failed", "timed_out", "interrupted", "skipped"]),
    max_size=2,
)
_final = st.sampled_from([False] * 15 + [True])
_reasons = st.sampled_from([DRAINED, "prepare_failed"])
_any_move = ("submit", "requeue", "start", "end", "release", "lose", "cancel", "expire")
_moves = {
    Status.QUEUED: st.sampled_from(_any_move + ("start",) * 8 + ("release", "requeue") * 2),
    Status.RUNNING: st.sampled_from(_any_move + ("end",) * 8 + ("release", "lose", "cancel") * 2),
} | dict.fromkeys(TERMINAL, st.sampled_from(_any_move + ("submit",) * 16))
"""What makes sense comes often, so that stories get somewhere; everything else comes too."""


@st.composite
def stories(draw: st.DrawFn, max_steps: int = 24) -> Story:
    """A slot under commands of every kind, with right and wrong agents, tickets, attempts and
    times.
    """
    story = [step(_submission(draw, 1), None, NOW, draw(_gaps))]
    for number in range(2, draw(st.integers(max_steps // 2, max_steps)) + 1):
        last = story[-1]
        seq = last.seq + draw(_gaps)
        story.append(step(_command(draw, story, number), last.after, last.now + draw(_later), seq))
    return story


def _submission(draw: st.DrawFn, number: int) -> Submit:
    wanted = spec(
        job_id=f"job-{number}",
        max_retries=draw(_budgets),
        infra_retries=draw(_budgets),
        suite_ids=draw(_suites),
    )
    return Submit(wanted, draw(_on_duplicate))


def _command(draw: st.DrawFn, story: Story, number: int) -> Command:
    job = story[-1].after
    assert job is not None
    move = draw(_moves[job.status])
    if move == "submit":
        return _submission(draw, number)
    if move == "cancel":
        return Cancel("operator", "no longer needed")
    ticket = _mostly(draw, job.ticket, story[0].seq, job.version, 0)
    agent = _mostly(draw, job.agent or AGENTS[0], *AGENTS)
    attempt = _mostly(draw, job.attempt, job.attempt - 1, job.attempt + 1)
    match move:
        case "requeue":
            return Requeue(
                _spec_of(story, _mostly(draw, job.job_id, "another")), "reprioritised", "operator"
            )
        case "start":
            return Start(ticket, draw(_agents), "emulator-5554", draw(_booleans))
        case "end":
            return EndAttempt(agent, attempt, draw(outcomes()), draw(_retry_in_s))
        case "release":
            return Release(agent, ticket, attempt, draw(_reasons), "", draw(_retry_in_s))
        case "lose":
            return Lose(agent, attempt, "janitor")
        case _:
            return Expire(
                ticket, "max_deliveries", "nothing delivers it any more", "janitor", draw(_booleans)
            )


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    verdict = draw(_verdicts)
    return replace(
        outcome(verdict, **draw(_words.get(verdict, _any_words))),
        final=draw(_final) and verdict in SPENDS_USER_RETRY,
    )


def _mostly(draw: st.DrawFn, right: T, *wrong: T) -> T:
    """`right` eight times out of ten or so."""
    return ((right,) * 8 + wrong)[draw(_chances[len(wrong)])]


def _spec_of(story: Story, job_id: str) -> JobSpec:
    specs = [
        one.command.spec
        for one in story
        if isinstance(one.command, Submit) and one.command.spec.job_id == job_id
    ]
    return specs[0] if specs else spec(job_id=job_id)
