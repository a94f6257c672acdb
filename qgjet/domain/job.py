"""The job as an aggregate: what its events add up to.

`fold` never raises and never depends on anything but the events. An event that breaks a rule
changes nothing but the version: with every append fenced by the slot's version such an event cannot
come from this code, and a foreign one must not be able to move a job.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from qgjet.domain.events import (
    ACTIVE,
    OUTSIDE,
    PASSING,
    TERMINAL,
    Attached,
    AttemptEnded,
    AttemptLost,
    Cancelled,
    CancelRequested,
    Detached,
    Event,
    FailedTest,
    Finished,
    FirstFailure,
    Outcome,
    Released,
    Requeued,
    Started,
    Status,
    Submitted,
    Verdict,
    event_type,
)

TRANSITIONS: dict[str, dict[Status | None, frozenset[Status]]] = {
    "submitted": {
        None: frozenset({Status.QUEUED}),
        Status.DONE: frozenset({Status.QUEUED}),
        Status.FAILED: frozenset({Status.QUEUED}),
        Status.CANCELLED: frozenset({Status.QUEUED}),
        Status.QUEUED: frozenset({Status.QUEUED}),
        Status.RUNNING: frozenset({Status.QUEUED}),
    },
    "requeued": {Status.QUEUED: frozenset({Status.QUEUED})},
    "started": {Status.QUEUED: frozenset({Status.RUNNING})},
    "attempt_ended": {Status.RUNNING: frozenset({Status.QUEUED, Status.CANCELLED})},
    "released": {
        Status.QUEUED: frozenset({Status.QUEUED}),
        Status.RUNNING: frozenset({Status.QUEUED}),
    },
    "attempt_lost": {Status.RUNNING: frozenset({Status.QUEUED, Status.CANCELLED})},
    "finished": {
        Status.QUEUED: frozenset({Status.FAILED}),
        Status.RUNNING: frozenset({Status.DONE, Status.FAILED}),
    },
    "cancel_requested": {
        Status.QUEUED: frozenset({Status.CANCELLED}),
        Status.RUNNING: frozenset({Status.RUNNING}),
    },
    "attached": {
        Status.QUEUED: frozenset({Status.QUEUED}),
        Status.RUNNING: frozenset({Status.RUNNING}),
    },
    "detached": {
        Status.QUEUED: frozenset({Status.QUEUED}),
        Status.RUNNING: frozenset({Status.RUNNING}),
    },
    "cancelled": {Status.RUNNING: frozenset({Status.CANCELLED})},
}
"""event -> status before (None: empty slot) -> statuses it may lead to. `submitted` over a live job
must name it in `replaces`.
"""


class Job(Struct, frozen=True, kw_only=True, gc=False):
    """State of a slot: its latest job, live or finished."""

    job_id: str
    status: Status
    verdict: Verdict | None
    """None while the job is live."""
    ticket: int
    """Sequence of the submission in force: the only message that may be claimed."""
    version: int
    """Sequence of the slot's last event; what the next append expects."""
    attempt: int
    retries_left: int
    infra_retries_left: int
    failures: int
    suite_ids: tuple[str, ...]
    agent: str
    cancel_requested: bool
    retry_at: datetime | None
    """Not to be started before; None: at once."""
    unresolved: tuple[FailedTest, ...] = ()
    """Test cases that failed in an earlier attempt and have not passed since."""
    unresolved_omitted: int = 0
    first_failure: FirstFailure | None = None
    attached: tuple[str, ...] = ()
    detached: tuple[str, ...] = ()
    execution_timeout_s: float | None = None

    @property
    def waiters(self) -> frozenset[str]:
        """Suites that wait for the job, and OUTSIDE if it was submitted outside of any."""
        return frozenset({*(self.suite_ids or (OUTSIDE,)), *self.attached}) - frozenset(
            self.detached
        )

    @property
    def live(self) -> bool:
        return self.status in ACTIVE


def status_of(verdict: Verdict) -> Status:
    """The final status a verdict leads to."""
    if verdict is Verdict.CANCELLED:
        return Status.CANCELLED
    return Status.DONE if verdict in PASSING else Status.FAILED


def verdict_of(event: Event) -> Verdict | None:
    """The job's verdict after `event`; None while it is live."""
    if isinstance(event, Finished):
        return event.verdict
    return Verdict.CANCELLED if event.status is Status.CANCELLED else None


def explanation_of(event: Event) -> tuple[str, str] | None:
    """Reason and message of the job after `event`; None for an event that leaves them as they are."""
    match event:
        case Finished(reason=reason, message=message) if reason:
            return reason, message
        case (
            AttemptEnded(outcome=outcome)
            | Finished(outcome=outcome)
            | Cancelled(outcome=Outcome() as outcome)
        ):
            return outcome.reason, outcome.message
        case Released():
            return event.reason, event.message
        case Requeued() | AttemptLost() | CancelRequested():
            return event.reason, ""
        case Submitted() | Started():
            return "", ""
        case _:
            return None


def state_of(event: Event, seq: int) -> Job:
    """The slot's state from its last event alone."""
    return Job(
        job_id=event.job_id,
        status=event.status,
        verdict=verdict_of(event),
        ticket=event.ticket or seq,
        version=seq,
        attempt=event.attempt,
        retries_left=event.retries_left,
        infra_retries_left=event.infra_retries_left,
        failures=event.failures,
        suite_ids=event.suite_ids,
        agent=event.agent,
        cancel_requested=event.cancel_requested,
        retry_at=event.retry_at
        if isinstance(event, AttemptEnded | Released | Requeued | Attached | Detached)
        else None,
        unresolved=event.unresolved,
        unresolved_omitted=event.unresolved_omitted,
        first_failure=event.first_failure,
        attached=event.attached,
        detached=event.detached,
        execution_timeout_s=event.execution_timeout_s,
    )


def contradiction(event: Event) -> str | None:
    """What no event of ours says of its job, whatever came before it; None for one that may be
    true.

    A reader of the slot's last event alone sees with it most of what `broken_rule` would see with
    the whole history.
    """
    kind = event_type(event)
    is_submission, is_ticket = isinstance(event, Submitted), isinstance(event, Submitted | Requeued)
    tried = isinstance(event, Started | AttemptEnded | AttemptLost | Cancelled) or event.status in (
        Status.RUNNING,
        Status.DONE,
    )
    rules = (
        (
            any(event.status in after for after in TRANSITIONS[kind].values()),
            f"{kind} cannot lead to {event.status}",
        ),
        (
            bool(event.agent) == (event.status is Status.RUNNING),
            "an agent stands on running jobs, and only there",
        ),
        (
            (event.ticket == 0) if is_ticket else (event.ticket > 0),
            "it holds no ticket that can be",
        ),
        (event.attempt >= int(tried), "it is about an attempt that cannot be"),
        (
            min(
                event.retries_left,
                event.infra_retries_left,
                event.failures,
                event.unresolved_omitted,
            )
            >= 0,
            "it counts below zero",
        ),
        (
            not is_submission
            or not (event.attempt or event.cancel_requested or _has_failed(event)),
            "submitted with a past",
        ),
        (
            not isinstance(event, Finished) or event.status is status_of(event.verdict),
            "status and verdict disagree",
        ),
        (
            event.status is not Status.CANCELLED or event.cancel_requested,
            "cancelled, and nobody asked for it",
        ),
    )
    return _first_broken(rules)


def _has_failed(event: Event) -> bool:
    return bool(
        event.failures or event.unresolved or event.unresolved_omitted or event.first_failure
    )


def _first_broken(rules: tuple[tuple[bool, str], ...]) -> str | None:
    for (
        holds,
        broken,
    ) in rules:  # a generator would take longer than the rules: this runs for each event, wherever one is read
        if not holds:
            return broken
    return None


def evolve(job: Job | None, event: Event, seq: int) -> Job | None:
    """The state after `event` at `seq`. An event that breaks a rule moves only the version."""
    if broken_rule(job, event) is None:
        return state_of(event, seq)
    return None if job is None else _at_version(job, seq)


def fold(history: Iterable[tuple[int, Event]], job: Job | None = None) -> Job | None:
    """All events of a slot, oldest first, as (sequence, event)."""
    for seq, event in history:
        job = evolve(job, event, seq)
    return job


def _at_version(job: Job, seq: int) -> Job:
    return replace(job, version=seq)


def broken_rule(job: Job | None, event: Event) -> str | None:
    """The first rule that `event` breaks after `job`, in words; None when it is legal."""
    before = None if job is None else job.status
    if event.status not in TRANSITIONS[event_type(event)].get(before, ()):
        return f"{event_type(event)} cannot lead from {before or 'an empty slot'} to {event.status}"
    if isinstance(event, Submitted):
        return _broken_submission(job, event)
    assert job is not None  # only `submitted` may stand first: the table says so
    return _broken_step(job, event)


def _broken_submission(job: Job | None, event: Submitted) -> str | None:
    live_id = job.job_id if job is not None and job.live else ""
    if event.replaces != live_id:
        return f"submitted replaces {event.replaces!r}, the live job is {live_id!r}"
    if job is not None and event.job_id == job.job_id:
        return "submitted twice under one id"
    if event.ticket or event.attempt or event.agent or event.cancel_requested or _has_failed(event):
        return "submitted with a past"
    if event.retries_left < 0 or event.infra_retries_left < 0:
        return "submitted with a debt"
    return None


def _broken_step(job: Job, event: Event) -> str | None:
    is_ticket = isinstance(event, Requeued)
    attempt = job.attempt + isinstance(event, Started)
    cancelling = job.cancel_requested or isinstance(event, CancelRequested)
    ends_attempt = isinstance(event, AttemptEnded | AttemptLost | Released)
    rules = (
        (event.job_id == job.job_id, "it is about another job"),
        (event.ticket == (0 if is_ticket else job.ticket), "it holds another ticket"),
        (event.attempt == attempt, f"it is about attempt {event.attempt}, not {attempt}"),
        (0 <= event.retries_left <= job.retries_left, "retries can only be spent"),
        (
            0 <= event.infra_retries_left <= job.infra_retries_left,
            "infra retries can only be spent",
        ),
        (event.failures >= job.failures, "failures are not forgotten"),
        (event.unresolved_omitted >= 0, "it counts below zero"),
        (
            bool(event.agent) == (event.status is Status.RUNNING),
            "an agent stands on running jobs, and only there",
        ),
        (
            not isinstance(event, CancelRequested | Attached | Detached)
            or event.agent == job.agent,
            "asking for something does not change the agent",
        ),
        (
            event.cancel_requested == cancelling,
            "a request to cancel stays, and comes from nowhere else",
        ),
        (
            not ends_attempt or cancelling == (event.status is Status.CANCELLED),
            "an attempt leads to cancelled if, and only if, that was asked for",
        ),
        (job.status not in TERMINAL, "the job has ended"),
        (
            not isinstance(event, Finished) or event.status is status_of(event.verdict),
            "status and verdict disagree",
        ),
    )
    return _first_broken(rules)
