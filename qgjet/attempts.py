"""The attempts that a job's events tell of. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec
from msgspec import Struct

from qgjet.events import Artifact, AttemptEnded, AttemptLost, Cancelled, Event, Finished, Outcome, Released, Started, TestResult, Verdict, event_type


class AttemptRecord(Struct, frozen=True, kw_only=True):
    """One attempt of a job, from its start to what became of it."""

    attempt: int
    agent: str
    device: str
    warm: bool
    started_at: datetime
    ended_at: datetime | None = None
    ended_by: str = ""
    """Type of the event that ended it, or `replaced`; empty while it runs."""
    verdict: Verdict | None = None
    """None while it runs, and when it was released."""
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    signal: str = ""
    duration_s: float | None = None
    tests: tuple[TestResult, ...] = ()
    tests_omitted: int = 0
    artifacts: tuple[Artifact, ...] = ()


def attempts_of(history: Iterable[Event]) -> list[AttemptRecord]:
    """The attempts of one job, from its legal events, oldest first."""
    attempts: list[AttemptRecord] = []
    for event in history:
        note(attempts, event)
    return attempts


def note(attempts: list[AttemptRecord], event: Event) -> None:
    """Add what the job's next event says."""
    if isinstance(event, Started):
        attempts.append(AttemptRecord(attempt=event.attempt, agent=event.agent, device=event.device, warm=event.warm, started_at=event.at))
    elif attempts and attempts[-1].ended_at is None:
        attempts[-1] = _ended(attempts[-1], event)


def end_replaced(attempts: list[AttemptRecord], at: datetime) -> None:
    """The job was replaced at that time: no event of its own says so."""
    if attempts and attempts[-1].ended_at is None:
        outcome = Outcome(verdict=Verdict.CANCELLED, reason="replaced")
        attempts[-1] = _closed(attempts[-1], at, "replaced", outcome, outcome.verdict)


def _ended(attempt: AttemptRecord, event: Event) -> AttemptRecord:
    match event:
        case AttemptEnded() | Finished():
            return _closed(attempt, event.at, event_type(event), event.outcome, event.outcome.verdict)
        case Cancelled():
            return _closed(attempt, event.at, event_type(event), event.outcome or Outcome(verdict=Verdict.CANCELLED), Verdict.CANCELLED)
        case AttemptLost():
            return _closed(attempt, event.at, event_type(event), Outcome(verdict=Verdict.INFRA_ERROR, reason=event.reason), Verdict.INFRA_ERROR)
        case Released():
            outcome = Outcome(verdict=Verdict.INFRA_ERROR, reason=event.reason, message=event.message)
            return _closed(attempt, event.at, event_type(event), outcome, None)
        case _:
            return attempt


def _closed(attempt: AttemptRecord, at: datetime, ended_by: str, outcome: Outcome, verdict: Verdict | None) -> AttemptRecord:
    return msgspec.structs.replace(
        attempt,
        ended_at=at,
        ended_by=ended_by,
        verdict=verdict,
        reason=outcome.reason,
        message=outcome.message,
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        duration_s=outcome.duration_s or max((at - attempt.started_at).total_seconds(), 0.0),
        tests=outcome.tests,
        tests_omitted=outcome.tests_omitted,
        artifacts=outcome.artifacts,
    )
