"""What the API answers: the read model's rows, with the words of the seeds and what only the moment
of asking can tell.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from qgjet.domain.attempts import AttemptRecord
from qgjet.domain.control import Kind
from qgjet.domain.events import LEGACY_STATUS, JobSpec, Partition, Status, Verdict
from qgjet.domain.job import status_of
from qgjet.errors import Conflict, DuplicateJob, QgjetError
from qgjet.reporting.model import worst
from qgjet.store.agent_registry import AgentInfo
from qgjet.support.text import shortened
from qgjet_projections.readmodel.views import (
    DeadLetter,
    EventView,
    JobView,
    PartitionView,
    Settlement,
    SuiteView,
)
from qgjet_projections.usecases.pending import (
    PendingReason,
    Surroundings,
    partition_reason,
    pending_reason,
)
from qgjet_projections.usecases.results import Submission

MAX_MESSAGE = 2048
"""Characters of a message. Agents write no longer ones."""


class JobStatusAnswer(Struct, frozen=True, kw_only=True):
    job_id: str
    status: str
    """`queued`, `in_progress`, `completed` or `failed`, which a cancelled job is too."""
    test_path: str
    app_version_id: str
    created_at: datetime


class StatusAnswer(Struct, frozen=True, kw_only=True):
    job_id: str
    org_id: str
    app_version_id: str
    test_path: str
    target: str
    priority: int
    status: Status
    verdict: Verdict | None
    legacy_status: str
    """queued, in_progress, completed or failed."""
    created_at: datetime
    retries: int
    max_retries: int
    reason: str
    seq: int


class JobAnswer(JobView, frozen=True, kw_only=True):
    legacy_status: str
    pending_reason: PendingReason | None
    """Why a queued job is not running; None when it may start at any moment, or when nobody can
    tell because NATS does not answer.
    """


class JobDetail(JobAnswer, frozen=True, kw_only=True):
    attempts: list[AttemptRecord]


class DeadAnswer(JobAnswer, frozen=True, kw_only=True):
    """A job that ended without a statement about the app: its `reason` and `message` say why."""

    settlement: Settlement | None
    """What was done about it; None: it waits for somebody."""


class DeadDetail(DeadAnswer, frozen=True, kw_only=True):
    attempts: list[AttemptRecord]
    output: list[str]
    """The last lines that its last attempt has printed, as far as they are kept."""


class DeadPage(Struct, frozen=True, kw_only=True):
    dead_letters: list[DeadAnswer]
    next_cursor: str | None


class JobPage(Struct, frozen=True, kw_only=True):
    jobs: list[JobAnswer]
    next_cursor: str | None


class EventAnswer(Struct, frozen=True, kw_only=True):
    seq: int
    at: datetime | None
    type: str
    job_id: str
    legal: bool
    """False: the event broke a rule, or this version cannot read it; it changed nothing."""
    event: Any
    """As it stands in the log; None when it is not JSON."""


class EventPage(Struct, frozen=True, kw_only=True):
    events: list[EventAnswer]
    next_after: int | None
    """Hand it back as `after` for the next page; None: this was the last one."""


class ArtifactAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    attempt: int
    name: str
    content_type: str
    size: int
    sha256: str
    """Empty when the file was left out."""
    url: str
    note: str = ""
    """What was cut, or why the file was left out."""


class ArtifactList(Struct, frozen=True, kw_only=True):
    artifacts: list[ArtifactAnswer]


class Refusal(Struct, frozen=True, kw_only=True):
    """Why one job of a suite was not accepted."""

    status: int
    detail: str
    job_id: str | None = None
    """Of the live job that stands in the way."""


class SuiteJobAnswer(Struct, frozen=True, kw_only=True):
    """One job of a bulk submission: accepted, attached, or refused with `error`."""

    org_id: str
    app_version_id: str
    target: str
    test: str
    job_id: str | None
    status: Status | None
    seq: int | None
    attached: bool = False
    replaced: str | None = None
    error: Refusal | None = None


class SuiteSubmission(Struct, frozen=True, kw_only=True):
    suite_id: str
    seq: int
    accepted: int
    attached: int
    refused: int
    jobs: list[SuiteJobAnswer]
    """One answer per job, in the order of the request."""


class SuiteAnswer(Struct, frozen=True, kw_only=True):
    suite_id: str
    org_id: str
    status: Status
    verdict: Verdict | None
    """That of the worst job: failed, timed_out, infra_error, config_error, cancelled, flaky,
    passed, skipped. None while a job is live.
    """
    total: int
    attached: int
    """Jobs among them that were live before: the suite waits for them, and does not cancel them."""
    to_come: int
    """Jobs of a large submission that are not stored yet."""
    missing: int
    """Jobs that never arrived because their submission ended half-way: the suite is cancelled,
    unless a job of it came to something worse.
    """
    tags: dict[str, str]
    live: int
    statuses: dict[str, int]
    verdicts: dict[str, int]
    created_at: datetime
    finished_at: datetime | None
    duration_s: float | None
    """From the submission to the end of the last job; None while one is live."""
    seq: int


class SuiteDetail(SuiteAnswer, frozen=True, kw_only=True):
    jobs: list[JobAnswer]
    next_cursor: str | None


class SuitePage(Struct, frozen=True, kw_only=True):
    suites: list[SuiteAnswer]
    next_cursor: str | None


class SuiteCancelAnswer(Struct, frozen=True, kw_only=True):
    suite_id: str
    cancelled: int
    """Ended at once: they were queued."""
    cancelling: int
    """Running: their agents were asked to stop them."""
    kept: int
    """They go on: another suite, or a submission outside of any suite, waits for them."""
    seq: int


class SettledAnswer(Struct, frozen=True, kw_only=True):
    """What became of a dead letter."""

    job_id: str
    new_job_id: str | None
    """The job that runs its work again; None: it was discarded, or nothing was done."""
    error: str | None
    """Why nothing was done."""
    status: int | None
    """409: its state did not allow it; 503: try again."""


class SettledList(Struct, frozen=True, kw_only=True):
    settled: int
    refused: int
    left: int
    """Dead letters that the filter finds and this call did not come to: call again."""
    dead_letters: list[SettledAnswer]


class PauseAnswer(Struct, frozen=True, kw_only=True):
    kind: Kind
    name: str
    paused: bool
    at: datetime
    until: datetime | None
    """When it ends by itself; None: when somebody resumes it."""
    by: str
    reason: str
    seq: int | None = None
    """Of the event that was written."""


class PauseList(Struct, frozen=True, kw_only=True):
    pauses: list[PauseAnswer]


class DrainAnswer(Struct, frozen=True, kw_only=True):
    agent: str
    seq: int


class PriorityAnswer(Struct, frozen=True, kw_only=True):
    job_id: str
    priority: int
    before: int
    seq: int


class PartitionAnswer(PartitionView, frozen=True, kw_only=True):
    pending_reason: PendingReason | None
    """Why no queued job of it can start; None when one may at any moment, when none is queued, or
    when nobody can tell.
    """


class PartitionList(Struct, frozen=True, kw_only=True):
    priority_order: str
    """`low-first`: priority 0 runs first; `high-first`: 9 does. Ranks are after this order: 0 runs
    first, always.
    """
    partitions: list[PartitionAnswer]


class AgentList(Struct, frozen=True, kw_only=True):
    agents: list[AgentInfo]


class Health(Struct, frozen=True, omit_defaults=True):
    status: str
    warnings: tuple[str, ...] = ()
    """What will become a problem, for those who send a token."""


def job_status_answer(job: JobView) -> JobStatusAnswer:
    return JobStatusAnswer(
        job_id=job.job_id,
        status=LEGACY_STATUS[job.status],
        test_path=job.test,
        app_version_id=job.app_version_id,
        created_at=job.created_at,
    )


def status_answer(job: JobView) -> StatusAnswer:
    return StatusAnswer(
        job_id=job.job_id,
        org_id=job.org_id,
        app_version_id=job.app_version_id,
        test_path=job.test,
        target=job.target,
        priority=job.priority,
        status=job.status,
        verdict=job.verdict,
        legacy_status=LEGACY_STATUS[job.status],
        created_at=job.created_at,
        retries=job.retries,
        max_retries=job.max_retries,
        reason=shortened(job.reason),
        seq=job.seq,
    )


def job_answer(job: JobView, around: Surroundings) -> JobAnswer:
    return JobAnswer(
        **_job_fields(job),
        legacy_status=LEGACY_STATUS[job.status],
        pending_reason=pending_reason(job, around),
    )


def job_detail(job: JobView, attempts: list[AttemptRecord], around: Surroundings) -> JobDetail:
    return JobDetail(**_fields(job_answer(job, around)), attempts=attempts)


def dead_answer(letter: DeadLetter) -> DeadAnswer:
    return DeadAnswer(
        **_job_fields(letter.job),
        legacy_status=LEGACY_STATUS[letter.job.status],
        pending_reason=None,
        settlement=letter.settlement,
    )


def dead_detail(letter: DeadLetter, attempts: list[AttemptRecord], output: list[str]) -> DeadDetail:
    return DeadDetail(**_fields(dead_answer(letter)), attempts=attempts, output=output)


def partition_answer(found: PartitionView, around: Surroundings) -> PartitionAnswer:
    partition = Partition(found.org_id, found.app_version_id, found.target)
    return PartitionAnswer(
        **_fields(found),
        pending_reason=partition_reason(partition, around) if found.queued else None,
    )


def event_answer(event: EventView) -> EventAnswer:
    return EventAnswer(
        seq=event.seq,
        at=event.at,
        type=event.type,
        job_id=event.job_id,
        legal=event.legal,
        event=_json_or_none(event.payload),
    )


def _json_or_none(payload: bytes) -> Any:
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def suite_answer(suite: SuiteView) -> SuiteAnswer:
    return SuiteAnswer(**_suite_fields(suite))


def suite_detail(suite: SuiteView, jobs: list[JobAnswer], next_cursor: str | None) -> SuiteDetail:
    return SuiteDetail(**_suite_fields(suite), jobs=jobs, next_cursor=next_cursor)


def _suite_fields(suite: SuiteView) -> dict[str, Any]:
    fields = _fields(suite)
    total = fields.pop("jobs")
    verdict = suite_verdict(suite)
    waiting = Status.QUEUED if suite.statuses.get(Status.QUEUED, 0) == total else Status.RUNNING
    duration_s = (
        None
        if suite.finished_at is None or verdict is None
        else max((suite.finished_at - suite.created_at).total_seconds(), 0.0)
    )
    return {
        **fields,
        "total": total,
        "duration_s": duration_s,
        "verdict": verdict,
        "status": waiting if verdict is None else status_of(verdict),
    }


def suite_verdict(suite: SuiteView) -> Verdict | None:
    """The verdict of the suite's worst job; None while one is live, or not stored yet."""
    if suite.live or suite.to_come:
        return None
    found = [verdict for verdict in Verdict if suite.verdicts.get(verdict)]
    return worst([*found, Verdict.CANCELLED] if suite.missing else found) or Verdict.CANCELLED


def suite_job(spec: JobSpec, answer: Submission | QgjetError) -> SuiteJobAnswer:
    fields: dict[str, Any] = {
        "org_id": spec.org_id,
        "app_version_id": spec.app_version_id,
        "target": spec.target,
        "test": spec.test,
    }
    if isinstance(answer, Submission):
        return SuiteJobAnswer(**fields, **_fields(answer))
    in_the_way = answer.job_id if isinstance(answer, DuplicateJob) else None
    error = Refusal(
        status=409 if isinstance(answer, Conflict) else 503, detail=str(answer), job_id=in_the_way
    )
    return SuiteJobAnswer(**fields, job_id=None, status=None, seq=None, error=error)


def _job_fields(job: JobView) -> dict[str, Any]:
    return {
        **_fields(job),
        "reason": shortened(job.reason),
        "message": shortened(job.message, MAX_MESSAGE),
    }


def _fields(struct: Struct) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}
