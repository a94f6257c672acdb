"""The jobs that a command follows: the fold of their events, and what people want to see of them.
Pure.

Events carry state and every append is fenced, so the first event of a job that is seen here seeds
its fold; from then on the rules of `domain.job` decide, and an event that breaks one changes
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from msgspec import Struct

from qgjet.domain import attempts
from qgjet.domain.attempts import AttemptRecord
from qgjet.domain.events import (
    ACTIVE,
    AttemptEnded,
    AttemptLost,
    Cancelled,
    Event,
    Finished,
    Outcome,
    Released,
    Requeued,
    Slot,
    Status,
    Submitted,
    Verdict,
)
from qgjet.domain.job import Job, broken_rule, explanation_of, state_of

_NO_FAILURE = frozenset({Verdict.PASSED, Verdict.SKIPPED, Verdict.CANCELLED})


class JobFailure(Struct, frozen=True, kw_only=True):
    """An attempt that did not pass."""

    attempt: int
    verdict: Verdict | None
    """None: it was lost, or given back."""
    reason: str
    message: str


class TrackedJob(Struct, kw_only=True):
    """One job as far as it is known."""

    job_id: str
    slot: Slot
    seq: int = 0
    """Events up to here are in it."""
    status: Status = Status.QUEUED
    verdict: Verdict | None = None
    attempt: int = 0
    retries_left: int | None = None
    duration_s: float | None = None
    """Of the last attempt that ended."""
    reason: str = ""
    message: str = ""
    first_failure: JobFailure | None = None
    cancel_requested: bool = False
    attached: bool = False
    """Somebody else's job: not to be cancelled by us."""
    replaced: str | None = None
    state: Job | None = None
    attempts: list[AttemptRecord] = []
    """As far as they are known."""
    submitted_at: datetime | None = None
    finished_at: datetime | None = None
    priority: int | None = None
    tags: dict[str, str] = {}

    @property
    def live(self) -> bool:
        return self.status in ACTIVE

    def apply(self, seq: int, event: Event) -> bool:
        """Take in an event; True when that changed where the job is."""
        if seq <= self.seq or not self.live:
            return False
        self.seq = seq
        if isinstance(event, Submitted) and event.replaces == self.job_id:
            self.status, self.verdict, self.reason = Status.CANCELLED, Verdict.CANCELLED, "replaced"
            self.message = f"replaced by job {event.job_id}"
            self.finished_at = event.at
            attempts.end_replaced(self.attempts, event.at)
            return True
        return event.job_id == self.job_id and self._evolve(seq, event)

    def _evolve(self, seq: int, event: Event) -> bool:
        if self.state is not None and broken_rule(self.state, event) is not None:
            return False
        before = (self.status, self.attempt, self.cancel_requested)
        self.state = after = state_of(event, seq)
        self.status, self.verdict, self.attempt = after.status, after.verdict, after.attempt
        self.cancel_requested, self.retries_left = after.cancel_requested, after.retries_left
        self.finished_at = None if self.live else event.at
        attempts.note(self.attempts, event)
        self._note_earlier_failure(event)
        self._note(event)
        return (self.status, self.attempt, self.cancel_requested) != before

    def _note(self, event: Event) -> None:
        match event:
            case Submitted(spec=spec) | Requeued(spec=spec):
                self.submitted_at, self.priority, self.tags = (
                    spec.submitted_at,
                    spec.priority,
                    spec.tags,
                )
            case (
                AttemptEnded(outcome=outcome)
                | Finished(outcome=outcome)
                | Cancelled(outcome=Outcome() as outcome)
            ):
                self.duration_s = outcome.duration_s
                self.reason, self.message = explanation_of(event) or ("", "")
                self._failed(outcome.verdict, outcome.reason, outcome.message)
            case Released(reason=reason, message=message) if reason != "drained":
                self._failed(None, reason, message)
            case AttemptLost(reason=reason, lost_agent=agent):
                self._failed(None, reason, f"agent {agent} was lost")
            case _:
                pass

    def _note_earlier_failure(self, event: Event) -> None:
        """Following may begin after it: every later event carries it."""
        first = event.first_failure
        if self.first_failure is None and first is not None and first.attempt < event.attempt:
            self.first_failure = JobFailure(
                attempt=first.attempt,
                verdict=first.verdict,
                reason=first.reason,
                message=first.message,
            )

    def _failed(self, verdict: Verdict | None, reason: str, message: str) -> None:
        if self.first_failure is None and verdict not in _NO_FAILURE:
            self.first_failure = JobFailure(
                attempt=self.attempt, verdict=verdict, reason=reason, message=message
            )


class JobUpdate(Struct, frozen=True):
    """One change of one job."""

    job: TrackedJob
    """As it is after that."""
    event: Event
    """What has changed it."""


class JobTracker:
    """All jobs of a command. One that `grows` takes in jobs that join its suite later."""

    def __init__(
        self, tracks: Iterable[TrackedJob], suite_id: str = "", *, grows: bool = False
    ) -> None:
        self.tracks = {track.job_id: track for track in tracks}
        self.suite_id = suite_id
        self._grows = grows
        self.missing = 0
        """Jobs of the suite that never arrived."""

    def follow_suite(self, suite_id: str) -> None:
        """From now on the tracker is that suite's, and grows with it."""
        self.suite_id, self._grows = suite_id, True

    @property
    def live(self) -> list[TrackedJob]:
        return [track for track in self.tracks.values() if track.live]

    @property
    def failures(self) -> int:
        """Jobs whose verdict is that the app, or its test, does not work."""
        return sum(
            track.verdict in (Verdict.FAILED, Verdict.TIMED_OUT) for track in self.tracks.values()
        )

    @property
    def next_seq(self) -> int:
        """Where following has to begin."""
        return min((track.seq for track in self.live), default=0) + 1

    def counts(self) -> dict[str, int]:
        """Status, or verdict of an ended job -> jobs."""
        found: dict[str, int] = {}
        for track in self.tracks.values():
            word = str(track.verdict or track.status)
            found[word] = found.get(word, 0) + 1
        return found

    def apply(self, seq: int, event: Event) -> list[JobUpdate]:
        """The changes that an event makes: at most one to its own job, one to the job that it
        replaces.
        """
        self._adopt(seq, event)
        concerned = [event.job_id] + (
            [event.replaces] if isinstance(event, Submitted) and event.replaces else []
        )
        tracks = [self.tracks[job_id] for job_id in concerned if job_id in self.tracks]
        return [JobUpdate(track, event) for track in tracks if track.apply(seq, event)]

    def _adopt(self, seq: int, event: Event) -> None:
        if (
            self._grows
            and isinstance(event, Submitted)
            and event.job_id not in self.tracks
            and self.suite_id in event.suite_ids
        ):
            self.tracks[event.job_id] = TrackedJob(
                job_id=event.job_id, slot=event.spec.slot, seq=seq - 1
            )
