"""What the read model answers with, and how the answers are made from its rows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from qgjet.domain.events import Partition, Slot, Status, Verdict
from qgjet.domain.subjects import Lane
from qgjet_projections.readmodel.apply import Row
from qgjet_projections.readmodel.schema import instant

T = TypeVar("T")


class Page(Struct, Generic[T], frozen=True):
    items: list[T]
    next_cursor: str | None
    """Hand it back for the next page; None: this was the last one."""


class JobQuery(Struct, frozen=True, kw_only=True):
    """Which jobs; what is None is not asked for, what is given must all hold."""

    org_id: str | None = None
    app_version_id: str | None = None
    target: str | None = None
    test: str | None = None
    status: Status | None = None
    verdict: Verdict | None = None
    suite_id: str | None = None
    created: bool | None = None
    """With `suite_id`: only jobs that the suite created (True), or was attached to (False)."""
    tags: dict[str, str] = {}
    cursor: str | None = None
    limit: int = 100
    """1 to 500."""


class JobView(Struct, frozen=True, kw_only=True):
    job_id: str
    org_id: str
    app_version_id: str
    target: str
    test: str
    status: Status
    verdict: Verdict | None
    """None while the job is live."""
    priority: int
    rank: int
    attempt: int
    """The running attempt, or the last one; 0 before the first."""
    retries: int
    """Attempts that were not the first."""
    max_retries: int
    infra_retries: int
    retries_left: int
    infra_retries_left: int
    created_at: datetime
    """When it was submitted."""
    queued_at: datetime
    """When it last came into the queue."""
    pending_since: datetime | None
    """`queued_at` while it is queued."""
    started_at: datetime | None
    """Start of the running attempt, or of the last one."""
    finished_at: datetime | None
    retry_at: datetime | None
    duration_s: float | None
    """Of the last attempt that ended."""
    agent: str
    """The agent that runs it, or ran its last attempt."""
    reason: str
    """Why it is where it is: code of the last outcome, release, loss or cancel; `flaky` and
    `not_passed_again` after a retry; `replaced`.
    """
    message: str
    cancel_requested: bool
    submitted_by: str
    suite_ids: tuple[str, ...]
    tags: dict[str, str]
    execution_timeout_s: float | None
    queue_timeout_s: float | None
    request_hash: str
    rerun_of: str
    replaces: str
    replaced_by: str
    ticket: int
    seq: int
    """Sequence of the last event that concerns it."""
    submitted_seq: int


class EventView(Struct, frozen=True, kw_only=True):
    seq: int
    at: datetime | None
    """None when this version cannot read the event."""
    type: str
    job_id: str
    """The job that the slot was about; empty for none."""
    org_id: str
    legal: bool
    """False: it broke a rule, or this version cannot read it; it changed nothing."""
    payload: bytes
    """The message as it stands in the log: JSON, if its writer was one of ours."""

    def said(self) -> dict[str, Any]:
        """The message's fields; none when it is not one of ours."""
        try:
            return msgspec.json.decode(self.payload, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return {}


class SuiteView(Struct, frozen=True, kw_only=True):
    suite_id: str
    org_id: str
    jobs: int
    attached: int
    """Jobs among them that were live before the suite asked for them: it waits for them, and does
    not cancel them.
    """
    to_come: int
    """Jobs of a large submission that are not stored yet."""
    missing: int
    """Jobs that never arrived because their submission ended half-way."""
    tags: dict[str, str]
    """What the submissions said of it: commit, branch, CI run."""
    live: int
    """Jobs that are not finished yet; 0: the suite has its result."""
    statuses: dict[str, int]
    verdicts: dict[str, int]
    created_at: datetime
    finished_at: datetime | None
    """When its last job finished; None while one is live."""
    seq: int


class PartitionView(Struct, frozen=True, kw_only=True):
    org_id: str
    app_version_id: str
    target: str
    queued: int
    queued_by_rank: dict[int, int]
    running: int
    oldest_queued_at: datetime | None


class WaitingView(Struct, frozen=True, kw_only=True):
    """Queued jobs of a partition, for the reasons why they wait."""

    partition: Partition
    queued: int
    in_backoff: int
    """Of these: wait for their retry."""


class Rates(NamedTuple):
    runs: int
    """Jobs that said something about the app: all but infra_error, config_error, cancelled and
    skipped.
    """
    passed: float | None
    """Share of the runs that passed, flaky ones too; None without runs."""
    flaky: float | None


def rates_of(verdicts: Mapping[str, int]) -> Rates:
    """`verdicts`: how many jobs came to each."""
    flaky = verdicts.get(Verdict.FLAKY, 0)
    passed = verdicts.get(Verdict.PASSED, 0) + flaky
    runs = passed + verdicts.get(Verdict.FAILED, 0) + verdicts.get(Verdict.TIMED_OUT, 0)
    return Rates(runs, passed / runs, flaky / runs) if runs else Rates(0, None, None)


class HourView(Struct, frozen=True, kw_only=True):
    """Jobs that ended within an hour."""

    hour: datetime
    """When it began."""
    verdicts: dict[str, int]


class Order(StrEnum):
    """Which tests come first; by name where they are equal."""

    FAILING = "failing"
    """Lowest pass rate."""
    FLAKIEST = "flakiest"
    SLOWEST = "slowest"
    NAME = "name"


class TestQuery(Struct, frozen=True, kw_only=True):
    """Which tests, over which days."""

    __test__: ClassVar[bool] = False  # not for pytest

    org_id: str | None = None
    target: str | None = None
    test: str | None = None
    since: datetime
    """Whole days, UTC: the one that this lies in is the first."""
    order: Order = Order.NAME
    cursor: str | None = None
    limit: int = 1000


class TestView(Struct, frozen=True, kw_only=True):
    """How the jobs of one test went on one target."""

    __test__: ClassVar[bool] = False

    org_id: str
    target: str
    test: str
    runs: int
    """This and the shares: see `Rates`."""
    verdicts: dict[str, int]
    pass_rate: float | None
    flaky_rate: float | None
    mean_s: float | None
    """Of the last attempts of all jobs that have a duration."""


class TestDay(TestView, frozen=True, kw_only=True):
    day: datetime


class DeadQuery(Struct, frozen=True, kw_only=True):
    """Which dead letters; what is None is not asked for, what is given must all hold."""

    org_id: str | None = None
    app_version_id: str | None = None
    target: str | None = None
    test: str | None = None
    verdict: Verdict | None = None
    reason: str | None = None
    finished_before: datetime | None = None
    settled: bool = False
    """False: those that nobody has dealt with yet. True: the others."""
    cursor: str | None = None
    limit: int = 100
    """1 to 500."""


class Settlement(Struct, frozen=True, kw_only=True):
    """What was done about a dead letter."""

    how: str
    """`redriven` or `discarded`."""
    at: datetime
    by: str
    note: str
    """The id of the new job, or the reason that was given."""


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A job that ended without a statement about the app, for people to look at."""

    job: JobView
    settlement: Settlement | None
    """None: it waits for somebody."""


class Counts(Struct, frozen=True, kw_only=True):
    """For metrics: what is in the read model now. Pruned jobs leave the counts."""

    jobs: dict[tuple[str, Status], int]
    """(target, status) -> jobs"""
    finished: dict[tuple[str, Verdict], int]
    """(target, verdict) -> jobs"""
    attempts: dict[str, int]
    """target -> attempts started"""
    oldest_queued_at: dict[str, datetime]
    """target -> since when its longest waiting job waits"""
    dead_letters: dict[str, int]
    """target -> dead letters that nobody has dealt with"""


class LiveJob(Struct, frozen=True, kw_only=True):
    """A queued or running job, for maintenance."""

    job_id: str
    slot: Slot
    ticket: int
    rank: int
    agent: str
    """Empty unless running."""
    attempt: int
    changed_at: datetime
    """When the server stored the job's last event."""
    retry_at: datetime | None
    queue_timeout_s: float | None
    seq: int


class Activity(Struct, frozen=True, kw_only=True):
    """What is in the queue at one moment."""

    applied_seq: int
    """The log is applied up to here."""
    queued: list[Lane]
    """Partition queues with queued jobs, the one that has waited longest first."""
    running: list[LiveJob]
    """No more than agents have slots."""


class SlotHistory(Struct, frozen=True, kw_only=True):
    """A beginning of a slot's history that ends with the end of a job, for retention."""

    prefix: str
    """The slot's subject without the event."""
    job_id: str
    """The last job that belongs to it."""
    last_seq: int
    next_seq: int
    """Where the slot's next job begins; 0: there is none."""

    @property
    def cut(self) -> int:
        return self.next_seq or self.last_seq + 1


class EndedSuite(Struct, frozen=True, kw_only=True):
    """A suite of which no job is left, for retention."""

    org_id: str
    suite_id: str
    last_seq: int


class Duration(Struct, frozen=True, kw_only=True):
    """How long a test takes."""

    median_s: float
    last_s: float
    runs: int


def job_view(row: Row) -> JobView:
    status = Status(row.status)
    return JobView(
        job_id=row.job_id,
        org_id=row.org_id,
        app_version_id=row.app_version_id,
        target=row.target,
        test=row.test,
        status=status,
        verdict=None if row.verdict is None else Verdict(row.verdict),
        priority=row.priority,
        rank=row.rank,
        attempt=row.attempt,
        retries=max(row.attempt - 1, 0),
        max_retries=row.max_retries,
        infra_retries=row.infra_retries,
        retries_left=row.retries_left,
        infra_retries_left=row.infra_retries_left,
        created_at=instant(row.created_at),
        queued_at=instant(row.queued_at),
        pending_since=instant(row.queued_at) if status is Status.QUEUED else None,
        started_at=maybe_instant(row.started_at),
        finished_at=maybe_instant(row.finished_at),
        retry_at=maybe_instant(row.retry_at),
        duration_s=row.duration_s,
        agent=row.agent,
        reason=row.reason,
        message=row.message,
        cancel_requested=bool(row.cancel_requested),
        submitted_by=row.submitted_by,
        suite_ids=msgspec.json.decode(row.suite_ids, type=tuple[str, ...]),
        tags=msgspec.json.decode(row.tags, type=dict[str, str]),
        execution_timeout_s=row.execution_timeout_s,
        queue_timeout_s=row.queue_timeout_s,
        request_hash=row.request_hash,
        rerun_of=row.rerun_of,
        replaces=row.replaces,
        replaced_by=row.replaced_by,
        ticket=row.ticket,
        seq=row.seq,
        submitted_seq=row.submitted_seq,
    )


def maybe_instant(at: int | None) -> datetime | None:
    return None if at is None else instant(at)
