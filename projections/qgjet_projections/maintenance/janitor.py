"""The janitor: sees to it that every accepted job ends, whatever was lost on the way.

It decides from the read model and acts through the log, so nothing it does can go wrong by being
late or being done twice: every step is an append on a version, or an idempotent request. Several
may run. Without one, jobs that agents can reach go on as ever.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
from msgspec import Struct

from qgjet.config.settings import QueueSettings
from qgjet.domain import subjects
from qgjet.domain.decide import Command, Expire, Lose, Requeue
from qgjet.domain.deployment import Deployment
from qgjet.domain.events import Requeued, Slot, Submitted, Whole
from qgjet.domain.subjects import ADVISORIES, STREAM, Lane, parse_job_subject
from qgjet.errors import (
    Conflict,
    InvalidInput,
    NatsUnavailable,
    NoConsumerLeft,
    QgjetError,
    StoreFull,
)
from qgjet.jetstream.connection import STOP_TIMEOUT_S, JetStreamError, translated
from qgjet.store import agent_registry, streams, suite_log
from qgjet.store.agent_registry import Announcement
from qgjet.store.event_log import EventLog, Recorded, StreamState
from qgjet.store.job_queue import Queue, QueueState
from qgjet.support.clock import end
from qgjet.support.log_limiter import LogLimiter
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.readmodel.views import Activity, LiveJob

log = logging.getLogger(__name__)

NAME = "janitor"
ROUND_S = 2.0
MAX_PAUSE_S = 30.0
PAUSE_PER_LOOK = 50
"""A look that takes long (thousands of partition queues) is followed by a pause this many times as
long, so that an idle janitor costs little.
"""
IDLE_LANE = timedelta(minutes=5)
IDLE_LANE_IN_NEED = timedelta(seconds=10)
"""When the stream is near its limit of consumers. Making one takes 1.3 ms, and replays what the
partition still has in the log.
"""
MAX_REMOVALS = 1_000
"""Partition queues removed in one round, so that a backlog of them does not hold up the other
duties.
"""
REMOVALS_AT_ONCE = 16
INCOMPLETE_AFTER = timedelta(minutes=2)
PRESENCE_GRACE_S = 3 * agent_registry.RENEW_EVERY_S
"""After a restart of the server no agent is present until it has announced itself again."""
_NO_MESSAGE = 10037

T = TypeVar("T")


class Advisory(Struct, frozen=True):
    """JetStream has given up on a delivery."""

    stream_seq: Whole = 0
    deliveries: Whole = 0


class Situation(Struct, frozen=True, kw_only=True):
    """What one round goes by."""

    log: StreamState
    """Read first: `applied_seq` of a read model that has caught up is not below its `last_seq`."""
    lanes: dict[Lane, QueueState]
    """Partition queues that have a consumer."""
    activity: Activity

    @property
    def is_current(self) -> bool:
        """Whether the read model had every event that was stored when the round began."""
        return self.activity.applied_seq >= self.log.last_seq


class _Missing(Struct):
    """A running job that no agent names: since when, by the loop's clock, and its agent's entry at
    that time; 0 for none.
    """

    since: float
    entry: int


class _Announced(Struct, frozen=True):
    """A deployment with a shorter visibility timeout that agents are to adopt, and since when this
    janitor has read it in every round.
    """

    deployment: Deployment
    since: float


class Janitor:
    """`async with Janitor(...)` does a round every two seconds in the background; `round` does one."""

    def __init__(self, event_log: EventLog, read_model: ReadModel, settings: QueueSettings) -> None:
        self._log = event_log
        self._read_model = read_model
        self._queue = Queue(event_log.connection, settings)
        self._advisory_seq = 1
        self._missing: dict[tuple[str, int], _Missing] = {}
        """(agent, the job's last event) -> since when the agent does not name it"""
        self._complaints: dict[str, LogLimiter] = {}
        self._look_s = 0.0
        """How long the last look at the queue took."""
        self._announced: _Announced | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="janitor")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            await end(self._task, within_s=STOP_TIMEOUT_S)

    async def _run(self) -> None:
        while True:
            await self.round()
            await asyncio.sleep(min(max(ROUND_S, PAUSE_PER_LOOK * self._look_s), MAX_PAUSE_S))

    async def round(self) -> None:
        """Perform every duty once. Harmless at any time and any number of times; a duty that fails
        does not keep the others from their work.
        """
        await self._perform(self._read_advisories)
        await self._perform(self._read_settings)
        situation = await self._perform(self._look)
        if situation is not None:
            for duty in (
                self._remove_idle_lanes,
                self._open_lanes,
                self._renew_lanes,
                self._expire_overdue,
                self._requeue_stranded,
                self._lose_abandoned,
                self._end_incomplete_submissions,
            ):
                await self._perform(duty, situation)

    async def _perform(self, duty: Callable[..., Awaitable[T]], *situation: Situation) -> T | None:
        """Its result, or None when it failed: the next round starts again from the log."""
        complaints = self._complaints.setdefault(duty.__name__, LogLimiter(log))
        try:
            result = await duty(*situation)
        except NatsUnavailable as error:
            complaints.warn(f"the janitor waits for the server: {error}")
            if isinstance(error, StoreFull):
                self._missing.clear()  # agents could not announce themselves, either
        except Exception as error:
            log.debug("janitor: %s failed", duty.__name__, exc_info=True)
            complaints.warn(
                f"janitor: {duty.__name__.strip('_')} failed: {type(error).__name__}: {error}"
            )
        else:
            complaints.over()
            return result
        return None

    async def _read_settings(self) -> None:
        """Another API process may have put others in force; two that hold on to their own would
        take turns with every consumer.
        """
        since, self._announced = (
            self._announced,
            None,
        )  # a round that cannot read it begins to wait again
        config = await streams.stream_config(self._log.connection, STREAM)
        if config is None:
            return
        deployment = streams.deployment_of(config)
        if deployment.next_visibility_timeout_s:
            self._announced = (
                since
                if since is not None and since.deployment == deployment
                else _Announced(deployment, asyncio.get_running_loop().time())
            )
            if await self._is_adopted(self._announced):
                deployment = await streams.shorten(self._log.connection, deployment)
        self._queue.settings = self._queue.settings.agreed(deployment)

    async def _is_adopted(self, announced: _Announced) -> bool:
        """Whether all agents keep to the shorter visibility timeout. Those that are present and of
        an earlier version never do.
        """
        waited_s = asyncio.get_running_loop().time() - announced.since
        if waited_s < streams.adoption_time_s(announced.deployment.visibility_timeout_s):
            return False
        limit_s = announced.deployment.next_visibility_timeout_s
        holdouts = [
            one.instance
            for one in await agent_registry.agents(self._log.connection)
            if not 0 < one.visibility_timeout_s <= limit_s
        ]
        if holdouts:
            self._complaints.setdefault("holdouts", LogLimiter(log)).warn(
                f"the visibility timeout stays at {announced.deployment.visibility_timeout_s:g}s: "
                f"agents that do not adopt {limit_s:g}s are running. Restart {', '.join(holdouts)}"
            )
        return not holdouts

    async def _look(self) -> Situation:
        loop = asyncio.get_running_loop()
        began = loop.time()
        state = await self._log.state()
        lanes = {one.lane: one for one in await self._queue.lanes()}
        activity = await asyncio.to_thread(self._read_model.activity)
        self._look_s = loop.time() - began
        return Situation(log=state, lanes=lanes, activity=activity)

    @property
    def _visibility_s(self) -> float:
        return self._queue.settings.visibility_timeout_s

    # -- partition queues --------------------------------------------------------------------------------------------

    async def _remove_idle_lanes(self, situation: Situation) -> None:
        """Delete the consumers of partitions whose last job ended some minutes ago: so the stream's
        limit is one of active partitions.

        First in a round: what they leave is for those that are missing. A read model that is behind
        does not know of all jobs, so it removes none.
        """
        if not situation.is_current:
            return
        state, activity = situation.log, situation.activity
        busy = {*activity.queued, *map(_lane, activity.running)}
        before = state.now - (IDLE_LANE_IN_NEED if state.is_crowded else IDLE_LANE)
        idle = sorted(
            (one.last_active, one.lane)
            for one in situation.lanes.values()
            if one.lane not in busy and one.last_active < before
        )
        gate = asyncio.Semaphore(REMOVALS_AT_ONCE)

        async def remove(lane: Lane) -> None:
            async with gate:
                await self._remove_lane(lane, activity.applied_seq)

        async with asyncio.TaskGroup() as group:
            for _, lane in idle[:MAX_REMOVALS]:
                group.create_task(remove(lane))

    async def _remove_lane(self, lane: Lane, applied_seq: int) -> None:
        """Delete its consumer unless a job has come since. One that comes between both requests is
        not lost: an agent or the next round makes it again.
        """
        last = await self._log.last_of(subjects.lane_filter(lane))
        if last is None or last.seq <= applied_seq:
            log.debug("lane %s is idle: its consumer goes", lane)
            await self._queue.drop(lane)

    async def _open_lanes(self, situation: Situation) -> None:
        """A partition queue with jobs has a consumer, and idle agents are notified of it should
        they have missed the first notification.
        """
        for lane in situation.activity.queued:
            state = situation.lanes.get(lane)
            try:
                if state is None:
                    await self._queue.ensure(lane)
                if state is None or state.pending:
                    await self._queue.ring(lane)
            except InvalidInput as error:
                log.warning("%s cannot have a consumer: %s", lane, error)
            except NoConsumerLeft as error:
                self._complaints.setdefault("no consumer left", LogLimiter(log)).warn(str(error))
                return

    async def _renew_lanes(self, situation: Situation) -> None:
        """All have the settings in force."""
        for state in situation.lanes.values():
            if self._queue.is_current(state):
                continue
            try:
                await (
                    self._queue.renew(state.lane)
                    if state.usable
                    else self._queue.ensure(state.lane)
                )
            except JetStreamError as error:  # of this consumer: the others are renewed all the same
                self._complaints.setdefault("renew", LogLimiter(log)).warn(
                    f"the consumer of {state.lane} keeps its settings: {error}"
                )

    # -- jobs that no agent will end ---------------------------------------------------------------------------------

    async def _expire_overdue(self, situation: Situation) -> None:
        for job in await asyncio.to_thread(self._read_model.waited_too_long, situation.log.now):
            message = f"no agent started it within its queue timeout of {job.queue_timeout_s:g} s"
            await self._act(
                job.slot,
                Expire(ticket=job.ticket, reason="queue_timeout", message=message, by=NAME),
            )

    async def _requeue_stranded(self, situation: Situation) -> None:
        """A queued job whose partition queue has nothing left to deliver has lost its message: it
        gets a new one.
        """
        before = situation.log.now - timedelta(seconds=2 * self._visibility_s + ROUND_S)
        for lane in situation.activity.queued:
            state = situation.lanes.get(lane)
            if state is None or state.pending or state.unacknowledged:
                continue
            for job in await asyncio.to_thread(self._read_model.queued_in, lane, before):
                ticket = await self._log.get(job.ticket)
                if ticket is not None and isinstance(ticket.event, Submitted | Requeued):
                    await self._act(
                        job.slot,
                        Requeue(
                            spec=ticket.event.spec,
                            reason="undeliverable",
                            by=NAME,
                            ticket=job.ticket,
                        ),
                    )

    async def _lose_abandoned(self, situation: Situation) -> None:
        """An agent that is gone cannot end its job, and one that does not name it does not run it:
        the log has lost its end, as after a power cut.

        Usually the redelivery shows it first; this is for jobs without one. An entry of an agent
        says nothing about what came after it, so only a renewed one counts.
        """
        now = asyncio.get_running_loop().time()
        entries = {
            one.info.instance: one
            for one in await agent_registry.announcements(self._log.connection)
        }
        missing = {
            (job.agent, job.seq): job
            for job in situation.activity.running
            if not _is_named(job, entries)
        }
        seen = {
            key: _Missing(now, entries[key[0]].seq if key[0] in entries else 0) for key in missing
        }
        self._missing = {key: self._missing.get(key, one) for key, one in seen.items()}
        for key, job in missing.items():
            first = self._missing[key]
            if now - first.since < max(self._visibility_s, PRESENCE_GRACE_S):
                continue
            entry = entries.get(job.agent)
            if entry is None or entry.seq != first.entry:
                reason = "agent_gone" if entry is None else "not_run_by_its_agent"
                await self._act(
                    job.slot,
                    Lose(
                        agent=job.agent,
                        attempt=job.attempt,
                        by=NAME,
                        reason=reason,
                        job_id=job.job_id,
                    ),
                )

    async def _end_incomplete_submissions(self, situation: Situation) -> None:
        """Suites are all or nothing: what a client that died half-way has submitted is not run."""
        before = situation.log.now - INCOMPLETE_AFTER
        for org_id, suite_id, submission_id in await asyncio.to_thread(
            self._read_model.incomplete_submissions, before
        ):
            if await suite_log.abandon(self._log, org_id, suite_id, submission_id, by=NAME):
                log.warning(
                    "suite %s: its submission was never completed; its jobs are cancelled", suite_id
                )

    async def _read_advisories(self) -> None:
        """A message that JetStream stopped delivering ends its job, if it is still the job's
        ticket.
        """
        while (found := await self._next_advisory()) is not None:
            seq, advisory = found
            ticket = await self._log.get(advisory.stream_seq) if advisory.stream_seq > 0 else None
            if ticket is not None:
                await self._give_up(ticket, advisory)
            self._advisory_seq = seq + 1

    async def _next_advisory(self) -> tuple[int, Advisory] | None:
        query = {"seq": self._advisory_seq, "next_by_subj": "$JS.EVENT.ADVISORY.>"}
        try:
            answer: dict[str, Any] = await self._log.connection.api(
                f"STREAM.MSG.GET.{ADVISORIES}", query
            )
        except JetStreamError as error:
            if error.error.err_code == _NO_MESSAGE:
                return None
            raise
        with translated("an advisory"):
            message = answer["message"]
            return message["seq"], read_advisory(
                message["seq"], base64.b64decode(message.get("data", ""))
            )

    async def _give_up(self, ticket: Recorded, advisory: Advisory) -> None:
        parsed = parse_job_subject(ticket.subject)
        if parsed is None:
            return
        message = f"delivered {advisory.deliveries} times without a result"
        await self._act(
            parsed[0],
            Expire(
                ticket=ticket.seq,
                reason="deliveries_exhausted",
                message=message,
                by=NAME,
                even_started=True,
            ),
        )

    async def _act(self, slot: Slot, command: Command) -> None:
        """Carry out on the slot's present state; if that does not call for it any more, there is
        nothing to do.
        """
        try:
            event, seq = await self._log.execute(slot, command, await self._log.load(slot))
            log.info("job %s: %s (%d)", event.job_id, type(command).__name__.lower(), seq)
        except Conflict:
            return
        except NatsUnavailable:
            raise
        except QgjetError as error:
            log.warning("%s: %s", slot, error)
        except Exception:
            # a defect of ours: this job must not keep the janitor from all the others, round after
            # round
            log.exception("%s: the janitor cannot act on it", slot)


def read_advisory(seq: int, data: bytes) -> Advisory:
    """One that says nothing for what cannot be read."""
    try:
        return msgspec.json.decode(data, type=Advisory)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        log.warning("advisory %d is skipped: %s", seq, error)
        return Advisory()


def _lane(job: LiveJob) -> Lane:
    return Lane(job.slot.partition, job.rank)


def _is_named(job: LiveJob, entries: dict[str, Announcement]) -> bool:
    entry = entries.get(job.agent)
    return entry is not None and job.job_id in entry.info.running
