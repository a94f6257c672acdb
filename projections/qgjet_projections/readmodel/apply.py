"""What a stretch of the log does to the rows of the read model. Pure: rows in, rows out; `writer`
does the SQL.

The rules are those of `domain.job`: an event is checked against the slot's state before it, and a
row follows from the event alone, plus the times at which things happened. A row is written once per
batch, however many events it saw; any division of the log into batches gives the same rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct

from qgjet.domain import control, subjects, suite
from qgjet.domain.control import Discarded, Paused, Resumed
from qgjet.domain.events import (
    EVENT_TYPES,
    INCONCLUSIVE,
    TERMINAL,
    Attached,
    AttemptEnded,
    Cancelled,
    Event,
    Finished,
    JobSpec,
    Outcome,
    Requeued,
    Slot,
    Started,
    Status,
    Submitted,
    Verdict,
    event_type,
)
from qgjet.domain.job import Job, broken_rule, explanation_of, state_of
from qgjet.errors import UndecodableEvent
from qgjet.store.event_log import Recorded
from qgjet_projections.readmodel.schema import instant, micros

_INT64 = 2**63 - 1
HOUR = 3_600_000_000
DAY = 24 * HOUR
TEST_SUMS = ("jobs", *(verdict.value for verdict in Verdict), "timed", "duration_ms")
"""What is added up of a test's jobs: columns of `tests` and `test_days`."""
_LONGEST_S = 1e9
"""Nothing takes thirty years; what a stranger says must not overflow a sum."""
_SUITES = subjects.SUITE_PREFIX + "."
_CONTROLS = subjects.CONTROL_PREFIX + "."
_NAMES = {kind: event_type(kind) for kind in EVENT_TYPES}
_json = msgspec.json.Encoder(order="sorted")


class Row(Struct, gc=False):
    """A row of `jobs`, column by column."""

    submitted_seq: int
    job_id: str
    slot: str
    org_id: str
    app_version_id: str
    target: str
    test: str
    status: str
    verdict: str | None
    ticket: int
    seq: int
    priority: int
    rank: int
    attempt: int
    max_retries: int
    infra_retries: int
    retries_left: int
    infra_retries_left: int
    failures: int
    agent: str
    cancel_requested: int
    accepted_at: int
    changed_at: int
    created_at: int
    queued_at: int
    started_at: int | None
    finished_at: int | None
    retry_at: int | None
    duration_s: float | None
    execution_timeout_s: float | None
    queue_timeout_s: float | None
    replaces: str
    replaced_by: str
    rerun_of: str
    submitted_by: str
    request_hash: str
    reason: str
    suite_ids: str
    tags: str
    message: str


class Standing(Struct, gc=False):
    """The latest job of a slot: its row, and its state as the rules see it."""

    slot: Slot
    row: Row
    job: Job


def standing_of(row: Row) -> Standing:
    return Standing(Slot(row.org_id, row.app_version_id, row.target, row.test), row, _job_of(row))


class _Before(Struct, frozen=True):
    """What a row said before the batch, as far as other tables repeat it."""

    status: str
    verdict: str | None
    attempt: int
    suite_ids: tuple[str, ...]


_NOTHING = _Before("", None, 0, ())


def _state_of(event: Event, seq: int) -> Job:
    """The state as a row holds it: no rule depends on the test cases that failed, which may be
    many.
    """
    job = state_of(event, seq)
    if job.first_failure is None and not job.unresolved and not job.unresolved_omitted:
        return job
    return msgspec.structs.replace(job, unresolved=(), unresolved_omitted=0, first_failure=None)


def _job_of(row: Row) -> Job:
    """The state that a row was written from."""
    return Job(
        job_id=row.job_id,
        status=Status(row.status),
        verdict=None if row.verdict is None else Verdict(row.verdict),
        ticket=row.ticket,
        version=row.seq,
        attempt=row.attempt,
        retries_left=row.retries_left,
        infra_retries_left=row.infra_retries_left,
        failures=row.failures,
        suite_ids=tuple(msgspec.json.decode(row.suite_ids, type=list[str])),
        agent=row.agent if row.status == Status.RUNNING else "",
        cancel_requested=bool(row.cancel_requested),
        retry_at=None if row.retry_at is None else instant(row.retry_at),
    )


def slot_key(subject: str) -> str | None:
    """The part of a job's subject before the event: all that a slot's expected version covers. None
    for another subject.
    """
    tokens = subject.split(".", 6)
    return ".".join(tokens[:6]) if len(tokens) == 7 and tokens[:2] == ["qg", "job"] else None


def _slot_of(key: str) -> Slot | None:
    """The slot in clear; None when somebody else's subject holds tokens that are none of ours."""
    try:
        return Slot(*map(_in_clear, key.split(".")[2:]))
    except UnicodeDecodeError:
        return None


@lru_cache(maxsize=16_384)
def _in_clear(token: str) -> str:
    """Lone surrogates, which subjects can hold and SQLite cannot, become `\\udc80`."""
    return subjects.decode_token(token).encode("utf-8", "backslashreplace").decode()


class Batch:
    """Add messages in the order of the log, then write what `events`, `rows` and the changes say."""

    def __init__(self, standings: dict[str, Standing]) -> None:
        """`standings` must know the latest job of every slot that the batch is about; it is kept up
        to date.
        """
        self.events: list[tuple[Any, ...]] = []
        self.new_tags: list[tuple[str, str, int]] = []
        self.openings: list[tuple[int, str, str, str, int, int, int, int, str]] = []
        self.attached: list[tuple[str, str, str, int]] = []
        """(suite id, org, job id, before which sequence it was submitted)"""
        self.decisions: list[tuple[str, tuple[Any, ...]]] = []
        """What becomes of dead letters and pauses, in the order of the log: name of the step, its
        values.
        """
        self.strangers: set[str] = set()
        """Names of events that this version cannot read."""
        self._standings = standings
        self._changed: dict[int, Row] = {}
        self._before: dict[int, _Before] = {}
        self._suite_ids: dict[int, tuple[str, ...]] = {}

    def add(self, one: Recorded, key: str | None) -> None:
        """`key`: what `slot_key` says of its subject."""
        if key is None and one.subject.startswith(_SUITES):
            self._open_suite(one)
            return
        if key is None and one.subject.startswith(_CONTROLS):
            self._decide(one)
            return
        standing = None if key is None else self._standings.get(key)
        slot = standing.slot if standing is not None else None if key is None else _slot_of(key)
        event = one.event
        if key is None or slot is None or event is None:
            self._keep_stranger(one, standing, slot)
            return
        at = micros(event.at)
        legal = broken_rule(standing.job if standing else None, event) is None and _countable(event)
        if not legal:
            self._touch_version(standing, one)
        elif isinstance(event, Submitted):
            standing = self._open(key, slot, standing, event, one)
        else:
            assert standing is not None
            self._move(standing, event, one)
        self._keep(one, _NAMES[type(event)], at, standing, slot, legal)

    def _open_suite(self, one: Recorded) -> None:
        try:
            event = suite.decode(one.data)
        except UndecodableEvent:
            self._keep_stranger(one, None, None)
            return
        at = micros(event.at)
        legal = (
            one.subject == f"{suite.suite_prefix(event.org_id, event.suite_id)}.{suite.OPENED}"
            and 0 <= event.to_come <= _INT64
            and event.missing >= 0
        )
        if legal:
            tags = _json.encode(event.tags).decode()
            self.openings.append(
                (
                    one.seq,
                    event.suite_id,
                    event.org_id,
                    event.submission,
                    at,
                    one.stored_at,
                    event.to_come,
                    event.missing,
                    tags,
                )
            )
            self.attached += [
                (event.suite_id, event.org_id, member.job_id, one.seq)
                for member in event.jobs
                if member.attached
            ]
        self.events.append((one.seq, at, suite.OPENED, 0, event.org_id, int(legal), one.data))

    def _decide(self, one: Recorded) -> None:
        try:
            event = control.decode(one.data)
        except UndecodableEvent:
            self._keep_stranger(one, None, None)
            return
        at = micros(event.at)
        org_id = (
            event.org_id
            if isinstance(event, Discarded)
            else event.name
            if event.kind is control.Kind.ORG
            else ""
        )
        legal = control.is_about(event, one.subject)
        self.events.append((one.seq, at, event_type(event), 0, org_id, int(legal), one.data))
        if not legal:
            return
        match event:
            case Paused():
                until = None if event.until is None else micros(event.until)
                self.decisions.append(
                    ("pause", (event.kind, event.name, at, until, event.reason, event.by, one.seq))
                )
            case Resumed():
                self.decisions.append(("resume", (event.kind, event.name)))
            case Discarded():
                self.decisions.append(
                    (
                        "settle",
                        (
                            "discarded",
                            at,
                            event.by,
                            event.reason,
                            event.name,
                            one.seq,
                            event.org_id,
                        ),
                    )
                )

    def _keep_stranger(self, one: Recorded, standing: Standing | None, slot: Slot | None) -> None:
        """Nothing is known about it but its subject."""
        tokens = one.subject.split(".")
        name = tokens[-1] if slot is None else tokens[6]
        self.strangers.add(name)
        self._touch_version(standing, one)
        self._keep(one, name, None, standing, slot, legal=False)

    def _keep(
        self,
        one: Recorded,
        name: str,
        at: int | None,
        standing: Standing | None,
        slot: Slot | None,
        legal: bool,
    ) -> None:
        """The history of a slot belongs to the job that it is about at the time."""
        submitted_seq = 0 if standing is None else standing.row.submitted_seq
        org_id = "" if slot is None else slot.org_id
        self.events.append((one.seq, at, name, submitted_seq, org_id, int(legal), one.data))

    def _touch_version(self, standing: Standing | None, one: Recorded) -> None:
        """What the slot's next append expects moves on, nothing else does."""
        if standing is not None:
            self._remember(standing)
            standing.row.seq, standing.row.changed_at = one.seq, one.stored_at
            standing.job = msgspec.structs.replace(standing.job, version=one.seq)

    def _open(
        self, key: str, slot: Slot, previous: Standing | None, event: Submitted, one: Recorded
    ) -> Standing:
        seq, at = one.seq, micros(event.at)
        if previous is not None and previous.job.live:
            self._end_replaced(previous, event, one)
        row = _new_row(key, slot, event, one)
        self._standings[key] = opened = Standing(slot, row, _state_of(event, seq))
        self._changed[seq], self._before[seq], self._suite_ids[seq] = row, _NOTHING, event.suite_ids
        self.new_tags += [(tag, value, seq) for tag, value in event.spec.tags.items()]
        if event.spec.rerun_of:
            self.decisions.append(
                (
                    "settle",
                    ("redriven", at, event.by, event.job_id, event.spec.rerun_of, seq, slot.org_id),
                )
            )
        return opened

    def _end_replaced(self, standing: Standing, event: Submitted, one: Recorded) -> None:
        self._remember(standing)
        row = standing.row
        row.status, row.verdict, row.finished_at, row.retry_at = (
            Status.CANCELLED.value,
            Verdict.CANCELLED.value,
            micros(event.at),
            None,
        )
        row.reason, row.message, row.replaced_by, row.seq, row.changed_at = (
            "replaced",
            "",
            event.job_id,
            one.seq,
            one.stored_at,
        )

    def _move(self, standing: Standing, event: Event, one: Recorded) -> None:
        self._remember(standing)
        row, was_running, at = standing.row, standing.job.status is Status.RUNNING, micros(event.at)
        if event.suite_ids != standing.job.suite_ids:
            self._suite_ids[row.submitted_seq] = event.suite_ids
            row.suite_ids = _list(event.suite_ids)
        standing.job = job = _state_of(event, one.seq)
        _carry(row, job)
        row.changed_at = one.stored_at
        if isinstance(event, Attached):
            self._merge(row, event.tags, event.queue_timeout_s)
        elif isinstance(event, Requeued):
            self._merge(row, event.spec.tags, event.spec.queue_timeout_s)
        if job.execution_timeout_s is not None:
            row.execution_timeout_s = job.execution_timeout_s
        _explain(row, event, at, was_running)
        if job.status in TERMINAL:
            row.finished_at = at
            if job.verdict in INCONCLUSIVE:
                self.decisions.append(("die", (row.submitted_seq, row.org_id, row.target)))
        elif was_running and job.status is Status.QUEUED:
            row.queued_at = at

    def _merge(self, row: Row, tags: dict[str, str], queue_timeout_s: float | None) -> None:
        """What another submission brings that joins the job. What the job has stays."""
        known = msgspec.json.decode(row.tags, type=dict[str, str])
        if tags.keys() - known.keys():
            self.new_tags += [
                (tag, value, row.submitted_seq) for tag, value in tags.items() if tag not in known
            ]
            row.tags = _json.encode(tags | known).decode()
        if queue_timeout_s is not None:
            row.queue_timeout_s = min(queue_timeout_s, row.queue_timeout_s or queue_timeout_s)

    def _remember(self, standing: Standing) -> None:
        row = standing.row
        if row.submitted_seq not in self._changed:
            self._changed[row.submitted_seq] = row
            self._before[row.submitted_seq] = _Before(
                row.status, row.verdict, row.attempt, standing.job.suite_ids
            )

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The new and the changed rows of `jobs`."""
        return map(msgspec.structs.astuple, self._changed.values())

    def suite_changes(self) -> tuple[list[tuple[str, str, int]], list[tuple[str, str, int]]]:
        """Rows of `suite_jobs` that come, and rows that go."""
        come, go = [], []
        for seq, suite_ids in self._suite_ids.items():
            before, after, org_id = (
                set(self._before[seq].suite_ids),
                set(suite_ids),
                self._changed[seq].org_id,
            )
            come += [(suite_id, org_id, seq) for suite_id in after - before]
            go += [(suite_id, org_id, seq) for suite_id in before - after]
        return come, go

    def tally_changes(self) -> list[tuple[str, str, str, int, int]]:
        """(target, status, verdict, jobs more, attempts more), never zero in both."""
        changes: dict[tuple[str, str, str], list[int]] = {}
        for seq, row in self._changed.items():
            before = self._before[seq]
            if before is not _NOTHING:
                _count(
                    changes, (row.target, before.status, before.verdict or ""), -1, -before.attempt
                )
            _count(changes, (row.target, row.status, row.verdict or ""), 1, row.attempt)
        return [
            (*key, jobs, attempts) for key, (jobs, attempts) in changes.items() if jobs or attempts
        ]

    def finished(self) -> list[Ended]:
        """The jobs that have ended in this batch."""
        return [
            Ended(
                row.finished_at, row.org_id, row.target, row.test, row.verdict or "", row.duration_s
            )
            for seq, row in self._changed.items()
            if row.finished_at is not None and self._before[seq].status not in TERMINAL
        ]


class Ended(Struct, frozen=True):
    """What statistics count of a job that has ended."""

    finished_at: int
    org_id: str
    target: str
    test: str
    verdict: str
    duration_s: float | None


def statistics_of(
    ended: Iterable[Ended], sign: int
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Additions to `hours`, and to what is known of tests by day, in the order of TEST_SUMS; added
    up by their keys.

    `sign` is -1 for jobs that are pruned. Whole milliseconds add up in any order.
    """
    hours: dict[tuple[Any, ...], int] = {}
    days: dict[tuple[Any, ...], dict[str, int]] = {}
    for one in ended:
        at = max(one.finished_at, 0)
        hour = (at // HOUR, one.org_id, one.target, one.verdict)
        hours[hour] = hours.get(hour, 0) + sign
        sums = days.setdefault(
            (one.test, one.target, one.org_id, at // DAY), dict.fromkeys(TEST_SUMS, 0)
        )
        sums["jobs"] += sign
        sums[one.verdict] += sign
        if one.duration_s is not None:
            sums["timed"] += sign
            sums["duration_ms"] += sign * round(min(max(one.duration_s, 0.0), _LONGEST_S) * 1000)
    return [(*key, jobs) for key, jobs in hours.items()], [
        (*key, *sums.values()) for key, sums in days.items()
    ]


def _count(
    changes: dict[tuple[str, str, str], list[int]],
    key: tuple[str, str, str],
    jobs: int,
    attempts: int,
) -> None:
    entry = changes.setdefault(key, [0, 0])
    entry[0] += jobs
    entry[1] += attempts


def _new_row(key: str, slot: Slot, event: Submitted, one: Recorded) -> Row:
    spec, seq = event.spec, one.seq
    return Row(
        submitted_seq=seq,
        job_id=event.job_id,
        slot=key,
        org_id=slot.org_id,
        app_version_id=slot.app_version_id,
        target=slot.target,
        test=slot.test,
        status=Status.QUEUED.value,
        verdict=None,
        ticket=seq,
        seq=seq,
        priority=spec.priority,
        rank=spec.rank,
        attempt=0,
        max_retries=spec.max_retries,
        infra_retries=spec.infra_retries,
        retries_left=event.retries_left,
        infra_retries_left=event.infra_retries_left,
        failures=0,
        agent="",
        cancel_requested=0,
        accepted_at=one.stored_at,
        changed_at=one.stored_at,
        created_at=micros(spec.submitted_at),
        queued_at=micros(event.at),
        started_at=None,
        finished_at=None,
        retry_at=None,
        duration_s=None,
        execution_timeout_s=spec.execution_timeout_s,
        queue_timeout_s=spec.queue_timeout_s,
        replaces=event.replaces,
        replaced_by="",
        rerun_of=spec.rerun_of,
        submitted_by=spec.submitted_by,
        request_hash=spec.request_hash,
        reason="",
        suite_ids=_list(event.suite_ids),
        tags=_json.encode(spec.tags).decode(),
        message="",
    )


def _carry(row: Row, job: Job) -> None:
    """What every event says."""
    row.status, row.verdict = job.status.value, None if job.verdict is None else job.verdict.value
    row.ticket, row.seq, row.attempt = job.ticket, job.version, job.attempt
    row.retries_left, row.infra_retries_left, row.failures = (
        job.retries_left,
        job.infra_retries_left,
        job.failures,
    )
    row.cancel_requested = int(job.cancel_requested)
    row.retry_at = None if job.retry_at is None else micros(job.retry_at)


def _explain(row: Row, event: Event, at: int, was_running: bool) -> None:
    """What this type of event says beyond that."""
    explanation = explanation_of(event)
    if explanation is not None:
        row.reason, row.message = explanation
    match event:
        case Started():
            row.agent, row.started_at = event.agent, at
        case (
            AttemptEnded(outcome=outcome)
            | Finished(outcome=outcome)
            | Cancelled(outcome=Outcome() as outcome)
        ):
            if was_running and row.started_at is not None:
                row.duration_s = outcome.duration_s or max(at - row.started_at, 0) / 1e6
        case Requeued():
            _respecify(row, event.spec)


def _respecify(row: Row, spec: JobSpec) -> None:
    row.priority, row.rank = spec.priority, spec.rank
    row.max_retries, row.infra_retries = spec.max_retries, spec.infra_retries
    row.execution_timeout_s, row.queue_timeout_s = spec.execution_timeout_s, spec.queue_timeout_s


def _countable(event: Event) -> bool:
    """Whether SQLite can hold the numbers of a legal event. The rules bind those of a step, except
    `failures`; no writer of ours makes larger ones.
    """
    if not isinstance(event, Submitted | Requeued):
        return event.failures <= _INT64
    spec = event.spec
    numbers = (
        event.retries_left,
        event.infra_retries_left,
        spec.priority,
        spec.rank,
        spec.max_retries,
        spec.infra_retries,
    )
    return min(numbers) >= -_INT64 and max(numbers) <= _INT64


@lru_cache(maxsize=4_096)
def _list(values: tuple[str, ...]) -> str:
    return _json.encode(values).decode()
