"""One run: clients, agents, API replicas and a nemesis over one server or a cluster of three, and
afterwards the history of all that.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from msgspec.structs import replace

from agents import eventually
from chaos import nemesis
from chaos.clients import Clients, at_a_pace
from chaos.fleet import GUARDED, Fleet
from chaos.history import Cut, Execution, Fault, History, Replica, of_test
from chaos.messages import read_log
from chaos.nemesis import Stage
from faults.proxy import proxy
from faults.watched import patiently
from patience import patience
from projections.histories import content, rebuilt
from qgjet.config.settings import QueueSettings
from qgjet.domain.events import ACTIVE, Submitted
from qgjet.domain.subjects import lane_consumer, parse_job_subject
from qgjet.jetstream.connection import connect
from qgjet.jetstream.server import nats_server
from qgjet.store import streams
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue
from qgjet.support.clock import utc_now
from qgjet_projections.readmodel import ReadModel
from soak.cluster import cluster, free_ports

CLIENTS = 8
SPARE_CONSUMERS = 40
"""For the builds that come and go, and for readers: fewer than the builds of a long run need
together.
"""
PATIENCE_S = 200.0
"""Without a single event, while jobs are live and everything is healed: they are stuck."""
SETTLE_S = 900.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    seed: int
    jobs: int
    faults: int
    nodes: int
    directory: Path
    kinds: tuple[str, ...] = ()
    """These faults, in this order; empty: as the seed has it."""
    agents: int = 4
    slots: int = 6
    guarded: int = 2
    replicas: int = 2

    @property
    def visibility_s(self) -> float:
        """On a cluster longer than it takes to elect a leader."""
        return 3.0 if self.nodes == 1 else 12.0

    @property
    def queue(self) -> QueueSettings:
        return QueueSettings(
            visibility_timeout_s=self.visibility_s,
            retry_base_s=0.02,
            retry_cap_s=0.2,
            replicas=self.nodes,
        )

    @property
    def jobs_per_s(self) -> float:
        """So that the jobs last about as long as the faults."""
        return min(max(self.jobs / (self.faults * (3.5 if self.nodes == 1 else 9.0)), 5.0), 60.0)


@dataclass
class Result:
    history: History
    created: int
    left: int
    """Jobs that had not ended when everything was healed and nothing moved any more."""
    began: float
    """When the first client had an answer."""
    healed: float
    settled_s: float
    not_tried: list[str]


@dataclass
class Follower:
    """Follows the log while the run lasts: for its pace, and to know when everything has ended."""

    log: EventLog
    events: int = 0
    moved_at: float = field(default_factory=time.monotonic)
    live: dict[object, str] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Follow the log from its beginning; again, when it has lost its end."""
        self.stop()
        self.live.clear()
        self.task = asyncio.create_task(self._follow())

    def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()

    async def _follow(self) -> None:
        async with self.log.tail(1) as batches:
            async for batch in batches:
                self.events, self.moved_at = self.events + len(batch), time.monotonic()
                for one in batch:
                    if (
                        one.event is not None
                        and (parsed := parse_job_subject(one.subject)) is not None
                    ):
                        self._note(parsed[0], one.event.job_id, one.event.status in ACTIVE)

    def _note(self, slot: object, job_id: str, live: bool) -> None:
        if live:
            self.live[slot] = job_id
        else:
            self.live.pop(slot, None)


async def run(plan: Plan, say: Callable[[str], None]) -> Result:
    """Carry the plan out. Everything that was started is ended with it."""
    history = History(visibility_s=plan.visibility_s)
    async with contextlib.AsyncExitStack() as stack:
        stage = await _set_up(plan, stack)
        log = EventLog(
            await stack.enter_async_context(connect(stage.fleet.nats_url, name="campaign"))
        )
        follower = Follower(log)
        stage.appended = lambda: follower.events

        def was_cut(cut: Cut) -> None:
            history.cuts.append(cut)
            follower.start()

        stage.was_cut = was_cut
        follower.start()
        stack.callback(follower.stop)
        clients = await _under_faults(plan, stage, stack, history, say)
        healed = time.monotonic()
        say(
            f"{len(clients.created)} jobs and {len(history.faults)} faults; waiting until everything has ended"
        )
        await _settle(stage.fleet, log, follower)
        settled_s = time.monotonic() - healed
        await _collect(plan, stage, log, history)
        history.ops = clients.ops
        not_tried = (
            []
            if plan.nodes > 1 or plan.kinds or stage.disk is not None
            else ["fill_disk: a file system of its own needs root on Linux"]
        )
        began = min(op.ended for op in clients.ops if op.ended is not None)
        return Result(
            history, len(clients.created), len(follower.live), began, healed, settled_s, not_tried
        )


async def _set_up(plan: Plan, stack: contextlib.AsyncExitStack) -> Stage:
    plan.directory.mkdir(parents=True, exist_ok=True)
    rng = random.Random(plan.seed)
    stage = Stage(
        fleet=Fleet(plan.directory, plan.queue, "", plan.seed),
        visibility_s=plan.visibility_s,
        rng=rng,
    )
    if plan.nodes == 1:
        stage.disk = (
            None if plan.kinds else stack.enter_context(nemesis.small_disk(plan.directory / "disk"))
        )
        stage.server = await stack.enter_async_context(
            nats_server(plan.directory / "disk" / "nats")
        )
        servers = [stage.server]
    else:
        stage.cluster = await stack.enter_async_context(
            cluster(plan.directory / "cluster", relayed=True)
        )
        await stage.cluster.ready()
        servers = stage.cluster.nodes
    stage.fleet.nats_url = ",".join(server.url for server in servers)
    async with connect(stage.fleet.nats_url, name="setup") as connection:
        await streams.ensure(
            connection,
            replace(plan.queue.deployment, max_consumers=len(nemesis.LANES) + SPARE_CONSUMERS),
        )
        await streams.change_leases(connection, plan.queue.deployment)
    stage.proxies = [await stack.enter_async_context(proxy(server)) for server in (servers * 2)[:2]]
    _start(plan, stage)
    stack.callback(stage.fleet.close)
    return stage


def _start(plan: Plan, stage: Stage) -> None:
    for number, port in enumerate(free_ports(plan.replicas)):
        stage.fleet.start_replica(f"api-{number}", port)
    for number in range(plan.agents):
        behind = stage.proxies[number].url if number < len(stage.proxies) else ""
        stage.fleet.start_worker(f"agent-{number}", behind, plan.slots)
    for number in range(plan.guarded):
        stage.fleet.start_guarded(f"guarded-{number}")


async def _under_faults(
    plan: Plan,
    stage: Stage,
    stack: contextlib.AsyncExitStack,
    history: History,
    say: Callable[[str], None],
) -> Clients:
    """Load and faults until there was enough of both."""
    links = [stage.fleet.nats_url, stage.fleet.nats_url, stage.proxies[0].url]
    clocks = [
        utc_now,
        lambda: utc_now() - timedelta(minutes=3),
        lambda: utc_now() - timedelta(days=100),
    ]
    logs = [
        EventLog(await stack.enter_async_context(connect(url, name=f"client {number}")), clock)
        for number, (url, clock) in enumerate(zip(links, clocks, strict=True))
    ]
    urls = [replica.url for replica in stage.fleet.replicas.values()]
    clients = Clients(logs, urls, random.Random(f"clients {plan.seed}"), plan.visibility_s)
    stack.push_async_callback(clients.close)
    enough = asyncio.Event()

    def pause_s() -> float:
        """A share of the jobs for each fault; when there are no faults left, as fast as it goes;
        when there are enough jobs, a trickle.
        """
        if len(clients.created) >= plan.jobs:
            return 0.5
        over = len(history.faults)
        ahead = len(clients.created) > plan.jobs * (over + 2) / max(plan.faults, 1)
        return 0.3 if ahead and over < plan.faults else 1 / plan.jobs_per_s

    def told(fault: Fault) -> None:
        history.faults.append(fault)
        say(f"{len(history.faults):4d}  {fault.kind} {fault.victim} {fault.note}".rstrip())

    names = [f"client-{number}" for number in range(CLIENTS)]
    acting = asyncio.create_task(at_a_pace(clients, names, pause_s, enough))
    attacks = nemesis.named(plan.kinds) or nemesis.schedule(
        plan.faults, plan.seed, nodes=plan.nodes, disk=stage.disk is not None
    )
    try:
        async for _ in nemesis.torment(stage, attacks, plan.seed, told):
            if acting.done():
                break
        while len(clients.created) < plan.jobs and not acting.done():
            await asyncio.sleep(0.1)
            stage.fleet.look()
    finally:
        enough.set()
        await acting
    return clients


async def _settle(fleet: Fleet, log: EventLog, follower: Follower) -> None:
    """Until every job has ended, or nothing moves any more. Nobody disturbs now."""
    deadline = time.monotonic() + patience(SETTLE_S)
    last = (await patiently(log.state)).last_seq
    while time.monotonic() < deadline:
        fleet.look()
        if (
            not follower.live
            and follower.events
            and time.monotonic() - follower.moved_at > 1.0
            and (await patiently(log.state)).last_seq == last
        ):
            return
        last = (await patiently(log.state)).last_seq
        if time.monotonic() - follower.moved_at > PATIENCE_S:
            return
        await asyncio.sleep(0.25)


# -- afterwards ----------------------------------------------------------------------------------------------------------------


async def _collect(plan: Plan, stage: Stage, log: EventLog, history: History) -> None:
    lanes = await patiently(Queue(log.connection, plan.queue).lanes)
    history.deliverable = [
        lane_consumer(state.lane) for state in lanes if state.pending or state.unacknowledged
    ]
    await asyncio.to_thread(stage.fleet.stop_agents)
    history.replicas = await _replicas(plan, stage.fleet, log)
    history.log = await read_log(log.connection)
    history.unread = stage.fleet.executions(history.executions)
    _guarded(stage.fleet, history)
    history.surprises = stage.fleet.surprises


async def _replicas(plan: Plan, fleet: Fleet, log: EventLog) -> list[Replica]:
    """Held against a rebuild, once they have everything."""
    last = (await patiently(log.state)).last_seq
    models = {name: ReadModel.open(replica.database) for name, replica in fleet.replicas.items()}

    async def have_everything() -> bool:
        return all(model.applied_seq >= last for model in models.values())

    with contextlib.suppress(AssertionError):  # what it has then is not what a rebuild gives
        await eventually(have_everything, within_s=60.0)
    for name, replica in fleet.replicas.items():
        models[name].close()
        await asyncio.to_thread(replica.stop)
    expected = await rebuilt(log, plan.directory / "rebuilt.sqlite", within_s=300.0)
    return [
        Replica(name=name, differs=_differences(content(replica.database), expected))
        for name, replica in fleet.replicas.items()
    ]


def _differences(found: dict[str, list[object]], expected: dict[str, list[object]]) -> list[str]:
    return [table for table in expected if found.get(table) != expected[table]]


def _guarded(fleet: Fleet, history: History) -> None:
    """What the real processes have written down. Two of one job cannot both hold its lock; who
    finds it taken says so.
    """
    ids = {
        one.slot.test: one.event.job_id
        for one in history.log
        if one.slot and one.slot.target == GUARDED and isinstance(one.event, Submitted)
    }
    agents = {
        (one.event.job_id, one.event.attempt): one.event.agent
        for one in history.log
        if one.event is not None and one.event.agent
    }
    lines = fleet.yard.lines()
    ends = {(line.test, line.attempt): line.at for line in lines if line.word == "end"}
    history.clashes = [
        f"{line.test}: attempt {line.attempt} found another one alive"
        for line in lines
        if line.word == "overlap"
    ]
    history.clashes += [
        f"{test}: a process is alive after its agents have ended"
        for test in sorted({line.test for line in lines})
        if fleet.yard.is_alive(test)
    ]
    for line in lines:
        if line.word != "start":
            continue
        job_id = ids.get(line.test, of_test(line.test))
        ended = ends.get((line.test, line.attempt))
        verdict = "" if ended is None else "failed" if "/fail." in line.test else "passed"
        agent = agents.get((job_id, line.attempt), "nobody")
        history.executions.append(
            Execution(
                job_id=job_id,
                attempt=line.attempt,
                agent=agent,
                began=line.at,
                ended=line.at if ended is None else ended,
                verdict=verdict,
            )
        )
