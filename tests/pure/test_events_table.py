"""The table of states is written three times: for people beside `Status`, for the machine in
`TRANSITIONS`, and in what `decide` does.
"""

from __future__ import annotations

import re

from msgspec.structs import replace

from factories import NOW, spec
from qgjet.domain.decide import (
    DRAINED,
    Attach,
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
)
from qgjet.domain.events import ACTIVE, EVENT_TYPES, TERMINAL, Event, Status, event_type
from qgjet.domain.job import TRANSITIONS, Job
from strategies import outcome, step

NAMES = {event_type(kind) for kind in EVENT_TYPES}
Cells = dict[Status, tuple[set[str], set[str]]]


def documented() -> Cells:
    """The docstring's table: status -> (events it is entered by, events it is left by)."""
    assert Status.__doc__ is not None
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in Status.__doc__.splitlines()
        if line.strip().startswith("|")
    ]
    assert rows[0] == ["status", "entered by", "left by"]
    return {Status(status): (_events(entered), _events(left)) for status, entered, left in rows[2:]}


def _events(cell: str) -> set[str]:
    """Event names in a cell; what follows `after a` is a condition."""
    return set(re.findall(r"[a-z_]+", re.sub(r"after an? \w+", "", cell))) & NAMES


def derived() -> Cells:
    """The same table out of TRANSITIONS. A request leaves a running job running; what a replacing
    submission does stands below the table.
    """
    entered: dict[Status, set[str]] = {status: set() for status in Status}
    left: dict[Status, set[str]] = {status: set() for status in Status}
    for event, leads in TRANSITIONS.items():
        if event in ("attached", "detached"):  # they change who waits for the job, not where it is
            continue
        for before, afters in leads.items():
            for after in afters:
                if (event, before) != ("cancel_requested", Status.RUNNING):
                    entered[after].add(event)
                if before not in (None, after) and not (event == "submitted" and before in ACTIVE):
                    left[before].add(event)
    return {status: (entered[status], left[status]) for status in Status}


def commands(job: Job | None, number: int) -> list[Command]:
    """Every command that could mean something to this job, with each verdict and reason that makes
    a difference.
    """
    wanted = spec(job_id=f"job-{number}", max_retries=1, infra_retries=1)
    submissions: list[Command] = [
        Submit(wanted, OnDuplicate.ATTACH),
        Submit(wanted, OnDuplicate.REPLACE),
    ]
    if job is None:
        return submissions
    agent = job.agent or "agent-1"
    return [
        *submissions,
        Attach(replace(wanted, suite_ids=("suite",)), replace(wanted, job_id=job.job_id)),
        Cancel("suite", suite_id="suite"),
        Requeue(replace(wanted, job_id=job.job_id), "reprioritised", "operator"),
        Start(job.ticket, agent),
        *(
            EndAttempt(agent, job.attempt, outcome(verdict))
            for verdict in ("passed", "failed", "infra_error", "config_error", "cancelled")
        ),
        Release(agent, job.ticket, job.attempt, DRAINED),
        Release(agent, job.ticket, job.attempt, "prepare_failed"),
        Lose(agent, job.attempt, "janitor"),
        Cancel("operator"),
        Expire(job.ticket, "max_deliveries", "", "janitor"),
        Expire(job.ticket, "max_deliveries", "", "janitor", even_started=True),
    ]


def reached() -> set[tuple[str, Status | None, Status]]:
    """Every (event, before, after) that `decide` can bring about: all states are visited, two alike
    once.
    """
    found: set[tuple[str, Status | None, Status]] = set()
    seen: set[tuple[object, ...]] = set()
    open_states: list[Job | None] = [None]
    while open_states:
        before = open_states.pop()
        for command in commands(before, number=len(seen)):
            one = step(command, before, NOW, seq=1 if before is None else before.version + 1)
            if one.event is None or one.after is None:
                continue
            found.add((event_type(one.event), before and before.status, one.after.status))
            if _shape(one.after) not in seen:
                seen.add(_shape(one.after))
                open_states.append(one.after)
    return found


def _shape(job: Job) -> tuple[object, ...]:
    """What decisions depend on, without ids and sequences."""
    return (
        job.status,
        job.retries_left,
        job.infra_retries_left,
        bool(job.failures),
        job.cancel_requested,
        min(job.attempt, 2),
        job.waiters,
    )


def allowed() -> set[tuple[str, Status | None, Status]]:
    return {
        (event, before, after)
        for event, leads in TRANSITIONS.items()
        for before, afters in leads.items()
        for after in afters
    }


def test_the_documented_table_is_the_one_of_the_machine() -> None:
    assert documented() == derived()


def test_every_status_and_every_event_stands_in_the_table() -> None:
    assert set(documented()) == set(Status) == ACTIVE | TERMINAL
    assert {
        event for entered, left in documented().values() for event in entered | left
    } == NAMES - {"attached", "detached"}
    assert set(TRANSITIONS) == NAMES


def test_nothing_is_decided_that_the_table_does_not_allow() -> None:
    assert reached() - allowed() == set()


def test_everything_that_the_table_allows_can_be_decided() -> None:
    assert allowed() - reached() == set()


def test_live_and_terminal_share_no_status() -> None:
    assert ACTIVE.isdisjoint(TERMINAL)


def test_the_event_types_are_the_members_of_the_union() -> None:
    assert set(EVENT_TYPES) == set(Event.__args__)
    assert len(NAMES) == len(EVENT_TYPES)
