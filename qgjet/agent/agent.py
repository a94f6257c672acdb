"""The agent: finds lanes with work, gives them to its slots, keeps partitions warm, says that it is
alive.

Stopping: `drain` finishes what runs and takes nothing new; `halt` stops what runs too and gives it
back, which costs the jobs nothing. Either way `run` returns when no process of a job is left. A
`kill -9` leaves the same on the log as a halt that could not say goodbye: the leases run out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import uuid
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from pathlib import Path

from qgjet.agent.executor import Executor, Result
from qgjet.agent.host import Host
from qgjet.agent.queue_tracker import Catalog
from qgjet.agent.scheduling import Bench, Turns, Waiting, choose
from qgjet.agent.slot import AgentSlot
from qgjet.config.settings import AgentSettings, ArtifactSettings, QueueSettings
from qgjet.domain.control import Control, DrainRequested, Pauses
from qgjet.domain.events import Instant, Partition
from qgjet.domain.subjects import Lane
from qgjet.errors import NatsUnavailable, NoConsumerLeft
from qgjet.jetstream.connection import STOP_TIMEOUT_S
from qgjet.runners.base import Runner
from qgjet.store.agent_registry import RENEW_EVERY_S, AgentInfo, TargetSlots, announce, withdraw
from qgjet.store.control_log import follow
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Delivery, Queue
from qgjet.support import private_files
from qgjet.support.clock import end, within
from qgjet.support.log_limiter import LogLimiter
from qgjet.version import __version__

log = logging.getLogger(__name__)

BELL_WAIT_S = 0.25
"""A bell rings before its message is stored: how long to wait for it."""
RING_EVERY_S = 0.05
"""Each bell wakes one idle agent, and that one rings for the next."""
AFTER_TROUBLE_S = 0.5
COOL_OFF_S = 15.0
"""How long others have precedence for a partition that could not be prepared here."""


class _WarmAndBusy(Container[Partition]):
    """The partitions of busy slots, looked up when somebody asks: most choices do not need them."""

    def __init__(self, slots: Sequence[AgentSlot]) -> None:
        self._slots = slots

    def __contains__(self, partition: object) -> bool:
        return any(slot.busy and slot.partition == partition for slot in self._slots)


class Agent:
    """Serves some targets with some slots until it is drained. `runners` and `slots` are by target."""

    def __init__(
        self,
        event_log: EventLog,
        runners: Mapping[str, Runner],
        slots: Mapping[str, int],
        work_dir: Path,
        settings: AgentSettings,
        queue_settings: QueueSettings,
        artifact_settings: ArtifactSettings | None = None,
    ) -> None:
        self.instance = f"{settings.name or socket.gethostname()}-{uuid.uuid4().hex[:12]}"
        self._log = event_log
        self._queue = Queue(event_log.connection, queue_settings)
        self._settings = settings
        self._work_dir = work_dir
        self._slots = [
            AgentSlot(target, runners[target], work_dir)
            for target, count in slots.items()
            for _ in range(count)
        ]
        self._limit = settings.slots or len(self._slots)
        self._catalog = Catalog(list(slots), settings.app_version_id)
        self._turns = Turns()
        self._executor = Executor(
            event_log,
            self.instance,
            settings,
            queue_settings,
            work_dir,
            artifact_settings or ArtifactSettings(),
        )
        self._busy = 0
        self._cooling: dict[Partition, float] = {}
        self._pauses: Pauses | None = None
        """None: not known yet; nothing is started before."""
        self._pause_timer: asyncio.TimerHandle | None = None
        self._rang: set[Lane] = set()
        self._complaints = LogLimiter(log)
        self._host = Host(work_dir, event_log.clock)
        self._host_timer: asyncio.TimerHandle | None = None
        self._since: Instant = event_log.clock()
        self._draining = asyncio.Event()
        self._slots_changed = asyncio.Event()
        self._refresh_now = asyncio.Event()
        self._announce_now = asyncio.Event()
        self._deaf: dict[str, Callable[[], Awaitable[None]]] = {}
        self._work: asyncio.TaskGroup | None = None
        self._random = random.Random()

    # -- life --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until drained; returns with every session released and the agent withdrawn."""
        self._log.connection.on_reconnect.append(self._on_reconnect)
        with contextlib.suppress(OSError):  # `Host` sees to it before each job
            private_files.make_directory(self._work_dir)
        try:
            async with asyncio.TaskGroup() as keepers:
                tasks = [
                    keepers.create_task(keeper())
                    for keeper in (
                        self._refresh,
                        self._announce,
                        self._listen,
                        self._cool_down,
                        self._follow_controls,
                    )
                ]
                async with asyncio.TaskGroup() as self._work:
                    await self._draining.wait()
                await end(*tasks, within_s=STOP_TIMEOUT_S, again_s=STOP_TIMEOUT_S / 2)
        finally:
            self._log.connection.on_reconnect.remove(self._on_reconnect)
            await self._say_goodbye()

    def _on_reconnect(self) -> None:
        self._refresh_now.set()
        self._announce_now.set()

    def drain(self) -> None:
        """Finish what runs, give back what is not started, take nothing new. A second call is
        harmless.
        """
        self._executor.drain()
        self._draining.set()
        self._announce_now.set()
        self._slots_changed.set()

    def halt(self) -> None:
        """Drain, and stop what runs now: those jobs go back to the queue and lose nothing but time."""
        self.drain()
        self._executor.halt()

    @property
    def draining(self) -> bool:
        return self._draining.is_set()

    async def _say_goodbye(self) -> None:
        await asyncio.gather(*(stop() for stop in self._deaf.values()), return_exceptions=True)
        await asyncio.gather(*(slot.release() for slot in self._slots), return_exceptions=True)
        with contextlib.suppress(NatsUnavailable):
            await withdraw(self._log.connection, self.instance)

    # -- giving work to slots ----------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Give lanes with work to free slots until one of both runs out."""
        while (
            self._work is not None
            and not self.draining
            and self._busy < self._limit
            and self._log.connection.is_connected
        ):
            if not self._catalog.waiting() or self._is_backing_off():
                return
            chosen = choose(self._open_lanes(), self._bench(), self._turns)
            if chosen is None:
                return
            self._assign(self._free_slot(chosen.lane.partition), chosen.lane)

    def _is_backing_off(self) -> bool:
        """Whether this host cannot run jobs for now; the dispatch goes on by itself after that.
        Other agents are notified meanwhile.
        """
        delay_s = self._host.backs_off_s()
        if delay_s and self._host_timer is None:
            self._announce_now.set()
            self._slots_changed.set()
            self._host_timer = asyncio.get_running_loop().call_later(delay_s, self._try_host_again)
        return delay_s > 0

    def _try_host_again(self) -> None:
        self._host_timer = None
        self._slots_changed.set()
        self._refresh_now.set()

    def _open_lanes(self) -> list[Waiting]:
        """Lanes that are believed to have work, without those that are paused."""
        waiting = self._catalog.waiting()
        return (
            waiting
            if self._pauses is not None and not self._pauses
            else [one for one in waiting if not self._is_paused(one.lane)]
        )

    def _is_paused(self, lane: Lane) -> bool:
        return (
            self._pauses is None or self._pauses.of(lane.partition, self._log.clock()) is not None
        )

    def _bench(self) -> Bench:
        free = [slot for slot in self._slots if not slot.busy]
        now = asyncio.get_running_loop().time()
        return Bench(
            free_targets={slot.target for slot in free},
            warm={slot.partition: slot.run_in_a_row for slot in free if slot.partition is not None},
            warm_busy=_WarmAndBusy(self._slots),
            cooling={partition for partition, until in self._cooling.items() if until > now},
            batch=self._settings.batch,
        )

    def _free_slot(self, partition: Partition) -> AgentSlot:
        """The slot where it is warm, else a cold one, else the one that was idle longest."""
        free = (slot for slot in self._slots if not slot.busy and slot.target == partition.target)
        return min(
            free,
            key=lambda slot: (
                slot.partition != partition,
                slot.partition is not None,
                slot.idle_since,
            ),
        )

    def _assign(self, slot: AgentSlot, lane: Lane) -> None:
        assert self._work is not None
        slot.busy = True
        self._busy += 1
        self._slots_changed.set()
        if slot.partition == lane.partition and slot.run_in_a_row >= self._settings.batch:
            slot.run_in_a_row = 0
        self._work.create_task(self._serve(slot, lane, self._catalog.take(lane)))

    async def _serve(self, slot: AgentSlot, lane: Lane, rung: bool) -> None:
        """Run up to `batch` jobs of the lane in the slot, then look again."""
        try:
            while await self._serve_one(slot, lane, rung) and self._goes_on(slot, lane):
                rung = self._catalog.take(lane)
        except asyncio.CancelledError:
            self.drain()  # what becomes free now must not be given away again
            raise
        except NatsUnavailable as error:
            log.warning("%s: %s", lane, error)
            await asyncio.sleep(AFTER_TROUBLE_S)
        finally:
            slot.busy = False
            slot.idle_since = asyncio.get_running_loop().time()
            self._busy -= 1
            self._slots_changed.set()
            self._dispatch()

    def _goes_on(self, slot: AgentSlot, lane: Lane) -> bool:
        return (
            not self.draining
            and slot.run_in_a_row < self._settings.batch
            and self._catalog.has_waiting(lane)
            and not self._is_paused(lane)
        )

    async def _serve_one(self, slot: AgentSlot, lane: Lane, rung: bool) -> bool:
        try:
            delivery = await self._queue.take(lane, BELL_WAIT_S if rung else 0.0)
        except NoConsumerLeft as error:
            self._complaints.warn(
                str(error)
            )  # the janitor makes it and notifies an agent as soon as another one has gone
            delivery = None
        if delivery is None:
            self._catalog.empty(lane)
            return False
        self._catalog.taken(lane, since=delivery.seq, pending=delivery.meta.num_pending)
        if self.draining:
            await self._give_back_unseen(delivery)
            return False
        self._dispatch()  # what waits behind it is for the other slots, and for the other agents
        if self._catalog.has_waiting(lane):
            await self._ring_for_others(lane)
        result = await self._execute(slot, lane, delivery)
        return not result.prepare_failed and not result.failed_host

    async def _give_back_unseen(self, delivery: Delivery) -> None:
        """At once, unless somebody runs the job: the next delivery would say that its lease is
        over.
        """
        job = await self._log.load(delivery.spec.slot)
        await delivery.nak(
            self._executor.visibility.redelivery_s if job is not None and job.agent else 0.0
        )

    async def _execute(self, slot: AgentSlot, lane: Lane, delivery: Delivery) -> Result:
        self._turns.take(lane.partition.org_id)
        self._catalog.running[lane] += 1
        try:
            result = await self._executor.execute(delivery, slot)
        finally:
            self._catalog.ended(lane)
        slot.run_in_a_row += result.ran
        if result.failed_host:
            self._host.failed(result.failed_host)
        elif result.ran:
            self._host.ran()
        if result.prepare_failed:
            self._cooling[lane.partition] = asyncio.get_running_loop().time() + COOL_OFF_S
        if result.again_in_s is not None:
            self._ring_later(lane, result.again_in_s + COOL_OFF_S * result.prepare_failed)
        return result

    async def _ring_for_others(self, lane: Lane) -> None:
        """Ring now, at most every RING_EVERY_S, and once more after that: the first bell may still
        be ours, with nobody to hear it.
        """
        loop = asyncio.get_running_loop()
        if lane not in self._rang:
            self._rang.add(lane)
            loop.call_later(RING_EVERY_S, self._ring_again, lane)
            await self._queue.ring(lane)

    def _ring_again(self, lane: Lane) -> None:
        self._rang.discard(lane)
        if self._work is not None and not self.draining and self._catalog.has_waiting(lane):
            self._work.create_task(self._ring_unless_lost(lane))

    async def _ring_unless_lost(self, lane: Lane) -> None:
        with contextlib.suppress(NatsUnavailable):
            await self._queue.ring(lane)

    def _ring_later(self, lane: Lane, delay_s: float) -> None:
        """No bell rings for a message that comes back."""

        def ring() -> None:
            if self._catalog.ring(lane):
                self._dispatch()

        asyncio.get_running_loop().call_later(delay_s, ring)

    # -- keeping up --------------------------------------------------------------------------------------------------

    async def _refresh(self) -> None:
        """Look at all lanes now and then, and at once after the connection came back: bells may
        have been missed.
        """
        complaints = LogLimiter(log)
        while True:
            try:
                states = await self._queue.lanes()
            except NatsUnavailable as error:
                complaints.warn(f"lanes cannot be listed: {error}")
                await self._wait_for_server()
                continue
            complaints.over()
            self._catalog.refresh(states)
            self._dispatch()
            await self._restore({state.lane for state in states})
            in_flight = (
                any(self._catalog.serves(state.lane) and state.unacknowledged for state in states)
                or self._busy
            )
            interval = (
                min(self._settings.poll_s, self._executor.visibility.redelivery_s / 3)
                if in_flight
                else self._settings.poll_s
            )
            await within(interval * self._random.uniform(0.8, 1.2), self._refresh_now)
            self._refresh_now.clear()

    async def _restore(self, lanes: Container[Lane]) -> None:
        """Make the consumers of running jobs again that were deleted: without one no heartbeat is
        confirmed, and the job would be lost with its lease.
        """
        for lane in [
            lane for lane, running in self._catalog.running.items() if running and lane not in lanes
        ]:
            with contextlib.suppress(NatsUnavailable):
                await self._queue.ensure(lane)

    async def _wait_for_server(self) -> None:
        await asyncio.sleep(0.5)
        with contextlib.suppress(NatsUnavailable):
            await self._log.connection.wait_connected(self._settings.poll_s)

    async def _listen(self) -> None:
        """Hear the bell of a target exactly while a slot of it is free: a bell that nobody can
        answer is for somebody else.
        """
        while True:
            self._slots_changed.clear()
            listens = self._busy < self._limit and not self.draining and self._host_timer is None
            wanted = {slot.target for slot in self._slots if not slot.busy} if listens else set()
            with contextlib.suppress(NatsUnavailable):
                for target in wanted - self._deaf.keys():
                    self._deaf[target] = await self._queue.listen(target, self._rung)
                for target in self._deaf.keys() - wanted:
                    await self._deaf.pop(target)()
            await self._slots_changed.wait()

    async def _rung(self, lane: Lane) -> None:
        if not self._catalog.ring(lane):
            return
        self._dispatch()
        if self._catalog.has_waiting(lane):
            with contextlib.suppress(NatsUnavailable):
                await self._ring_for_others(lane)

    async def _announce(self) -> None:
        """Renew the entry in the list of agents, and adopt the visibility timeout in force; at once
        after the connection came back.
        """
        while True:
            with contextlib.suppress(NatsUnavailable):
                await self._executor.visibility.read()
                self._queue.settings = self._executor.visibility.settings
                await announce(self._log.connection, self.info())
            await within(RENEW_EVERY_S, self._announce_now)
            self._announce_now.clear()

    def info(self) -> AgentInfo:
        """What the agent says about itself."""
        by_target: dict[str, list[AgentSlot]] = {}
        for slot in self._slots:
            by_target.setdefault(slot.target, []).append(slot)
        return AgentInfo(
            instance=self.instance,
            name=self._settings.name or socket.gethostname(),
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            targets=tuple(
                TargetSlots(
                    target=target, slots=len(slots), running=sum(slot.busy for slot in slots)
                )
                for target, slots in by_target.items()
            ),
            slots=self._limit,
            since=self._since,
            app_version_id=self._settings.app_version_id,
            running=tuple(self._executor.running),
            warm=tuple(
                f"{p.org_id}/{p.app_version_id}/{p.target}"
                for slot in self._slots
                if (p := slot.partition)
            ),
            draining=self.draining,
            problem=self._host.problem,
            problem_since=self._host.problem_since,
            visibility_timeout_s=self._executor.visibility.shortest_s,
        )

    async def _follow_controls(self) -> None:
        """Know what is paused, and whether somebody has asked this agent to drain."""
        async with contextlib.aclosing(
            follow(self._log.connection, poll_s=self._settings.poll_s)
        ) as decisions:
            async for pauses, events in decisions:
                if any(self._is_told_to_drain(event) for event in events):
                    self.drain()
                self._pauses = pauses
                self._resume_in_time()
                self._dispatch()

    def _is_told_to_drain(self, event: Control) -> bool:
        return isinstance(event, DrainRequested) and event.name == self.instance

    def _resume_in_time(self) -> None:
        """No event tells that a pause has reached its end."""
        if self._pause_timer is not None:
            self._pause_timer.cancel()
        now = self._log.clock()
        end = self._pauses.next_end(now) if self._pauses is not None else None
        if end is not None:
            self._pause_timer = asyncio.get_running_loop().call_later(
                (end - now).total_seconds() + 0.01, self._pause_is_over
            )

    def _pause_is_over(self) -> None:
        self._resume_in_time()
        self._dispatch()

    async def _cool_down(self) -> None:
        """Release sessions that nobody has used for a while, and forget old failures to prepare."""
        while True:
            await asyncio.sleep(min(self._settings.keep_warm_s / 4, 5.0))
            now = asyncio.get_running_loop().time()
            self._cooling = {
                partition: until for partition, until in self._cooling.items() if until > now
            }
            for slot in self._slots:
                if (
                    not slot.busy
                    and slot.partition is not None
                    and now - slot.idle_since > self._settings.keep_warm_s
                ):
                    await self._cool(slot)
            self._dispatch()

    async def _cool(self, slot: AgentSlot) -> None:
        slot.busy = True
        try:
            await slot.release()
        finally:
            slot.busy = False
            self._slots_changed.set()
