"""An agent's hold on a delivered job.

All timers are fractions of the visibility timeout V. A heartbeat every V/3 is a confirmed "in
progress" to JetStream plus a look at the slot, which also shows a cancel, a replacement or a lost
slot. The lease counts from the *sending* of the last confirmed heartbeat. Without one for 2V/3 the
process is asked to end; at 9V/10 the guardian kills it, with or without the agent: before V, when
the job may be given to another agent. All of it goes by `lease_time()`, which counts the time of a
suspend; a lease that ran out meanwhile is not extended, because another agent may have the job.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType

from qgjet.agent.visibility import VisibilityTimeout
from qgjet.domain.events import Status
from qgjet.domain.job import Job
from qgjet.errors import NatsUnavailable
from qgjet.process.stop_control import StopControl, StopReason
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Delivery
from qgjet.support.clock import LEASE_LOOK_S, lease_time

log = logging.getLogger(__name__)

HEARTBEAT = 1 / 3
GIVE_UP = 2 / 3
HOLD = 9 / 10
RETRY = 1 / 12


class Lease:
    """Heartbeats for the length of a block: `async with Lease(...) as lease`."""

    def __init__(
        self, event_log: EventLog, delivery: Delivery, agent: str, visibility: VisibilityTimeout
    ) -> None:
        self._log = event_log
        self._delivery = delivery
        self._agent = agent
        self._visibility = visibility
        self._visibility_s = visibility.shortest_s
        self._confirmed = delivery.asked_at
        self._due = self._confirmed
        self._timer: asyncio.TimerHandle | None = None
        self._beat: asyncio.Task[None] | None = None
        self.attempt = 0
        """That runs; 0 before `running`."""
        self.server = ""
        """`connection.server` when the job's state was read that the next command rests on."""
        self.stop_control = StopControl(self._confirmed + HOLD * self._visibility_s)
        self.on_limit: Callable[[float], None] = lambda _: None
        """Gets the limit of the attempt, in seconds, that another submission has brought; at each
        heartbeat.
        """

    def running(self, attempt: int) -> None:
        """From now on the slot must say that this agent runs `attempt`."""
        self.attempt = attempt

    @property
    def is_over(self) -> bool:
        """Whether the last confirmed heartbeat is so long ago that the message may have been given
        to somebody else.
        """
        return lease_time() - self._confirmed >= self._visibility_s

    async def __aenter__(self) -> Lease:
        self._visibility_s = await self._visibility.lease_s(self._confirmed)
        self.stop_control.extend(self._confirmed + HOLD * self._visibility_s)
        age_s = lease_time() - self._confirmed
        if (
            age_s >= GIVE_UP * self._visibility_s
        ):  # the agent was frozen between the delivery and here
            self.stop_control.stop(StopReason.LEASE_LOST)
        self._schedule(max(0.0, HEARTBEAT - age_s / self._visibility_s))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._beat is not None and not self._beat.done():
            self._beat.cancel()
            await asyncio.gather(self._beat, return_exceptions=True)

    def _schedule(self, fraction: float) -> None:
        self._due = lease_time() + fraction * self._visibility_s
        self._beat_when_due()

    def _beat_when_due(self) -> None:
        loop, left_s = asyncio.get_running_loop(), self._due - lease_time()
        if left_s > 0:  # in short steps, because timers stand still while the host is suspended
            self._timer = loop.call_later(min(left_s, LEASE_LOOK_S), self._beat_when_due)
        else:
            self._beat = loop.create_task(self._heartbeat())

    async def _heartbeat(self) -> None:
        sent = lease_time()
        if (
            sent >= self.stop_control.kill_at
        ):  # this host was suspended: the process is being killed, and another agent may have the job
            log.warning(
                "job %s: its lease ran out while this agent stood still, its process is stopped",
                self._delivery.spec.job_id,
            )
            self.stop_control.stop(StopReason.LEASE_LOST)
            return
        try:
            async with asyncio.timeout(HEARTBEAT * self._visibility_s):
                visibility_s = await self._visibility.lease_s(sent)
                await self._delivery.extend(HEARTBEAT * self._visibility_s)
                job = await self._log.load(self._delivery.spec.slot)
        except (NatsUnavailable, TimeoutError) as error:
            self._missed(error)
            return
        except Exception as defect:
            log.exception(
                "job %s: a heartbeat failed", self._delivery.spec.job_id
            )  # the next one may pass
            self._missed(defect)
            return
        self._confirmed, self._visibility_s = sent, visibility_s
        if self._judge(job):
            self.stop_control.extend(sent + HOLD * self._visibility_s)
            self._schedule(HEARTBEAT)

    def _missed(self, error: Exception) -> None:
        if lease_time() - self._confirmed >= GIVE_UP * self._visibility_s:
            log.warning(
                "job %s: no heartbeat was confirmed in time, its process is stopped: %s",
                self._delivery.spec.job_id,
                error,
            )
            self.stop_control.stop(StopReason.LEASE_LOST)
        self._schedule(RETRY)

    def _judge(self, job: Job | None) -> bool:
        """Whether the hold goes on, whatever the process was asked before: one that is being
        stopped for a drain must not outlive the loss of its job.
        """
        if not self._is_ours(job):
            log.warning(
                "job %s was taken away from %s, its process is stopped",
                self._delivery.spec.job_id,
                self._agent,
            )
            self.stop_control.stop(StopReason.LEASE_LOST)
            return False
        if job is not None and job.cancel_requested:
            self.stop_control.stop(StopReason.CANCELLED)
        elif job is not None and job.execution_timeout_s is not None:
            self.on_limit(job.execution_timeout_s)
        return self.stop_control.reason is not StopReason.LEASE_LOST

    def _is_ours(self, job: Job | None) -> bool:
        if (
            job is None
            or job.job_id != self._delivery.spec.job_id
            or job.ticket != self._delivery.seq
        ):
            return False
        if self.attempt:
            return job.status is Status.RUNNING and (job.agent, job.attempt) == (
                self._agent,
                self.attempt,
            )
        # before `started` is appended; it may have been, with its answer still on the way
        return job.status is Status.QUEUED or job.agent == self._agent
