"""What the API does to the log: submit, cancel, rerun. Each is an append on a version, so replicas
and other writers cannot get in each other's way.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any
from weakref import WeakValueDictionary

from msgspec.structs import replace

from qgjet.domain.decide import OnDuplicate
from qgjet.domain.events import PASSING, JobSpec, Slot, Status, Verdict
from qgjet.domain.submission import (
    SubmitRequest,
    SuiteJob,
    SuiteRequest,
    check_suite_id,
    hash_of,
    idempotent_id,
    jobs_of,
    make_spec,
)
from qgjet.domain.suite import shared_tags
from qgjet.errors import Conflict, InvalidInput, JobNotFound, NatsUnavailable, QgjetError
from qgjet.store import suite_log
from qgjet.store.event_log import EventLog
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.readmodel.views import JobQuery, JobView, SuiteView
from qgjet_projections.service import Service
from qgjet_projections.usecases.caller import Caller
from qgjet_projections.usecases.capacity import check_partitions
from qgjet_projections.usecases.errors import (
    FieldError,
    IdempotencyMismatch,
    InvalidBody,
    ReadModelBehind,
    SuiteNotFound,
    pointer_of,
)
from qgjet_projections.usecases.results import CancelAnswer, Submission, submission

CATCH_UP_S = 2.0
CANCEL_WINDOW = 64
_turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
"""Requests with one idempotency key take turns, so that the second finds what the first has left.
"""


async def catch_up(service: Service) -> None:
    """Wait until the read model holds what the log holds now. Raises NatsUnavailable
    (ReadModelBehind) when that takes too long, or nobody can tell.
    """
    state = await service.log.state()
    if not state.leads:
        raise NatsUnavailable(
            "the NATS server that this API reaches is cut off from the others of its cluster: what they know is not known here"
        )
    last = state.last_seq
    if not await service.applied(last, CATCH_UP_S):
        raise ReadModelBehind(
            f"the read model has applied {service.applied_seq} of {last} events; try again"
        )


async def known_job(service: Service, reads: ReadModel, job_id: str) -> JobView:
    """The job, even one that was submitted a moment ago. Raises JobNotFound when `reads` shows none
    for certain: another org's takes the same steps.
    """
    job = reads.job(job_id)
    if job is None:
        await catch_up(service)
        job = reads.job(job_id)
    if job is None:
        raise JobNotFound(job_id)
    return job


async def known_suite(
    service: Service, reads: ReadModel, suite_id: str, org_id: str | None
) -> SuiteView:
    """Like `known_job`. Raises SuiteNotFound."""
    suite = reads.suite(suite_id, org_id)
    if suite is None:
        await catch_up(service)
        suite = reads.suite(suite_id, org_id)
    if suite is None:
        raise SuiteNotFound(f"no suite {suite_id}")
    return suite


# -- submit --------------------------------------------------------------------------------------------------------------


async def submit(
    service: Service, caller: Caller, request: SubmitRequest, key: str | None
) -> tuple[Submission, bool]:
    """Submit one job; the second value says that `key` had been used for this request before, and
    the answer is the first one's.

    Raises OrgForbidden when the caller is not for the job's org.
    """
    caller.check_orgs([request.org_id])
    job_id = idempotent_id(request.org_id, key) if key else str(uuid.uuid4())
    spec = _spec(service, caller, request, job_id, hash_of(request) if key else "")
    async with _turn(job_id if key else None):
        earlier = await _earlier_answers(service, [spec]) if key else [None]
        if earlier[0]:
            return earlier[0], True
        check_partitions(service, [spec])
        if key:
            await _claim_key(service, spec.org_id, job_id, spec.request_hash, caller.by)
        return await _submit(service, spec, request.on_duplicate), False


def _turn(name: str | None) -> AbstractAsyncContextManager[object]:
    return nullcontext() if name is None else _turns.setdefault(name, asyncio.Lock())


async def _earlier_answers(service: Service, specs: Sequence[JobSpec]) -> list[Submission | None]:
    """The answers that the same requests got before. Raises IdempotencyMismatch when their key was
    used for another one.
    """
    await catch_up(service)
    return [_earlier_answer(service, spec) for spec in specs]


def _earlier_answer(service: Service, spec: JobSpec) -> Submission | None:
    job = service.read_model.job(spec.job_id)
    if job is None:
        return None
    if job.request_hash != spec.request_hash:
        raise IdempotencyMismatch(
            f"this Idempotency-Key belongs to another request, which made job {job.job_id}"
        )
    return Submission(
        job_id=job.job_id,
        status=Status.QUEUED,
        seq=job.submitted_seq,
        replaced=job.replaces or None,
    )


async def _claim_key(
    service: Service, org_id: str, key_id: str, request_hash: str, by: str
) -> None:
    """Raises IdempotencyMismatch."""
    try:
        await suite_log.claim_key(service.log, org_id, key_id, request_hash, by=by)
    except suite_log.IdempotencyKeyReused as error:
        raise IdempotencyMismatch(str(error)) from error


async def _submit(service: Service, spec: JobSpec, on_duplicate: OnDuplicate) -> Submission:
    return submission(await service.log.submit(spec, on_duplicate))


def _spec(
    service: Service, caller: Caller, request: SubmitRequest, job_id: str, request_hash: str
) -> JobSpec:
    return make_spec(
        request,
        job_id=job_id,
        now=service.clock(),
        deployment=service.deployment,
        defaults=service.settings.job,
        submitted_by=caller.by,
        request_hash=request_hash,
    )


# -- suites --------------------------------------------------------------------------------------------------------------


async def submit_suite(
    service: Service, caller: Caller, suite: SuiteRequest, key: str | None
) -> tuple[str, list[tuple[JobSpec, Submission | QgjetError]]]:
    """Submit the jobs of a suite: its id, and for each job what became of it. Nothing is written
    unless all of them are valid.

    Of an atomic one all are accepted, or every one has an error. Those that take longest by
    experience come first in the queue. Raises OrgForbidden when the caller is not for the org of
    each of them.
    """
    made_up = idempotent_id(suite.org_id, f"suite {key}") if key else str(uuid.uuid4())
    suite_id = check_suite_id(suite.suite_id or made_up)
    jobs = jobs_of(suite, suite_id)
    caller.check_orgs([job.request.org_id for job in jobs])
    specs = _specs(service, caller, jobs, key, hash_of(suite) if key else "")
    async with _turn(made_up if key else None):
        earlier = await _earlier_answers(service, specs) if key else [None] * len(specs)
        check_partitions(
            service, [spec for spec, answer in zip(specs, earlier, strict=True) if answer is None]
        )
        if key:
            await _claim_key(service, specs[0].org_id, made_up, hash_of(suite), caller.by)
        wanted = suite_log.Submission(
            suite_id=suite_id,
            id=idempotent_id(specs[0].org_id, f"submission {suite_id} {suite.submission}")
            if suite.submission
            else made_up,
            specs=specs,
            modes=[job.request.on_duplicate for job in jobs],
            by=caller.by,
            request_hash=hash_of(suite)
            if key and not suite.submission
            else "",  # that of each of several requests stands in its jobs
            tags=shared_tags([spec.tags for spec in specs]),
            to_come=suite.to_come,
        )
        answers = await (
            _submit_together(service, wanted)
            if suite.atomic
            else _submit_rest(service, wanted, earlier)
        )
    return suite_id, list(zip(specs, answers, strict=True))


async def _submit_together(
    service: Service, wanted: suite_log.Submission
) -> list[Submission | QgjetError]:
    order = await asyncio.to_thread(_longest_first, service, wanted.specs)
    sorted_ = replace(
        wanted, specs=[wanted.specs[n] for n in order], modes=[wanted.modes[n] for n in order]
    )
    try:
        accepted = await suite_log.submit_suite(service.log, sorted_)
    except suite_log.IdempotencyKeyReused as error:
        raise IdempotencyMismatch(str(error)) from error
    except suite_log.SubmissionRejected as refused:
        errors: dict[int, QgjetError] = {
            order[place]: error for place, error in refused.errors.items()
        }
        return [errors.get(number, refused) for number in range(len(order))]
    answers = {number: submission(one) for number, one in zip(order, accepted, strict=True)}
    return [answers[number] for number in range(len(order))]


def _longest_first(service: Service, specs: Sequence[JobSpec]) -> list[int]:
    """Positions by the median of the last runs; what was never run counts as the longest: nobody
    knows, and starting late costs most.
    """
    known = {
        pair: service.read_model.durations(*pair)
        for pair in {(spec.org_id, spec.target) for spec in specs}
    }

    def takes_s(number: int) -> float:
        spec = specs[number]
        duration = known[spec.org_id, spec.target].get(spec.test)
        return math.inf if duration is None else duration.median_s

    return sorted(range(len(specs)), key=takes_s, reverse=True)


async def _submit_rest(
    service: Service, wanted: suite_log.Submission, earlier: Sequence[Submission | None]
) -> list[Submission | QgjetError]:
    """Submit what has no answer yet."""
    answers: dict[int, Submission | QgjetError] = {
        number: answer for number, answer in enumerate(earlier) if answer is not None
    }
    specs = wanted.specs
    await suite_log.announce(service.log, wanted, _following(wanted, specs))
    for mode in OnDuplicate:
        todo = [
            number
            for number, one in enumerate(wanted.modes)
            if one is mode and number not in answers
        ]
        results = await service.log.submit_many([specs[number] for number in todo], mode)
        answers |= {
            n: result if isinstance(result, QgjetError) else submission(result)
            for n, result in zip(todo, results, strict=True)
        }
    lost = [
        specs[number] for number, answer in answers.items() if isinstance(answer, NatsUnavailable)
    ]
    await suite_log.announce(service.log, wanted, _following(wanted, lost))
    return [answers[number] for number in range(len(specs))]


def _following(wanted: suite_log.Submission, specs: Iterable[JobSpec]) -> Counter[str]:
    """Org -> jobs to come: `specs`, and those of later requests."""
    return Counter(spec.org_id for spec in specs) + Counter(
        {spec.org_id: wanted.to_come for spec in wanted.specs}
    )


def _specs(
    service: Service, caller: Caller, jobs: Sequence[SuiteJob], key: str | None, request_hash: str
) -> list[JobSpec]:
    """Raises InvalidBody with everything that is wrong, each fault once."""
    specs: list[JobSpec] = []
    faults: dict[FieldError, None] = {}
    for number, job in enumerate(jobs):
        job_id = idempotent_id(job.request.org_id, f"{number} {key}") if key else str(uuid.uuid4())
        try:
            specs.append(_spec(service, caller, job.request, job_id, request_hash))
        except InvalidInput as error:
            faults[FieldError(error.reason, pointer_of(job.place(error.field)))] = None
    if faults:
        raise InvalidBody(list(faults))
    return specs


async def cancel_suite(
    service: Service, caller: Caller, suite: SuiteView, reason: str
) -> list[CancelAnswer]:
    """Cancel the suite's active jobs, as far as no other suite waits for them; one answer for each
    that was still active.

    After an error a second call does the rest.
    """
    await catch_up(service)
    live = await asyncio.to_thread(lambda: list(_live_jobs(service, suite)))
    gate = asyncio.Semaphore(CANCEL_WINDOW)

    async def cancel_one(job: JobView) -> CancelAnswer | QgjetError | None:
        async with gate:
            try:
                return await cancel_live(
                    service.log, _slot(job), job.job_id, caller.by, reason, suite.suite_id
                )
            except QgjetError as error:
                return error

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(cancel_one(job)) for job in live]
    answers = [task.result() for task in tasks]
    for answer in answers:
        if isinstance(answer, QgjetError):
            raise answer
    return [answer for answer in answers if isinstance(answer, CancelAnswer)]


def _live_jobs(service: Service, suite: SuiteView) -> Iterable[JobView]:
    for status in (Status.QUEUED, Status.RUNNING):
        yield from _jobs_of_suite(service, suite, status=status)


def _jobs_of_suite(service: Service, suite: SuiteView, **wanted: Any) -> Iterator[JobView]:
    """Last submitted first."""
    return service.read_model.all_jobs(
        JobQuery(suite_id=suite.suite_id, org_id=suite.org_id, **wanted)
    )


# -- cancel and rerun ----------------------------------------------------------------------------------------------------


async def cancel(
    service: Service, caller: Caller, job_id: str, reason: str, suite_id: str = ""
) -> CancelAnswer:
    """Cancel a job, or leave it to the others that wait for it if `suite_id` is given. A second
    call changes nothing.

    Raises Conflict when it has ended in another way.
    """
    reads = service.read_model.seen_by(caller.orgs)
    job = await known_job(service, reads, job_id)
    answer = await cancel_live(service.log, _slot(job), job_id, caller.by, reason, suite_id)
    if answer is not None:
        return answer
    await catch_up(service)
    job = await known_job(service, reads, job_id)
    if job.verdict is not Verdict.CANCELLED:
        raise Conflict(f"job {job_id} has ended: {job.verdict}")
    return CancelAnswer(job_id=job_id, status=job.status, cancel_requested=True, seq=job.seq)


async def cancel_live(
    log: EventLog, slot: Slot, job_id: str, by: str, reason: str, suite_id: str = ""
) -> CancelAnswer | None:
    """None when the job is live no more."""
    job = await log.cancel(slot, job_id, by=by, reason=reason, suite_id=suite_id)
    if job is None:
        return None
    return CancelAnswer(
        job_id=job_id, status=job.status, cancel_requested=job.cancel_requested, seq=job.version
    )


async def rerun(
    service: Service, caller: Caller, job_id: str, *, priority: int | None, suite_id: str
) -> Submission:
    """Submit the job's work again under a new id. Raises DuplicateJob while its slot is held by a
    live job.
    """
    reads = service.read_model.seen_by(caller.orgs)
    await known_job(service, reads, job_id)
    old = reads.spec(job_id)
    if old is None:
        raise JobNotFound(job_id)
    if priority is not None and not 0 <= priority <= 9:
        raise InvalidInput("priority", "must be an integer from 0 to 9")
    chosen = old.priority if priority is None else priority
    spec = replace(
        old,
        job_id=str(uuid.uuid4()),
        priority=chosen,
        rank=service.deployment.rank(chosen),
        submitted_at=service.clock(),
        submitted_by=caller.by,
        suite_ids=(check_suite_id(suite_id),) if suite_id else (),
        request_hash="",
        rerun_of=job_id,
    )
    return await _submit(service, spec, OnDuplicate.REJECT)


async def rerun_suite(
    service: Service, caller: Caller, suite: SuiteView, *, only_failed: bool, suite_id: str
) -> tuple[str, list[tuple[JobSpec, Submission | QgjetError]]]:
    """Submit a suite's jobs again, as a new suite; `only_failed`: those that are not green. Raises
    Conflict while it is live, or with nothing to do.
    """
    await catch_up(service)
    suite = await known_suite(service, service.read_model, suite.suite_id, suite.org_id)
    if suite.live or suite.to_come:
        raise Conflict(
            f"suite {suite.suite_id} has {suite.live + suite.to_come} live jobs: wait for it, or cancel it first"
        )
    new_id = check_suite_id(suite_id or str(uuid.uuid4()))
    specs = await asyncio.to_thread(
        _specs_again, service, caller, suite, only_failed=only_failed, suite_id=new_id
    )
    if not specs:
        raise Conflict(
            f"every job of suite {suite.suite_id} has passed: there is nothing to run again"
        )
    tags = suite.tags | {"rerun_of": suite.suite_id}
    wanted = suite_log.Submission(
        suite_id=new_id,
        id=str(uuid.uuid4()),
        specs=specs,
        modes=[OnDuplicate.ATTACH] * len(specs),
        by=caller.by,
        tags=tags,
    )
    return new_id, list(zip(specs, await _submit_together(service, wanted), strict=True))


def _specs_again(
    service: Service, caller: Caller, suite: SuiteView, *, only_failed: bool, suite_id: str
) -> list[JobSpec]:
    """In the order in which they were submitted."""
    chosen = [
        job
        for job in _jobs_of_suite(service, suite)
        if job.verdict not in PASSING or not only_failed
    ]
    return [_spec_again(service, caller, job, suite_id) for job in reversed(chosen)]


def _spec_again(service: Service, caller: Caller, job: JobView, suite_id: str) -> JobSpec:
    old = service.read_model.spec(job.job_id)
    if old is None:
        raise JobNotFound(job.job_id)
    return replace(
        old,
        job_id=str(uuid.uuid4()),
        submitted_at=service.clock(),
        submitted_by=caller.by,
        suite_ids=(suite_id,),
        request_hash="",
        rerun_of=job.job_id,
    )


def _slot(job: JobView) -> Slot:
    return Slot(job.org_id, job.app_version_id, job.target, job.test)
