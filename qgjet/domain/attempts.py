"""The attempts of a job: their records, and the test cases that failed in one and did not pass in a
later one. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

import msgspec
from msgspec import Struct

from qgjet.domain.events import (
    Artifact,
    AttemptEnded,
    AttemptLost,
    Cancelled,
    Event,
    FailedTest,
    Finished,
    FirstFailure,
    Outcome,
    Released,
    Started,
    TestResult,
    Verdict,
    event_type,
)
from qgjet.domain.retry import SPENDS_USER_RETRY

CONCLUSIVE = frozenset(
    {Verdict.PASSED, Verdict.FLAKY, Verdict.FAILED, Verdict.TIMED_OUT, Verdict.SKIPPED}
)
"""Verdicts about the app: only attempts with one of them fail or pass a test case."""
MAX_UNRESOLVED_BYTES = 64 * 1024
"""Size in JSON of all unresolved test cases of an event."""
MAX_UNRESOLVED_ID_BYTES = 48 * 1024
"""Part of it that IDs may take; what is left has titles and messages."""
MAX_DETAILED = 200
"""Unresolved test cases with title and message."""
MAX_TITLE_BYTES, MAX_MESSAGE_BYTES = 200, 500
MAX_REASON_BYTES, MAX_FIRST_FAILURE_BYTES = 200, 2000
_FAILED = frozenset({"failed", "timed_out", "interrupted"})
_PASSED = frozenset({"passed", "flaky"})
_ENTRY_BYTES = 60
"""Field names and the attempt of one test case in JSON."""

T = TypeVar("T")


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
        attempts.append(
            AttemptRecord(
                attempt=event.attempt,
                agent=event.agent,
                device=event.device,
                warm=event.warm,
                started_at=event.at,
            )
        )
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
            return _closed(
                attempt, event.at, event_type(event), event.outcome, event.outcome.verdict
            )
        case Cancelled():
            return _closed(
                attempt,
                event.at,
                event_type(event),
                event.outcome or Outcome(verdict=Verdict.CANCELLED),
                Verdict.CANCELLED,
            )
        case AttemptLost():
            return _closed(
                attempt,
                event.at,
                event_type(event),
                Outcome(verdict=Verdict.INFRA_ERROR, reason=event.reason),
                Verdict.INFRA_ERROR,
            )
        case Released():
            outcome = Outcome(
                verdict=Verdict.INFRA_ERROR, reason=event.reason, message=event.message
            )
            return _closed(attempt, event.at, event_type(event), outcome, None)
        case _:
            return attempt


def _closed(
    attempt: AttemptRecord, at: datetime, ended_by: str, outcome: Outcome, verdict: Verdict | None
) -> AttemptRecord:
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


# -- test cases over attempts --------------------------------------------------------------------------------------------


def unresolved_after(
    before: Iterable[FailedTest], omitted: int, outcome: Outcome, attempt: int
) -> tuple[tuple[FailedTest, ...], int]:
    """The test cases that are unresolved after an attempt.

    Args:
        before: Test cases that were unresolved before it.
        omitted: Number of further ones for which there was no room.
        outcome: What the attempt came to.
        attempt: Its number.

    Returns:
        The unresolved test cases within their bounds, first failed first, and the number of those without room.
    """

    def failed(test: TestResult) -> FailedTest:
        title = cut(test.title or test.id, MAX_TITLE_BYTES)
        return FailedTest(
            id=test.id,
            title=title,
            message=cut(failure_text(test), MAX_MESSAGE_BYTES),
            attempt=attempt,
        )

    found = _unresolved({one.id: one for one in before}, outcome.verdict, outcome.tests, failed)
    kept, left_out = _bounded(found.values())
    return kept, omitted + left_out


def unresolved_of(attempts: Iterable[AttemptRecord]) -> list[tuple[AttemptRecord, TestResult]]:
    """The test cases that failed in one of these attempts and passed in none after it, each with
    the attempt in which it failed first.
    """
    found: dict[str, tuple[AttemptRecord, TestResult]] = {}
    for attempt in attempts:
        found = _unresolved(found, attempt.verdict, attempt.tests, _failed_in(attempt))
    return list(found.values())


class NotPassedAgain(Struct, frozen=True, kw_only=True):
    """A test case that failed in an attempt, and that the last attempt neither passed nor failed."""

    attempt: AttemptRecord
    """The attempt in which it failed."""
    test: TestResult
    last: int
    """Number of the last conclusive attempt."""
    fate: str
    """What became of it there: `skipped` or `absent`."""

    @property
    def note(self) -> str:
        return f"It failed in attempt {self.attempt.attempt} and did not pass in attempt {self.last} ({self.fate})."


def not_passed_again(attempts: Iterable[AttemptRecord]) -> list[NotPassedAgain]:
    """The unresolved test cases of these attempts, but for those that the last conclusive one ran:
    they are in its own report.
    """
    conclusive = [attempt for attempt in attempts if attempt.verdict in CONCLUSIVE]
    if len(conclusive) < 2:
        return []
    last = conclusive[-1]
    fates = {test.id: test.outcome for test in last.tests}
    return [
        NotPassedAgain(attempt=attempt, test=test, last=last.attempt, fate=fate)
        for attempt, test in unresolved_of(conclusive)
        if (fate := fates.get(test.id, "absent")) in ("skipped", "absent")
    ]


def _failed_in(attempt: AttemptRecord) -> Callable[[TestResult], tuple[AttemptRecord, TestResult]]:
    return lambda test: (attempt, test)


def _unresolved(
    before: Mapping[str, T],
    verdict: Verdict | None,
    tests: Sequence[TestResult],
    made: Callable[[TestResult], T],
) -> dict[str, T]:
    """By ID. What was there before stays as it was; inconclusive attempts change nothing."""
    if verdict not in CONCLUSIVE:
        return dict(before)
    passed = {test.id for test in tests if test.outcome in _PASSED}
    kept = {test_id: one for test_id, one in before.items() if test_id not in passed}
    failed = (
        [test for test in tests if test.outcome in _FAILED] if verdict in SPENDS_USER_RETRY else []
    )
    return kept | {test.id: made(test) for test in failed if test.id not in kept}


def _bounded(found: Iterable[FailedTest]) -> tuple[tuple[FailedTest, ...], int]:
    """IDs have precedence: a test case without title and message can still be resolved, one that
    was left out cannot.
    """
    listed: list[FailedTest] = []
    omitted, room = 0, MAX_UNRESOLVED_BYTES
    for one in found:
        size = _json_bytes(one.id) + _ENTRY_BYTES
        if room - size < MAX_UNRESOLVED_BYTES - MAX_UNRESOLVED_ID_BYTES:
            omitted += 1
        else:
            listed.append(one)
            room -= size
    kept: list[FailedTest] = []
    for number, one in enumerate(listed):
        size = _json_bytes(one.title + one.message)
        detailed = number < MAX_DETAILED and size <= room
        kept.append(one if detailed else FailedTest(id=one.id, attempt=one.attempt))
        room -= size if detailed else 0
    return tuple(kept), omitted


def first_failure_of(outcome: Outcome, attempt: int) -> FirstFailure:
    """Describe an attempt that failed or timed out, within bounds."""
    message = outcome.message
    if not message:
        message = next(
            (
                f"{test.title or test.id}: {failure_text(test)}"
                for test in outcome.tests
                if test.outcome in _FAILED
            ),
            "",
        )
    return FirstFailure(
        attempt=attempt,
        verdict=outcome.verdict,
        reason=cut(outcome.reason, MAX_REASON_BYTES),
        message=cut(message, MAX_FIRST_FAILURE_BYTES),
    )


def failure_text(test: TestResult) -> str:
    """The error of a test case that failed; its outcome where no error was kept."""
    return next(
        (one.error.message for one in reversed(test.tries) if one.error is not None),
        test.outcome.replace("_", " "),
    )


def cut(text: str, limit: int) -> str:
    """`text` in at most `limit` bytes of UTF-8."""
    data = text.encode("utf-8", "replace")
    return (
        data.decode() if len(data) <= limit else data[: limit - 3].decode("utf-8", "ignore") + "…"
    )


def _json_bytes(text: str) -> int:
    return len(msgspec.json.encode(text.encode("utf-8", "replace").decode()))
