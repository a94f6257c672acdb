"""One delivery, from the message to the acknowledgement.

    admit -> prepare -> append `started` -> run -> store artifacts -> append the result -> acknowledge

Every step may find that the job is not ours any more; then nothing is written and nothing is left
running. The event comes first, the acknowledgement after
it: a crash between them brings the message back, and its ticket says that the job is over.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, assert_never

from msgspec.structs import replace

from qgjet.agent.claims import ClaimDecision, admit
from qgjet.agent.cleanup import remove
from qgjet.agent.lease import Lease
from qgjet.agent.log_feed import LogFeed
from qgjet.agent.slot import AgentSlot
from qgjet.agent.visibility import VisibilityTimeout
from qgjet.config.settings import AgentSettings, ArtifactSettings, QueueSettings
from qgjet.domain.codec import check_writable
from qgjet.domain.decide import (
    DRAINED,
    HOST_FAILED,
    Command,
    EndAttempt,
    Lose,
    Release,
    Requeue,
    Start,
    decide,
)
from qgjet.domain.events import Event, Outcome, Status, Verdict
from qgjet.domain.job import Job, state_of
from qgjet.domain.subjects import encode_token
from qgjet.errors import (
    Conflict,
    HostFailed,
    InvalidInput,
    NatsUnavailable,
    PrepareFailed,
    StoreFull,
    VersionConflict,
)
from qgjet.process.stop_control import StopControl, StopReason
from qgjet.runners.artifact_collector import ArtifactCollector
from qgjet.runners.base import Attempt, Session
from qgjet.runners.redaction import Redactor
from qgjet.store.artifacts import ArtifactStore
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Delivery
from qgjet.support.clock import lease_time, within
from qgjet.support.log_limiter import LogLimiter
from qgjet.verdict.reasons import Reason

log = logging.getLogger(__name__)

RESULT_TIMEOUT_S = 60.0
"""How long a result is offered to a log that does not answer. After that the job is run again."""
ROOM_S = 5.0
"""How often an agent looks whether a full event store has room again."""
_LOOK_S = 0.25
_JOB_IS_GONE = (StopReason.LEASE_LOST, StopReason.DRAINED)


@dataclass(frozen=True)
class Result:
    """What became of a delivery, for the agent's bookkeeping."""

    ran: bool = False
    again_in_s: float | None = None
    """The message comes back after this long."""
    prepare_failed: bool = False
    failed_host: str = ""
    """What this host could not do; empty: the job is not to blame it."""


@dataclass
class Executor:
    """Executes deliveries for one agent instance."""

    event_log: EventLog
    agent: str
    agent_settings: AgentSettings
    queue_settings: QueueSettings
    work_dir: Path
    artifact_settings: ArtifactSettings = field(default_factory=ArtifactSettings)
    preparing: set[StopControl] = field(default_factory=set)
    """Of what is claimed and not started yet; a job may be delivered twice."""
    running: dict[str, Lease] = field(default_factory=dict)
    """By job id, what runs now."""
    draining: bool = False
    halted: asyncio.Event = field(default_factory=asyncio.Event)
    random: random.Random = field(default_factory=random.Random)
    complaints: LogLimiter = field(default_factory=lambda: LogLimiter(log))
    visibility: VisibilityTimeout = field(init=False)

    def __post_init__(self) -> None:
        self.visibility = VisibilityTimeout(self.event_log.connection, self.queue_settings)

    async def execute(self, delivery: Delivery, slot: AgentSlot) -> Result:
        """Never raises for what a job, a runner or the log does; the message is answered, or comes
        back by itself.
        """
        try:
            async with Lease(self.event_log, delivery, self.agent, self.visibility) as lease:
                return await self._admitted(delivery, slot, lease)
        except NatsUnavailable as error:
            log.warning(
                "job %s: the log does not answer, the job comes back by itself: %s",
                delivery.spec.job_id,
                error,
            )
        except Exception:
            # a defect of ours: this job must not take the others of the agent with it; max_deliver
            # bounds how often it comes back
            log.exception(
                "job %s: could not be executed, it comes back by itself", delivery.spec.job_id
            )
        return Result(again_in_s=self.visibility.redelivery_s)

    def drain(self) -> None:
        """Start nothing any more: what is only being prepared is given back."""
        self.draining = True
        _stop(self.preparing)

    def halt(self) -> None:
        """Drain, and stop what runs: it is given back too."""
        self.drain()
        self.halted.set()
        _stop(lease.stop_control for lease in self.running.values())

    # -- before the run ----------------------------------------------------------------------------------------------

    async def _admitted(self, delivery: Delivery, slot: AgentSlot, lease: Lease) -> Result:
        here = self.running.get(
            delivery.spec.job_id
        )  # looked up before the state is read, which then knows its attempt
        # the first claim of a warm partition needs no read: a stale one is refused by the log;
        # before a costly prepare it is asked
        ready = (
            delivery.meta.num_delivered == 1
            and slot.partition == delivery.spec.partition
            and here is None
        )
        lease.server = self.event_log.connection.server
        job = (
            state_of(delivery.event, delivery.seq)
            if ready
            else await self.event_log.load(delivery.spec.slot)
        )
        while True:
            now = self.event_log.clock()
            job = self._without_a_wrong_wait(job, now)
            attempt_here = here.attempt if here is not None else 0
            match admit(
                job,
                delivery.seq,
                now,
                num_delivered=delivery.meta.num_delivered,
                attempt_here=attempt_here,
            ):
                case ClaimDecision.CLAIM:
                    assert job is not None
                    try:
                        return await self._claim(delivery, slot, lease, job)
                    except VersionConflict:
                        here = self.running.get(delivery.spec.job_id)
                        job = await self._reload(delivery, lease)
                case ClaimDecision.LOSE:
                    assert job is not None
                    if await self._came_too_early(delivery):
                        return await self._leave_again(delivery)
                    job = await self._lose(delivery, lease, job)
                case ClaimDecision.FORGET:
                    await delivery.ack()
                    return Result()
                case ClaimDecision.WAIT:
                    assert job is not None
                    assert job.retry_at is not None
                    return await self._give_back(delivery, (job.retry_at - now).total_seconds())
                case ClaimDecision.STOP:
                    assert here is not None
                    log.warning(
                        "job %s: the log does not know attempt %d, which runs here; it is stopped",
                        delivery.spec.job_id,
                        attempt_here,
                    )
                    here.stop_control.stop(StopReason.LEASE_LOST)
                    return await self._give_back(delivery, self.visibility.redelivery_s)
                case ClaimDecision.LEAVE:
                    return await self._give_back(delivery, self.visibility.redelivery_s)
                case admission:
                    assert_never(admission)

    def _without_a_wrong_wait(self, job: Job | None, now: datetime) -> Job | None:
        """A retry that is due later than any backoff reaches was put off by a wrong clock, there or
        here: the message has waited for it already.
        """
        if (
            job is None
            or job.retry_at is None
            or (job.retry_at - now).total_seconds() <= 2 * self.queue_settings.retry_cap_s
        ):
            return job
        return replace(job, retry_at=None)

    async def _reload(self, delivery: Delivery, lease: Lease) -> Job | None:
        lease.server = self.event_log.connection.server
        return await self.event_log.load(delivery.spec.slot)

    async def _came_too_early(self, delivery: Delivery) -> bool:
        """Whether a redelivery says nothing about whoever runs the job.

        A server that was killed may have forgotten when it delivered a message last, and after a
        power cut also the last heartbeats, and hands the message out again at once. Neither the
        slot's last event nor the server may be younger than a visibility timeout. The event's age
        goes by the server's clock: by that of an agent, a job could be taken from whoever runs it,
        or be left with nobody, for as long as the clock is wrong.
        """
        redelivery_s = self.visibility.redelivery_s
        if lease_time() - self.event_log.connection.server_since < redelivery_s:
            return True
        return await self.event_log.quiet_s(delivery.spec.slot) < redelivery_s

    async def _leave_again(self, delivery: Delivery) -> Result:
        """Given back for a whole visibility timeout, and not for the rest of it: a shorter delay
        may be over before the next heartbeat of whoever runs the job, and the message would come
        again although its lease is kept.
        """
        return await self._give_back(delivery, self.visibility.redelivery_s)

    async def _lose(self, delivery: Delivery, lease: Lease, job: Job) -> Job | None:
        log.warning("job %s: agent %s lost attempt %d", job.job_id, job.agent, job.attempt)
        lose = Lose(agent=job.agent, attempt=job.attempt, by=self.agent, job_id=job.job_id)
        try:
            return await self._append(delivery, lease, lose, job)
        except VersionConflict:
            return await self._reload(delivery, lease)

    async def _give_back(self, delivery: Delivery, delay_s: float) -> Result:
        await delivery.nak(delay_s)
        return Result(again_in_s=delay_s)

    async def _claim(self, delivery: Delivery, slot: AgentSlot, lease: Lease, job: Job) -> Result:
        """Prepare, then start. Raises VersionConflict when the slot has moved on since `job` was
        read.
        """
        self.preparing.add(lease.stop_control)
        if self.draining:
            lease.stop_control.stop(StopReason.DRAINED)
        try:
            session, warm = await self._prepared(delivery, slot, lease)
            if session is None:
                return await self._stopped_early(delivery, lease, job)
            start = Start(ticket=delivery.seq, agent=self.agent, device=session.device, warm=warm)
            job = await self._append(delivery, lease, start, job)
            lease.running(job.attempt)
            self.preparing.discard(lease.stop_control)
            self.running[job.job_id] = lease
            outcome = await self._run(delivery, session, lease, job)
            return await self._end(delivery, lease, job, outcome)
        except HostFailed as failure:
            return await self._release(delivery, lease, job, HOST_FAILED, str(failure))
        except PrepareFailed as failure:
            return await self._release(delivery, lease, job, "prepare_failed", str(failure))
        finally:
            self.preparing.discard(lease.stop_control)
            if self.running.get(job.job_id) is lease:
                del self.running[job.job_id]

    async def _prepared(
        self, delivery: Delivery, slot: AgentSlot, lease: Lease
    ) -> tuple[Session | None, bool]:
        """The session, or None when the job was taken away or cancelled, or the agent was stopped,
        while it was being prepared.
        """
        if lease.stop_control.reason is not None:
            return None, False
        if slot.partition == delivery.spec.partition:
            return await slot.session(delivery.spec.partition)
        preparing = asyncio.ensure_future(slot.session(delivery.spec.partition))
        stopped = asyncio.ensure_future(lease.stop_control.stopped())
        try:
            await asyncio.wait({preparing, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return preparing.result() if preparing.done() else (None, False)
        finally:
            for task in (preparing, stopped):
                task.cancel()
            await asyncio.gather(preparing, stopped, return_exceptions=True)

    async def _stopped_early(self, delivery: Delivery, lease: Lease, job: Job) -> Result:
        if lease.stop_control.reason is StopReason.DRAINED:
            return await self._release(delivery, lease, job, DRAINED, "")
        # the lease is over: the message comes again by itself, and giving it back late would take
        # it from whoever has it then
        return Result(again_in_s=self.visibility.redelivery_s)

    # -- the run -----------------------------------------------------------------------------------------------------

    async def _run(self, delivery: Delivery, session: Session, lease: Lease, job: Job) -> Outcome:
        spec = delivery.spec
        # one name per attempt, from an id that anybody may have written: it leads nowhere else
        name = encode_token(spec.job_id).replace("/", "%2F")
        path = f"{self.work_dir}/job-{name}-{job.attempt}"
        feed = LogFeed(self.event_log.connection, spec.job_id, job.attempt)
        limits = (
            spec.execution_timeout_s or self.agent_settings.execution_timeout_s,
            job.execution_timeout_s,
        )
        deadline = _Deadline(
            lease.stop_control, min(limit for limit in limits if limit is not None)
        )
        lease.on_limit = deadline.shorten
        left_files = True
        try:
            if (
                lease_time() >= lease.stop_control.kill_at
            ):  # this agent stood still since it claimed the job, which another one may run by now
                return Outcome(
                    verdict=Verdict.INFRA_ERROR,
                    reason=Reason.LEASE_LOST,
                    message="the agent stood still before the attempt began",
                )
            failed_before = frozenset(one.id for one in job.unresolved)
            attempt = Attempt(
                spec=spec,
                number=job.attempt,
                path=path,
                stop_control=lease.stop_control,
                failed_before=failed_before,
                on_output=feed.write,
            )
            outcome = await session.run(attempt)
            stopped_by = lease.stop_control.reason
            check_writable(outcome)
            await feed.close()  # who follows the output need not wait for the videos
            left_files = os.path.lexists(path)
            return (
                await self._with_artifacts(outcome, attempt, session.redactor, stopped_by)
                if left_files
                else outcome
            )
        except Exception as defect:
            log.exception("job %s: the runner failed", spec.job_id)
            message = (
                session.redactor.text(f"{type(defect).__name__}: {defect}")
                .encode("utf-8", "backslashreplace")
                .decode()
            )
            return Outcome(
                verdict=Verdict.INFRA_ERROR, reason=Reason.RUNNER_FAILED, message=message[:2000]
            )
        finally:
            deadline.cancel()
            await feed.close()
            if left_files and not self.agent_settings.keep_attempts:
                await remove(path)

    async def _with_artifacts(
        self, outcome: Outcome, attempt: Attempt, redactor: Redactor, stopped_by: StopReason | None
    ) -> Outcome:
        """Store what the attempt has left, and name it. Whatever happens to that, the verdict
        stands.

        A lost lease, a halt, a cancel and the deadline end it. A cancel or a deadline that ended
        the run itself (`stopped_by`) does not: its logs are kept.
        """
        if outcome.verdict is Verdict.INFRA_ERROR and outcome.reason in _JOB_IS_GONE:
            return outcome  # nobody will hear of it
        limit_s = self.artifact_settings.upload_timeout_s
        leftovers = ArtifactCollector(
            ArtifactStore(self.event_log.connection),
            self.artifact_settings,
            attempt.spec.job_id,
            attempt.number,
            attempt.path,
            redactor,
        )
        tasks: list[asyncio.Task[Any]] = []
        try:
            await leftovers.look(outcome.verdict)
            storing = asyncio.create_task(
                leftovers.store(), name=f"artifacts of {attempt.spec.job_id}"
            )
            ended = asyncio.create_task(self._collection_ends(attempt.stop_control, stopped_by))
            tasks = [storing, ended]
            await asyncio.wait(tasks, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            why = (
                ended.result()
                if ended.done()
                else f"not stored within upload_timeout ({limit_s:g} s)"
            )
            if storing.done():
                storing.result()
        except Exception:
            log.exception("job %s: artifacts could not be collected", attempt.spec.job_id)
            why = "the agent failed"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        found = replace(outcome, artifacts=(*outcome.artifacts, *leftovers.artifacts(why)))
        try:
            check_writable(found)
        except InvalidInput as error:
            log.warning(
                "job %s: its artifacts are stored, but not named: %s", attempt.spec.job_id, error
            )
            return outcome
        return found

    async def _collection_ends(
        self, stop_control: StopControl, stopped_by: StopReason | None
    ) -> str:
        """Wait until artifacts must not be collected any longer; returns the reason for the notes."""
        while stop_control.reason not in _JOB_IS_GONE and lease_time() < stop_control.kill_at:
            if stop_control.reason is not stopped_by:
                return (
                    "the job was cancelled"
                    if stop_control.reason is StopReason.CANCELLED
                    else "the job reached its deadline"
                )
            if await within(_LOOK_S, self.halted):
                break
        return "the agent was stopped, or lost the job"

    # -- after the run -----------------------------------------------------------------------------------------------

    async def _end(self, delivery: Delivery, lease: Lease, job: Job, outcome: Outcome) -> Result:
        stopped = outcome.reason if outcome.verdict is Verdict.INFRA_ERROR else ""
        if stopped == StopReason.DRAINED:
            return await self._release(delivery, lease, job, DRAINED, "")
        if stopped == Reason.AGENT_IO:
            return await self._release(delivery, lease, job, HOST_FAILED, outcome.message)
        retry_in_s = self._backoff_s(job)
        end = EndAttempt(
            agent=self.agent,
            attempt=job.attempt,
            outcome=outcome,
            retry_in_s=retry_in_s,
            job_id=job.job_id,
        )
        return await self._report(delivery, lease, end, job, retry_in_s=retry_in_s)

    async def _release(
        self, delivery: Delivery, lease: Lease, job: Job, reason: str, message: str
    ) -> Result:
        retry_in_s = 0.0 if reason == DRAINED else self._backoff_s(job)
        release = Release(
            agent=self.agent,
            ticket=delivery.seq,
            attempt=job.attempt,
            reason=reason,
            message=message,
            retry_in_s=retry_in_s,
        )
        result = await self._report(delivery, lease, release, job, retry_in_s=retry_in_s)
        prepare_failed, failed_host = (
            reason not in (DRAINED, HOST_FAILED),
            message if reason == HOST_FAILED else "",
        )
        return Result(
            ran=result.ran,
            again_in_s=result.again_in_s,
            prepare_failed=prepare_failed,
            failed_host=failed_host,
        )

    def _backoff_s(self, job: Job) -> float:
        return self.queue_settings.backoff.delay_s(max(job.attempt, 1), self.random.random())

    async def _report(
        self, delivery: Delivery, lease: Lease, command: Command, job: Job, *, retry_in_s: float
    ) -> Result:
        """Append a result and answer the message. A result that is refused is nobody's: the job was
        given to somebody else.

        When the lease is over the message may be on its way to somebody already: giving it back now
        would bring it a second time, while that one runs it.
        """
        try:
            event = await self._execute_with_room(delivery, lease, command, job)
        except Conflict as refused:
            log.warning(
                "job %s: the result came too late and counts for nothing: %s",
                delivery.spec.job_id,
                refused,
            )
            return Result(ran=True)
        if (
            event.status is Status.QUEUED
            and delivery.meta.num_delivered < self.queue_settings.max_deliver // 2
        ):
            if not lease.is_over:
                await delivery.nak(retry_in_s)
            return Result(ran=True, again_in_s=retry_in_s)
        if event.status is Status.QUEUED:
            await self._requeue(delivery)
        await delivery.ack()
        return Result(ran=True)

    async def _requeue(self, delivery: Delivery) -> None:
        """A new message for the job, as the old one has been delivered too often: `max_deliver` is
        for what goes wrong, not for retries.
        """
        requeue = Requeue(
            spec=delivery.spec, reason="many_deliveries", by=self.agent, ticket=delivery.seq
        )
        try:
            job = await self.event_log.load(delivery.spec.slot)
            await self.event_log.execute(
                delivery.spec.slot, requeue, job, timeout_s=RESULT_TIMEOUT_S
            )
        except Conflict as refused:
            log.info("job %s: not queued anew: %s", delivery.spec.job_id, refused)

    async def _append(self, delivery: Delivery, lease: Lease, command: Command, job: Job) -> Job:
        """Append on the version that was read. Raises VersionConflict."""
        try:
            event: Event = decide(command, job, self.event_log.clock())
        except Conflict as refused:
            raise VersionConflict(str(refused)) from refused
        while True:
            try:
                seq = await self.event_log.append(
                    delivery.spec.slot, event, job.version, server=lease.server
                )
                return state_of(event, seq)
            except StoreFull as full:
                await self._wait_for_room(delivery, full)

    async def _execute_with_room(
        self, delivery: Delivery, lease: Lease, command: Command, job: Job
    ) -> Event:
        while True:
            try:
                slot, server = delivery.spec.slot, lease.server
                return (
                    await self.event_log.execute(
                        slot, command, job, server=server, timeout_s=RESULT_TIMEOUT_S
                    )
                )[0]
            except StoreFull as full:
                await self._wait_for_room(delivery, full)

    async def _wait_for_room(self, delivery: Delivery, full: StoreFull) -> None:
        """Keep the delivery, and what it came to, for as long as it takes: given back it would use
        up its deliveries. Raises `full` when told to stop.
        """
        self.complaints.warn(f"job {delivery.spec.job_id} waits: {full}")
        if self.draining and delivery.spec.job_id not in self.running:
            raise full
        if await within(ROOM_S, self.halted):
            raise full


class _Deadline:
    """Stops an attempt that takes longer than its limit, which may become shorter while it runs."""

    def __init__(self, stop_control: StopControl, limit_s: float) -> None:
        self._stop_control = stop_control
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._limit_s = limit_s
        self._timer = self._loop.call_later(limit_s, stop_control.stop, StopReason.DEADLINE)

    def shorten(self, limit_s: float) -> None:
        if limit_s < self._limit_s:
            self._timer.cancel()
            self._limit_s = limit_s
            self._timer = self._loop.call_at(
                self._began + limit_s, self._stop_control.stop, StopReason.DEADLINE
            )

    def cancel(self) -> None:
        self._timer.cancel()


def _stop(stop_controls: Iterable[StopControl]) -> None:
    for stop_control in list(stop_controls):
        stop_control.stop(StopReason.DRAINED)
