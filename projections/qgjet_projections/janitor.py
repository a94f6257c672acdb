"""The janitor: sees to it that every accepted job ends, whatever was lost on the way.

It decides from the read model and acts through the log, so nothing it does can go wrong by being late or being done twice: every step is an append on a
version, or an idempotent request. Several may run. Without one, jobs that agents can reach go on as ever.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

import msgspec
from msgspec import Struct

from qgjet import presence, streams, suite_log
from qgjet.bus import JetStreamError
from qgjet.decide import Command, Expire, Lose, Requeue
from qgjet.errors import InvalidInput, LogUnavailable, QgjetError, Refused, StoreFull
from qgjet.events import Requeued, Slot, Status, Submitted, Whole
from qgjet.log import EventLog, Recorded
from qgjet.queue import LaneState, Queue
from qgjet.repeated import Repeated
from qgjet.settings import QueueSettings
from qgjet.subjects import ADVISORIES, STREAM, Lane, parse_job_subject
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.views import LiveJob

log = logging.getLogger(__name__)

NAME = "janitor"
ROUND_S = 2.0
IDLE_LANE = timedelta(days=7)
INCOMPLETE_AFTER = timedelta(minutes=2)
PRESENCE_GRACE_S = 3 * presence.RENEW_EVERY_S
"""After a restart of the server nobody is present until the agents have announced themselves again."""
_NO_MESSAGE = 10037


class Advisory(Struct, frozen=True):
    """JetStream has given up on a delivery."""

    stream_seq: Whole = 0
    deliveries: Whole = 0


class Janitor:
    """`async with Janitor(...)` does a round every two seconds in the background; `round` does one."""

    def __init__(self, event_log: EventLog, read_model: ReadModel, settings: QueueSettings) -> None:
        self._log = event_log
        self._read_model = read_model
        self._queue = Queue(event_log.bus, settings)
        self._advisory_seq = 1
        self._missing: dict[tuple[str, int], float] = {}
        """(agent, attempt's `started`) -> when it was first not present, by the loop's clock."""
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="janitor")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        complaints = Repeated(log)
        while True:
            try:
                await self.round()
                complaints.over()
            except LogUnavailable as error:
                complaints.warn(f"the janitor waits for the server: {error}")
                if isinstance(error, StoreFull):
                    self._missing.clear()  # agents could not say that they are alive, either
            except Exception:
                log.exception("the janitor could not finish its round")  # the next one starts afresh from the log
            await asyncio.sleep(ROUND_S)

    async def round(self) -> None:
        """One look at everything. Harmless at any time and any number of times."""
        await self._hear_advisories()
        await self._read_settings()
        states = {state.lane: state for state in await self._queue.lanes()}
        queued, running = await asyncio.to_thread(self._live)
        await self._open_lanes({_lane(job) for job in queued}, states)
        await self._expire_overdue(queued)
        await self._requeue_stranded(queued, states)
        await self._lose_abandoned(running)
        await self._end_incomplete_submissions()
        await self._close_idle_lanes(states, {_lane(job) for job in queued})

    async def _read_settings(self) -> None:
        """Another API process may have put others in force; two that hold on to their own would take turns with every consumer."""
        config = await streams.stream_config(self._log.bus, STREAM)
        if config is not None:
            self._queue.settings = self._queue.settings.agreed(streams.deployment_of(config))

    @property
    def _visibility_s(self) -> float:
        return self._queue.settings.visibility_timeout_s

    def _live(self) -> tuple[list[LiveJob], list[LiveJob]]:
        jobs = list(self._read_model.live_jobs())
        return [job for job in jobs if job.status is Status.QUEUED], [job for job in jobs if job.status is Status.RUNNING]

    # -- lanes -------------------------------------------------------------------------------------------------------

    async def _open_lanes(self, wanted: set[Lane], states: dict[Lane, LaneState]) -> None:
        """A lane with queued jobs has a consumer, and idle agents hear of it should they have missed the bell. All have the settings in force."""
        for outdated in [state.lane for state in states.values() if not self._queue.is_current(state)]:
            await self._queue.renew(outdated)
        for lane in sorted(wanted):
            state = states.get(lane)
            try:
                if state is None:
                    await self._queue.ensure(lane)
                if state is None or state.pending:
                    await self._queue.ring(lane)
            except InvalidInput as error:
                log.warning("%s cannot have a consumer: %s", lane, error)

    async def _close_idle_lanes(self, states: dict[Lane, LaneState], wanted: set[Lane]) -> None:
        before = self._log.clock() - IDLE_LANE
        for lane, state in states.items():
            if not state.pending and not state.unacknowledged and state.last_active < before and lane not in wanted:
                log.info("lane %s has been idle since %s: its consumer goes", lane, state.last_active)
                await self._queue.drop(lane)

    # -- jobs that nobody will end -----------------------------------------------------------------------------------

    async def _expire_overdue(self, queued: Iterable[LiveJob]) -> None:
        now = self._log.clock()
        for job in queued:
            timeout_s = job.queue_timeout_s
            if timeout_s is not None and not job.attempt and (now - job.submitted_at).total_seconds() > timeout_s:
                message = f"nobody started it within its queue timeout of {timeout_s:g} s"
                await self._act(job.slot, Expire(ticket=job.ticket, reason="queue_timeout", message=message, by=NAME))

    async def _requeue_stranded(self, queued: Iterable[LiveJob], states: dict[Lane, LaneState]) -> None:
        """A queued job whose lane has nothing left to deliver has lost its message: it gets a new one."""
        before = self._log.clock() - timedelta(seconds=2 * self._visibility_s + ROUND_S)
        for job in queued:
            state = states.get(_lane(job))
            if state is None or state.pending or state.unacknowledged or not _older(job, before):
                continue
            ticket = await self._log.get(job.ticket)
            if ticket is not None and isinstance(ticket.event, Submitted | Requeued):
                await self._act(job.slot, Requeue(spec=ticket.event.spec, reason="undeliverable", by=NAME, ticket=job.ticket))

    async def _lose_abandoned(self, running: Iterable[LiveJob]) -> None:
        """An agent that is gone cannot end its job. Usually the redelivery shows it first; this is for jobs without one."""
        now = asyncio.get_running_loop().time()
        present = {info.instance for info in await presence.agents(self._log.bus)}
        missing = {(job.agent, job.seq): job for job in running if job.agent not in present}
        self._missing = {key: self._missing.get(key, now) for key in missing}
        for key, job in missing.items():
            if now - self._missing[key] >= max(self._visibility_s, PRESENCE_GRACE_S):
                await self._act(job.slot, Lose(agent=job.agent, attempt=job.attempt, by=NAME, reason="agent_gone", job_id=job.job_id))

    async def _end_incomplete_submissions(self) -> None:
        """Suites are all or nothing: what a client that died half-way has submitted is not run."""
        before = self._log.clock() - INCOMPLETE_AFTER
        for org_id, suite_id, submission_id in await asyncio.to_thread(self._read_model.incomplete_submissions, before):
            if await suite_log.abandon(self._log, org_id, suite_id, submission_id, by=NAME):
                log.warning("suite %s: its submission was never completed; its jobs are cancelled", suite_id)

    async def _hear_advisories(self) -> None:
        """A message that JetStream stopped delivering ends its job, if it is still the job's ticket."""
        while (found := await self._next_advisory()) is not None:
            seq, advisory = found
            ticket = await self._log.get(advisory.stream_seq) if advisory.stream_seq > 0 else None
            if ticket is not None:
                await self._give_up(ticket, advisory)
            self._advisory_seq = seq + 1

    async def _next_advisory(self) -> tuple[int, Advisory] | None:
        query = {"seq": self._advisory_seq, "next_by_subj": "$JS.EVENT.ADVISORY.>"}
        try:
            answer: dict[str, Any] = await self._log.bus.api(f"STREAM.MSG.GET.{ADVISORIES}", query)
        except JetStreamError as error:
            if error.error.err_code == _NO_MESSAGE:
                return None
            raise
        message = answer["message"]
        return message["seq"], read_advisory(message["seq"], base64.b64decode(message.get("data", "")))

    async def _give_up(self, ticket: Recorded, advisory: Advisory) -> None:
        parsed = parse_job_subject(ticket.subject)
        if parsed is None:
            return
        message = f"delivered {advisory.deliveries} times without a result"
        await self._act(parsed[0], Expire(ticket=ticket.seq, reason="deliveries_exhausted", message=message, by=NAME, even_started=True))

    async def _act(self, slot: Slot, command: Command) -> None:
        """Carry out on the slot's present state; if that does not call for it any more, there is nothing to do."""
        try:
            event, seq = await self._log.execute(slot, command, await self._log.load(slot))
            log.info("job %s: %s (%d)", event.job_id, type(command).__name__.lower(), seq)
        except Refused:
            return
        except LogUnavailable:
            raise
        except QgjetError as error:
            log.warning("%s: %s", slot, error)
        except Exception:
            # a defect of ours: this job must not keep the janitor from all the others, round after round
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


def _older(job: LiveJob, before: datetime) -> bool:
    return job.since < before and (job.retry_at is None or job.retry_at < before)
