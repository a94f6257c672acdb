"""What may happen to a job: `decide(command, job, now)` gives the one event to append, or raises.

Pure. The caller reads the slot, decides, appends on `job.version`, and starts again when somebody
was faster. Every rule about budgets, duplicates, tickets and cancelling lives here and nowhere
else.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, assert_never

from msgspec import Struct
from msgspec.structs import replace

from qgjet.domain.attempts import cut, first_failure_of, unresolved_after
from qgjet.domain.events import (
    INCONCLUSIVE,
    OUTSIDE,
    PASSING,
    Attached,
    AttemptEnded,
    AttemptLost,
    Cancelled,
    CancelRequested,
    Detached,
    Event,
    Finished,
    JobSpec,
    Outcome,
    Released,
    Requeued,
    Started,
    Status,
    Submitted,
    Verdict,
)
from qgjet.domain.job import Job, status_of
from qgjet.domain.retry import SPENDS_INFRA_RETRY, SPENDS_USER_RETRY
from qgjet.errors import Conflict, DuplicateJob, StaleDelivery
from qgjet.support.text import check_short


class OnDuplicate(StrEnum):
    """What a submission does when a live job already holds its slot."""

    ATTACH = "attach"
    """Answer with the live job."""
    REJECT = "reject"
    REPLACE = "replace"
    """Cancel the live job and take its place."""


class NotYet(Conflict):
    """The job waits for its retry; try again at `at`."""

    def __init__(self, at: datetime) -> None:
        super().__init__(f"waits until {at.isoformat()} before the next attempt")
        self.at = at


class Submit(Struct, frozen=True):
    spec: JobSpec
    on_duplicate: OnDuplicate = OnDuplicate.ATTACH


class Requeue(Struct, frozen=True):
    """Put a queued job back under a new message: with another rank, or because nothing will deliver
    the old one.
    """

    spec: JobSpec
    reason: str
    by: str
    ticket: int = 0
    """The message to be replaced; 0: whichever is in force."""


class Start(Struct, frozen=True):
    ticket: int
    agent: str
    device: str = ""
    warm: bool = False


class EndAttempt(Struct, frozen=True):
    agent: str
    attempt: int
    outcome: Outcome
    retry_in_s: float = 0.0
    job_id: str = ""
    """The job that was run; empty: whichever the slot holds. Attempts of two jobs in one slot have
    the same numbers.
    """


class Release(Struct, frozen=True):
    """Give the job back without a result.

    `drained` is free, and so is `host_failed` for a job with few attempts; anything else spends an
    infra retry.
    """

    agent: str
    ticket: int
    attempt: int
    """The last one started, by anybody; 0: none."""
    reason: str
    message: str = ""
    retry_in_s: float = 0.0


class Lose(Struct, frozen=True):
    """The agent that ran the attempt is gone."""

    agent: str
    attempt: int
    by: str
    reason: str = "lease_expired"
    job_id: str = ""
    """As in EndAttempt."""


class Attach(Struct, frozen=True):
    """Join the job with another submission."""

    spec: JobSpec
    """What was submitted."""
    held: JobSpec
    """The job's own, as it was last submitted or requeued."""


class Cancel(Struct, frozen=True):
    by: str
    reason: str = ""
    suite_id: str = ""
    """Only for this suite: the job goes on while another one waits for it. Empty: for all."""


class Expire(Struct, frozen=True):
    """End a job without an agent: it waited too long for its first start, or nothing delivers it
    any more (`even_started`).
    """

    ticket: int
    reason: str
    message: str
    by: str
    even_started: bool = False


Command = Submit | Attach | Requeue | Start | EndAttempt | Release | Lose | Cancel | Expire
DRAINED = "drained"
HOST_FAILED = "host_failed"
"""The agent's host could not run anything."""
MAX_FREE_ATTEMPTS = 20
"""A job that has been started more often than this may be the one that fills the disks: it spends
infra retries like any other.
"""
FLAKY = "flaky"
"""Reason of a job that passed after a failed attempt."""
NOT_PASSED_AGAIN = "not_passed_again"
"""Reason of a job whose last attempt is passing, though a test case that failed before did not pass
in it.
"""
MAX_MESSAGE_BYTES = 2000
MAX_ATTACHED = 100
"""Suites that an event names; one more counts as a submission outside of any suite, which no
suite's cancel touches.
"""


def decide(command: Command, job: Job | None, now: datetime) -> Event:
    """The event that carries `command` out.

    Raises Conflict (DuplicateJob, StaleDelivery, NotYet) when the state does not allow it; nothing
    is to be written then.
    """
    if isinstance(command, Submit):
        return _submit(command, job, now)
    if job is None:
        raise Conflict("the slot is empty")
    if not job.live:
        raise StaleDelivery(f"job {job.job_id} has ended as {job.status}")
    match command:
        case Attach():
            return _attach(command, job, now)
        case Requeue():
            return _requeue(command, job, now)
        case Start():
            return _start(command, job, now)
        case EndAttempt():
            return _end_attempt(command, job, now)
        case Release():
            return _release(command, job, now)
        case Lose():
            return _lose(command, job, now)
        case Cancel():
            return _cancel(command, job, now)
        case Expire():
            return _expire(command, job, now)
        case _:
            assert_never(command)


def _submit(command: Submit, job: Job | None, now: datetime) -> Submitted:
    spec = command.spec
    live = job is not None and job.live
    if job is not None and (
        job.job_id == spec.job_id
        or (_holds_its_key(job) and command.on_duplicate is not OnDuplicate.REPLACE)
    ):
        raise DuplicateJob(job.job_id)
    return Submitted(
        job_id=spec.job_id,
        at=now,
        status=Status.QUEUED,
        retries_left=spec.max_retries,
        infra_retries_left=spec.infra_retries,
        suite_ids=spec.suite_ids,
        by=spec.submitted_by,
        spec=spec,
        replaces=job.job_id if job is not None and live else "",
    )


def _holds_its_key(job: Job) -> bool:
    """Whether a submission attaches to the job. One that is being cancelled runs no test for it:
    the submission takes its place.
    """
    return job.live and not job.cancel_requested


def _attach(command: Attach, job: Job, now: datetime) -> Attached | Requeued:
    """What the submission asks for counts if it is more urgent than what the job has. Raises
    Conflict if it brings nothing new.
    """
    spec, held = command.spec, command.held
    _require(held.job_id == job.job_id, f"the slot belongs to job {job.job_id} now")
    ids = spec.suite_ids or (OUTSIDE,)
    known = dict.fromkeys((*job.attached, *(one for one in ids if one not in job.suite_ids)))
    if not job.suite_ids:
        known.pop(OUTSIDE, None)  # that is what it was submitted as
    attached = (
        tuple(known)
        if len(known) <= MAX_ATTACHED
        else tuple(dict.fromkeys((*job.attached, OUTSIDE)))
    )
    limit_s = _shortest(held.execution_timeout_s, job.execution_timeout_s, spec.execution_timeout_s)
    state = {
        "attached": attached,
        "detached": tuple(one for one in job.detached if one not in ids),
        "execution_timeout_s": limit_s if limit_s != held.execution_timeout_s else None,
    }
    queue_limit_s = (
        _shortest(held.queue_timeout_s, spec.queue_timeout_s)
        if job.status is Status.QUEUED and not job.attempt
        else held.queue_timeout_s
    )
    carried = _carried(job, now, job.status) | state | {"by": spec.submitted_by}
    if job.status is Status.QUEUED and spec.rank < held.rank:
        urgent = replace(
            held,
            rank=spec.rank,
            priority=spec.priority,
            tags=spec.tags | held.tags,
            queue_timeout_s=queue_limit_s,
        )
        return Requeued(
            **carried | {"ticket": 0}, spec=urgent, reason="attached", retry_at=job.retry_at
        )
    news = (
        state != {name: getattr(job, name) for name in state}
        or queue_limit_s != held.queue_timeout_s
    )
    _require(news, f"job {job.job_id} has all that the submission asks for")
    return Attached(
        **carried | {"agent": job.agent},
        tags={key: value for key, value in spec.tags.items() if key not in held.tags},
        queue_timeout_s=queue_limit_s if queue_limit_s != held.queue_timeout_s else None,
        retry_at=job.retry_at,
    )


def _shortest(*limits: float | None) -> float | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _requeue(command: Requeue, job: Job, now: datetime) -> Requeued:
    _require(
        job.status is Status.QUEUED,
        f"job {job.job_id} is {job.status}: only a queued job can be queued again",
    )
    _require(command.spec.job_id == job.job_id, f"the slot belongs to job {job.job_id} now")
    if command.ticket not in (0, job.ticket):
        raise StaleDelivery(f"message {command.ticket} was replaced by {job.ticket}")
    carried = _carried(job, now, Status.QUEUED) | {"ticket": 0, "by": command.by}
    return Requeued(**carried, spec=command.spec, reason=command.reason, retry_at=job.retry_at)


def _start(command: Start, job: Job, now: datetime) -> Started:
    if command.ticket != job.ticket:
        raise StaleDelivery(f"message {command.ticket} was replaced by {job.ticket}")
    _require(job.status is Status.QUEUED, f"job {job.job_id} is {job.status} on {job.agent}")
    if job.retry_at is not None and job.retry_at > now:
        raise NotYet(job.retry_at)
    carried = _carried(job, now, Status.RUNNING) | {
        "attempt": job.attempt + 1,
        "agent": command.agent,
        "by": command.agent,
    }
    return Started(**carried, device=command.device, warm=command.warm)


def _end_attempt(
    command: EndAttempt, job: Job, now: datetime
) -> AttemptEnded | Finished | Cancelled:
    _require(
        _is_run(job, command),
        f"attempt {command.attempt} of job {command.job_id or job.job_id} is no longer run by {command.agent}",
    )
    outcome = command.outcome
    if outcome.verdict is Verdict.CANCELLED:
        _require(job.cancel_requested, f"nobody asked to cancel job {job.job_id}")
        return Cancelled(
            **_carried(job, now, Status.CANCELLED) | {"by": command.agent}, outcome=outcome
        )
    spent = None if outcome.final else _spent(job, outcome.verdict)
    after = _with_failures(job, outcome)
    if spent is None:
        verdict, reason, message = _over_all_attempts(after, outcome)
        carried = _carried(after, now, status_of(verdict)) | {"by": command.agent}
        return Finished(**carried, verdict=verdict, outcome=outcome, reason=reason, message=message)
    status = Status.CANCELLED if job.cancel_requested else Status.QUEUED
    carried = _carried(after, now, status) | spent | {"by": command.agent}
    return AttemptEnded(
        **carried,
        outcome=outcome,
        retry_at=None if job.cancel_requested else _later(now, command.retry_in_s),
    )


def _is_run(job: Job, command: EndAttempt | Lose) -> bool:
    same_job = command.job_id in ("", job.job_id)
    return (
        same_job
        and job.status is Status.RUNNING
        and (job.agent, job.attempt) == (command.agent, command.attempt)
    )


def _with_failures(job: Job, outcome: Outcome) -> Job:
    """The job with what the attempt adds to its failures, and takes from its unresolved test cases."""
    failed = outcome.verdict in SPENDS_USER_RETRY
    if not failed and not job.failures:
        return job
    unresolved, omitted = unresolved_after(
        job.unresolved, job.unresolved_omitted, outcome, job.attempt
    )
    first = (
        first_failure_of(outcome, job.attempt) if failed and not job.failures else job.first_failure
    )
    return replace(
        job,
        failures=job.failures + failed,
        unresolved=unresolved,
        unresolved_omitted=omitted,
        first_failure=first,
    )


def _over_all_attempts(job: Job, outcome: Outcome) -> tuple[Verdict, str, str]:
    """The job's verdict, and its own reason and message where earlier attempts decide.

    After a failure, a passing attempt is flaky only if every test case that failed before has
    passed since. Skipping everything proves nothing, and neither does an attempt without a
    statement about the app, so the failure stands.
    """
    if not job.failures or outcome.verdict not in PASSING | INCONCLUSIVE:
        return outcome.verdict, "", ""
    if outcome.verdict in INCONCLUSIVE:
        why = f"{outcome.verdict}: {outcome.reason}" if outcome.reason else outcome.verdict.value
        message = f"failed, and the last attempt said nothing about the app ({why}): {_first_failure(job)}"
        return Verdict.FAILED, NOT_PASSED_AGAIN, cut(message, MAX_MESSAGE_BYTES)
    if job.unresolved or job.unresolved_omitted or outcome.verdict is Verdict.SKIPPED:
        return (
            Verdict.FAILED,
            NOT_PASSED_AGAIN,
            cut(_not_passed_again(job, outcome), MAX_MESSAGE_BYTES),
        )
    return Verdict.FLAKY, FLAKY, _first_failure(job)


def _not_passed_again(job: Job, outcome: Outcome) -> str:
    if not job.unresolved and not job.unresolved_omitted:
        return (
            f"attempt {job.attempt} skipped every test case after a failure: {_first_failure(job)}"
        )
    if not job.unresolved:
        return f"{job.unresolved_omitted} test cases failed and are not known to have passed since: {_first_failure(job)}"
    first = job.unresolved[0]
    fate = next((test.outcome for test in outcome.tests if test.id == first.id), "absent")
    others = len(job.unresolved) - 1 + job.unresolved_omitted
    more = f" (and {others} more)" if others else ""
    failed = f"failed in attempt {first.attempt} and did not pass in attempt {job.attempt} ({fate}){more}"
    return f"{first.title or cut(first.id, 200)}: {failed}: {first.message or _first_failure(job)}"


def _first_failure(job: Job) -> str:
    first = job.first_failure
    if first is None:
        return "an earlier attempt failed"
    return first.message or f"attempt {first.attempt} {first.verdict.replace('_', ' ')}" + (
        f" ({first.reason})" if first.reason else ""
    )


def _spent(job: Job, verdict: Verdict) -> dict[str, int] | None:
    """The budgets after one more try, or None when there is none to make."""
    if verdict in SPENDS_USER_RETRY and job.retries_left > 0:
        return {"retries_left": job.retries_left - 1}
    if verdict in SPENDS_INFRA_RETRY and job.infra_retries_left > 0:
        return {"infra_retries_left": job.infra_retries_left - 1}
    return None


def _release(command: Release, job: Job, now: datetime) -> Released | Finished | Cancelled:
    held = (job.ticket, job.attempt) == (command.ticket, command.attempt) and job.agent in (
        "",
        command.agent,
    )
    _require(held, f"job {job.job_id} is not held by {command.agent}")
    if job.cancel_requested:
        return Cancelled(**_carried(job, now, Status.CANCELLED) | {"by": command.agent})
    carried = _carried(job, now, Status.QUEUED) | {"by": command.agent}
    if not _is_free(command, job):
        spent = _spent(job, Verdict.INFRA_ERROR)
        if spent is None:
            return _no_verdict(job, now, command.reason, command.message, command.agent)
        carried |= spent
    waits = [at for at in (job.retry_at, _later(now, command.retry_in_s)) if at is not None]
    return Released(
        **carried, reason=command.reason, message=command.message, retry_at=max(waits, default=None)
    )


def _is_free(command: Release, job: Job) -> bool:
    return command.reason == DRAINED or (
        command.reason == HOST_FAILED and job.attempt <= MAX_FREE_ATTEMPTS
    )


def _lose(command: Lose, job: Job, now: datetime) -> AttemptLost | Finished:
    _require(
        _is_run(job, command),
        f"attempt {command.attempt} of job {command.job_id or job.job_id} is not run by {command.agent}",
    )
    spent = _spent(job, Verdict.INFRA_ERROR)
    if spent is None and not job.cancel_requested:
        return _no_verdict(
            job,
            now,
            "attempt_lost",
            f"agent {command.agent} was lost and no infra retry is left",
            command.by,
        )
    status = Status.CANCELLED if job.cancel_requested else Status.QUEUED
    carried = _carried(job, now, status) | (spent or {}) | {"by": command.by}
    return AttemptLost(**carried, lost_agent=command.agent, reason=command.reason)


def _cancel(command: Cancel, job: Job, now: datetime) -> CancelRequested | Detached:
    check_short("reason", command.reason)
    _require(not job.cancel_requested, f"job {job.job_id} is being cancelled already")
    if command.suite_id:
        _require(
            command.suite_id in job.waiters,
            f"suite {command.suite_id} does not wait for job {job.job_id}",
        )
        if job.waiters - {command.suite_id}:
            carried = _carried(job, now, job.status) | {
                "agent": job.agent,
                "by": command.by,
                "detached": (*job.detached, command.suite_id),
            }
            return Detached(
                **carried, suite_id=command.suite_id, reason=command.reason, retry_at=job.retry_at
            )
    running = job.status is Status.RUNNING
    carried = _carried(job, now, Status.RUNNING if running else Status.CANCELLED)
    return CancelRequested(
        **carried | {"cancel_requested": True, "agent": job.agent, "by": command.by},
        reason=command.reason,
    )


def _expire(command: Expire, job: Job, now: datetime) -> Finished | Cancelled:
    if command.ticket != job.ticket:
        raise StaleDelivery(f"message {command.ticket} was replaced by {job.ticket}")
    _require(job.attempt == 0 or command.even_started, f"job {job.job_id} has been started")
    if job.cancel_requested:
        return Cancelled(**_carried(job, now, Status.CANCELLED) | {"by": command.by})
    return _no_verdict(job, now, command.reason, command.message, command.by)


def _no_verdict(job: Job, now: datetime, reason: str, message: str, by: str) -> Finished:
    outcome = Outcome(verdict=Verdict.INFRA_ERROR, reason=reason, message=message)
    verdict, own_reason, own_message = _over_all_attempts(job, outcome)
    carried = _carried(job, now, Status.FAILED) | {"by": by}
    return Finished(
        **carried, verdict=verdict, outcome=outcome, reason=own_reason, message=own_message
    )


def _carried(job: Job, now: datetime, status: Status) -> dict[str, Any]:
    """The fields every event carries on. The agent stays only on what is still running."""
    return {
        "job_id": job.job_id,
        "at": now,
        "status": status,
        "ticket": job.ticket,
        "attempt": job.attempt,
        "retries_left": job.retries_left,
        "infra_retries_left": job.infra_retries_left,
        "failures": job.failures,
        "unresolved": job.unresolved,
        "unresolved_omitted": job.unresolved_omitted,
        "first_failure": job.first_failure,
        "suite_ids": job.suite_ids,
        "attached": job.attached,
        "detached": job.detached,
        "execution_timeout_s": job.execution_timeout_s,
        "cancel_requested": job.cancel_requested,
    }


def _later(now: datetime, seconds: float) -> datetime | None:
    return now + timedelta(seconds=seconds) if seconds > 0 else None


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Conflict(otherwise)
