"""Suites on the event log: all jobs of a submission in one atomic batch with the suite's own event,
or none of them.

The batch is written on the versions of all slots that were read, as a single append is. JetStream
does not say which message a refused batch failed on: all slots are read again and everything is
decided anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from itertools import chain
from typing import TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from qgjet.domain import codec, subjects
from qgjet.domain.decide import OnDuplicate, Submit, decide
from qgjet.domain.events import Event, JobSpec, Requeued, Slot, Submitted, event_type
from qgjet.domain.job import Job
from qgjet.domain.suite import (
    MAX_BATCH,
    MAX_EVENT_BYTES,
    OPENED,
    Member,
    SuiteOpened,
    decode,
    encode,
    member_of,
    suite_prefix,
)
from qgjet.errors import (
    Conflict,
    DuplicateJob,
    NatsUnavailable,
    StoreFull,
    UndecodableEvent,
    VersionConflict,
)
from qgjet.jetstream.connection import JetStreamError, read_ack, refusal
from qgjet.store.event_log import Accepted, EventLog, give_up_race

T = TypeVar("T")
SUBMIT_TIMEOUT_S = 30.0
READ_WINDOW = 256
_LOST_RACE = frozenset({10071, 10164})
_NOT_NOW = frozenset({10176, 10209, 10210, 10211})
"""Batches that the server gave up, or has too many of: sent again they may pass."""


class Submission(Struct, frozen=True, kw_only=True):
    """Jobs to be put into the queue together, as one suite."""

    suite_id: str
    id: str
    """The same for a repeated submission."""
    specs: Sequence[JobSpec]
    """Several orgs are possible: each gets a suite of this id."""
    modes: Sequence[OnDuplicate]
    """One per job."""
    by: str = ""
    request_hash: str = ""
    tags: dict[str, str] = {}
    to_come: int = 0
    """Jobs of the same submission that later calls bring. They are of one org."""


class SubmissionRejected(Conflict):
    """Some of the jobs cannot be accepted, so none was. `errors`: position -> why."""

    def __init__(self, errors: dict[int, DuplicateJob], jobs: int) -> None:
        first = next(iter(errors.values()))
        super().__init__(f"{len(errors)} of {jobs} jobs cannot be accepted, so none was: {first}")
        self.errors = errors


class IdempotencyKeyReused(Conflict):
    """The submission's id belongs to another request."""


class _Decided(Struct):
    """What a stretch of a submission comes to, on the versions that were read."""

    accepted: dict[int, Accepted]
    """Attached, or submitted already."""
    created: list[tuple[int, Submitted, int]]
    """(position, event, version that the slot must have)"""
    joined: list[tuple[Slot, Event, int]]
    """Events of jobs that it is attached to."""


class _Message(Struct, frozen=True):
    subject: str
    payload: bytes
    fence: str
    expected: int


async def submit_suite(
    log: EventLog, submission: Submission, *, timeout_s: float = SUBMIT_TIMEOUT_S
) -> list[Accepted]:
    """Submit all jobs or none; one answer each, in order. A second call with the same ids finds
    what the first one wrote.

    Two jobs of one slot become one: the second is attached to the first. More jobs than a batch
    holds go in several, one after the other: a refusal of a later one cancels what was created.

    Raises SubmissionRejected, with nothing left in the queue; IdempotencyKeyReused; and
    NatsUnavailable, after which the jobs may be there.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    answers: dict[int, Accepted] = {}
    stretches = _stretches(submission)
    for number, stretch in enumerate(stretches):
        to_come = _to_come(submission, stretches[number + 1 :])
        try:
            answers |= await _submit(log, submission, stretch, to_come, deadline)
        except SubmissionRejected:
            await _take_back(log, submission, answers)
            raise
    return [answers[position] for position in range(len(submission.specs))]


async def claim_key(log: EventLog, org_id: str, key_id: str, request_hash: str, *, by: str) -> None:
    """Bind an idempotency key to one request, before its jobs are submitted: jobs of another slot
    would not meet those of the first one.

    `key_id` is what the key stands for (`idempotent_id`). A second call with the same hash writes
    nothing. The claim is a suite of its own without jobs, which no list shows. Raises
    IdempotencyKeyReused when the key belongs to another request, and NatsUnavailable.
    """
    suite_id = f"key-{key_id}"
    claim = SuiteOpened(
        suite_id=suite_id,
        org_id=org_id,
        at=log.clock(),
        by=by,
        submission=key_id,
        request_hash=request_hash,
        jobs=(),
    )
    while True:
        last = await log.last_of(f"{suite_prefix(org_id, suite_id)}.>")
        if last is not None:
            if decode(last.data).request_hash != request_hash:
                raise IdempotencyKeyReused(
                    "this idempotency key belongs to another request: choose another key, or send the same request"
                )
            return
        with contextlib.suppress(VersionConflict):
            await _append_all(log, [_suite_message(claim, 0)])
            return


async def announce(log: EventLog, submission: Submission, to_come: Counter[str]) -> None:
    """Record how many jobs of a submission are to follow, by org. For jobs that are submitted one
    by one: without it a part of them looks complete.

    The submission is complete once 0 is recorded; the janitor closes it otherwise. Raises
    NatsUnavailable.
    """
    for org_id in _by_org(submission, range(len(submission.specs))):
        event = _opening(log, submission, org_id, (), to_come[org_id])
        while True:
            last = await log.last_of(f"{suite_prefix(org_id, submission.suite_id)}.>")
            with contextlib.suppress(VersionConflict):
                await _append_all(log, [_suite_message(event, last.seq if last else 0)])
                break


def _stretches(submission: Submission) -> list[list[int]]:
    """Positions that fit into one batch each, with an event per org that names them."""
    orgs = len({spec.org_id for spec in submission.specs})
    size = max(MAX_BATCH - orgs, 1)
    longest = max((len(_member_bytes(spec)) for spec in submission.specs), default=1)
    size = max(
        1, min(size, (MAX_EVENT_BYTES - len(msgspec.json.encode(submission.tags))) // longest)
    )
    positions = list(
        chain.from_iterable(_by_org(submission, range(len(submission.specs))).values())
    )
    return [positions[start : start + size] for start in range(0, len(positions), size)]


def _member_bytes(spec: JobSpec) -> bytes:
    """What a job takes in the suite's event, at most."""
    return msgspec.json.encode(member_of(spec, spec.job_id, attached=True, seq=2**63 - 1)) + b","


async def _take_back(log: EventLog, submission: Submission, answers: dict[int, Accepted]) -> None:
    for position, accepted in answers.items():
        slot, reason = submission.specs[position].slot, "the rest of its suite was refused"
        await log.cancel(
            slot, accepted.job_id, by=submission.by, reason=reason, suite_id=submission.suite_id
        )


def _to_come(submission: Submission, later: Sequence[Sequence[int]]) -> Counter[str]:
    """Org -> jobs that are to follow. Each org's suite is complete on its own: the last stretch
    need not hold jobs of all of them.
    """
    following = Counter(
        submission.specs[position].org_id for stretch in later for position in stretch
    )
    return following + Counter({spec.org_id: submission.to_come for spec in submission.specs})


async def _submit(
    log: EventLog,
    submission: Submission,
    stretch: Sequence[int],
    to_come: Counter[str],
    deadline: float,
) -> dict[int, Accepted]:
    while True:
        try:
            earlier = await _earlier(log, submission, stretch)
            if earlier is not None:
                return earlier
            decided = await _decide(log, submission, stretch)
            return decided.accepted | await _write(log, submission, stretch, to_come, decided)
        except VersionConflict as race:
            give_up_race(deadline, race)
            continue
        except StoreFull:
            raise
        except JetStreamError as error:
            if error.error.err_code not in _NOT_NOW:
                raise
            problem: NatsUnavailable = error
        except NatsUnavailable as lost:
            problem = lost
        await log.pause(deadline, problem)


async def _earlier(
    log: EventLog, submission: Submission, stretch: Sequence[int]
) -> dict[int, Accepted] | None:
    """What this submission has come to already: its answer was lost, or it is repeated. None when
    it is new.
    """
    found: list[tuple[int, SuiteOpened]] = []
    for org_id, wanted in _by_org(submission, stretch).items():
        slots = {submission.specs[position].slot for position in wanted}
        async for seq, event in openings(log, org_id, submission.suite_id):
            if event.submission == submission.id and event.request_hash != submission.request_hash:
                raise IdempotencyKeyReused(
                    f"suite {submission.suite_id} was opened by another request under the same key"
                )
            if event.submission == submission.id and slots == set(map(event.slot_of, event.jobs)):
                found.append((seq, event))
    if len(found) != len(_by_org(submission, stretch)):
        return None
    known = _told(found)
    return {position: known[submission.specs[position].slot].pop(0) for position in stretch}


def _told(found: list[tuple[int, SuiteOpened]]) -> dict[Slot, list[Accepted]]:
    """The answers that one batch's events stand for, in the order of the batch."""
    found.sort(key=lambda one: one[0])
    last_seq = found[-1][0]
    seq = found[0][0] - sum(not member.attached for _, event in found for member in event.jobs)
    known: dict[Slot, list[Accepted]] = {}
    for _, event in found:
        for member in event.jobs:
            answer = Accepted(
                job_id=member.job_id,
                seq=(member.seq or last_seq) if member.attached else seq,
                attached=member.attached,
            )
            seq += not member.attached
            known.setdefault(event.slot_of(member), []).append(answer)
    return known


def _by_org(submission: Submission, positions: Iterable[int]) -> dict[str, list[int]]:
    orgs: dict[str, list[int]] = {}
    for position in positions:
        orgs.setdefault(submission.specs[position].org_id, []).append(position)
    return orgs


async def _decide(log: EventLog, submission: Submission, stretch: Sequence[int]) -> _Decided:
    slots = list(dict.fromkeys(submission.specs[position].slot for position in stretch))
    states = dict(zip(slots, await _read_all([log.read(slot) for slot in slots]), strict=True))
    decided = _Decided(accepted={}, created=[], joined=[])
    joins: list[tuple[JobSpec, Job, int]] = []
    errors: dict[int, DuplicateJob] = {}
    taken: dict[Slot, str] = {}
    for position in stretch:
        spec, (job, version) = submission.specs[position], states[submission.specs[position].slot]
        if spec.slot in taken:
            decided.accepted[position] = Accepted(job_id=taken[spec.slot], seq=0, attached=True)
        elif job is not None and job.job_id == spec.job_id:
            decided.accepted[position] = Accepted(job_id=job.job_id, seq=job.version)
        else:
            try:
                event = decide(Submit(spec, submission.modes[position]), job, log.clock())
                assert isinstance(event, Submitted)
                decided.created.append((position, event, version))
                taken[spec.slot] = spec.job_id
            except DuplicateJob as duplicate:
                assert job is not None
                decided.accepted[position] = Accepted(
                    job_id=job.job_id, seq=job.version, attached=True, status=job.status
                )
                if submission.modes[position] is OnDuplicate.REJECT:
                    errors[position] = duplicate
                else:
                    joins.append((spec, job, version))
    if errors:
        raise SubmissionRejected(errors, len(submission.specs))
    events = await _read_all([log.attachment(spec, job) for spec, job, _ in joins])
    decided.joined += [
        (spec.slot, event, version)
        for (spec, _, version), event in zip(joins, events, strict=True)
        if event is not None
    ]
    return decided


async def _read_all(reads: Sequence[Awaitable[T]]) -> list[T]:
    gate = asyncio.Semaphore(READ_WINDOW)

    async def one(read: Awaitable[T]) -> T:
        async with gate:
            return await read

    return await asyncio.gather(*map(one, reads))


async def _write(
    log: EventLog,
    submission: Submission,
    stretch: Sequence[int],
    to_come: Counter[str],
    decided: _Decided,
) -> dict[int, Accepted]:
    """Append what is decided, with the suite's own events last. Raises VersionConflict when a slot
    has moved on.
    """
    opened = _opened(log, submission, stretch, to_come, decided)
    # those of jobs that were there first: the created ones and the suite's own are found by their
    # distance
    messages = [_job_message(slot, event, expected) for slot, event, expected in decided.joined]
    messages += [
        _job_message(event.spec.slot, event, expected) for _, event, expected in decided.created
    ]
    for event in opened:
        last = await log.last_of(f"{suite_prefix(event.org_id, event.suite_id)}.>")
        messages.append(_suite_message(event, last.seq if last else 0))
    last_seq = await _append_all(log, messages)
    first_seq = last_seq - len(messages) + 1 + len(decided.joined)
    written = {
        position: Accepted(job_id=event.job_id, seq=first_seq + number, replaced=event.replaces)
        for number, (position, event, _) in enumerate(decided.created)
    }
    twice = {
        position: replace(accepted, seq=last_seq)
        for position, accepted in decided.accepted.items()
        if not accepted.seq
    }
    return written | twice


def _opened(
    log: EventLog,
    submission: Submission,
    stretch: Sequence[int],
    to_come: Counter[str],
    decided: _Decided,
) -> list[SuiteOpened]:
    """One event per org."""

    def member(position: int) -> Member:
        spec, accepted = submission.specs[position], decided.accepted.get(position)
        if accepted is None:
            return member_of(spec, spec.job_id)
        return member_of(spec, accepted.job_id, attached=accepted.attached, seq=accepted.seq)

    return [
        _opening(log, submission, org_id, tuple(map(member, positions)), to_come[org_id])
        for org_id, positions in _by_org(submission, stretch).items()
    ]


def _opening(
    log: EventLog, submission: Submission, org_id: str, jobs: tuple[Member, ...], to_come: int
) -> SuiteOpened:
    return SuiteOpened(
        suite_id=submission.suite_id,
        org_id=org_id,
        at=log.clock(),
        by=submission.by,
        submission=submission.id,
        request_hash=submission.request_hash,
        jobs=jobs,
        to_come=to_come,
        tags=submission.tags,
    )


async def abandon(
    log: EventLog, org_id: str, suite_id: str, submission_id: str, *, by: str
) -> bool:
    """Close a submission whose rest never came: cancel what it created, and record in the suite how
    many jobs are missing.

    Returns False when there is nothing to close. Twice is harmless. A client that goes on after
    that completes the submission.
    """
    last = await log.last_of(f"{suite_prefix(org_id, suite_id)}.>")
    events = [
        event
        async for _, event in openings(log, org_id, suite_id)
        if event.submission == submission_id
    ]
    if not events or not events[-1].to_come:
        return False
    for event in events:
        for member in event.jobs:
            await log.cancel(
                event.slot_of(member),
                member.job_id,
                by=by,
                reason="the rest of its suite never came",
                suite_id=suite_id,
            )
    closing = replace(
        events[-1], at=log.clock(), by=by, jobs=(), to_come=0, missing=events[-1].to_come
    )
    with contextlib.suppress(
        VersionConflict
    ):  # the suite has moved on since it was read: the next round decides again
        await _append_all(log, [_suite_message(closing, last.seq if last else 0)])
    return True


async def openings(
    log: EventLog, org_id: str, suite_id: str
) -> AsyncIterator[tuple[int, SuiteOpened]]:
    """The suite's events that this version can read, oldest first, with their sequences; from the
    stream's leader.
    """
    suite_filter, seq = f"{suite_prefix(org_id, suite_id)}.>", 1
    while (one := await log.next_of(suite_filter, seq)) is not None:
        with contextlib.suppress(UndecodableEvent):
            yield one.seq, decode(one.data)
        seq = one.seq + 1


def _suite_message(event: SuiteOpened, expected: int) -> _Message:
    prefix = suite_prefix(event.org_id, event.suite_id)
    return _Message(f"{prefix}.{OPENED}", encode(event), f"{prefix}.>", expected)


def _job_message(slot: Slot, event: Event, expected: int) -> _Message:
    prefix = subjects.slot_prefix(slot)
    rank = event.spec.rank if isinstance(event, Submitted | Requeued) else None
    return _Message(
        subjects.event_subject(prefix, event_type(event), rank),
        codec.encode(event),
        f"{prefix}.>",
        expected,
    )


async def _append_all(log: EventLog, messages: Sequence[_Message]) -> int:
    """One atomic batch; gives the sequence of its last message. Only the last one is answered."""
    batch_id = uuid.uuid4().hex
    for number, message in enumerate(messages[:-1], 1):
        await log.connection.publish(
            message.subject, message.payload, headers=_headers(message, batch_id, number)
        )
    last = messages[-1]
    headers = _headers(last, batch_id, len(messages)) | {"Nats-Batch-Commit": "1"}
    ack = read_ack(await log.connection.request(last.subject, last.payload, headers=headers))
    if ack.error is None and ack.seq:
        log.connection.store_full = False
        return ack.seq
    if ack.error is None:
        raise NatsUnavailable("the event log does not accept events: no stream")
    if ack.error.err_code in _LOST_RACE:
        raise VersionConflict("a slot of the suite has moved on")
    problem = refusal("the event log", ack.error)
    log.connection.store_full = isinstance(problem, StoreFull)
    if ack.error.code == 503 and isinstance(problem, JetStreamError):
        raise NatsUnavailable(f"the event log does not accept events: {ack.error.description}")
    raise problem


def _headers(message: _Message, batch_id: str, number: int) -> dict[str, str]:
    return {
        "Nats-Expected-Last-Subject-Sequence": str(message.expected),
        "Nats-Expected-Last-Subject-Sequence-Subject": message.fence,
        "Nats-Batch-Id": batch_id,
        "Nats-Batch-Sequence": str(number),
    }
