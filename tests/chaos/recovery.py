"""How long it takes until work goes on: after the loss of each node, of the server, of a
connection's read loop, and of an API with a million events.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import pairwise
from pathlib import Path

from agents import agree, eventually
from chaos.fleet import SCRIPTED, Fleet
from chaos.messages import read_log
from factories import spec
from faults.watched import patiently
from qgjet.config.settings import QueueSettings
from qgjet.domain import codec, subjects
from qgjet.domain.decide import EndAttempt, Start, Submit, decide
from qgjet.domain.events import Outcome, Requeued, Started, Submitted, Verdict, event_type
from qgjet.domain.job import Job, state_of
from qgjet.errors import NatsUnavailable
from qgjet.jetstream.connection import connect
from qgjet.jetstream.server import NatsServer, nats_server
from qgjet.store import streams
from qgjet.store.event_log import EventLog
from qgjet.support.clock import utc_now
from qgjet_projections.readmodel import ReadModel
from soak.cluster import cluster, free_ports

SUBMIT_EVERY_S = 0.03
STEADY_S = 3.0
LOOK_S = 18.0
"""How long after a loss deliveries are looked at."""
RESTARTS = 5
EACH, JOBS_AT_ONCE = 3, 1000
"""Events of a job that passes; jobs that are written before the server is asked whether it has
them.
"""
ONE_SERVER = QueueSettings(visibility_timeout_s=10.0, retry_base_s=0.02, retry_cap_s=0.2)
THREE_NODES = QueueSettings(
    visibility_timeout_s=15.0, retry_base_s=0.02, retry_cap_s=0.2, replicas=3
)
MOST_S = {"node": 15.0, "server": 8.0, "read loop": 16.0, "projection": 15.0}
"""More than that is a failure. A silent connection is looked at every 10 s, for 5 s at most."""


async def measure(directory: Path, say: Callable[[str], None], *, events: int) -> bool:
    """Measure everything and say it; False when something took longer than it may."""
    found = [
        *await after_each_node(directory / "nodes", say),
        *await after_restarts(directory / "restarts", say),
        await after_a_dead_read_loop(directory / "loop", say),
        *await projection(directory / "projection", say, events),
    ]
    return all(took_s <= MOST_S[kind] for kind, took_s in found)


@contextlib.asynccontextmanager
async def load(url: str, queue: QueueSettings, directory: Path) -> AsyncIterator[EventLog]:
    """Two agents, and a client that submits all the time."""
    fleet = Fleet(directory, queue, url, seed=1)
    async with connect(url, name="load", timeout_s=15.0) as connection:
        await patiently(lambda: agree(connection, queue.deployment))
        log = EventLog(connection)
        submitting = asyncio.create_task(_submit(log))
        try:
            for place in ("one", "two"):
                fleet.start_worker(place, slots=20)
            yield log
        finally:
            submitting.cancel()
            await asyncio.gather(submitting, return_exceptions=True)
            fleet.close()


async def _submit(log: EventLog) -> None:
    async def one(number: int) -> None:
        with contextlib.suppress(NatsUnavailable):
            await log.submit(spec(target=SCRIPTED, test=f"tests/{number}/pass.spec.js"))

    async with asyncio.TaskGroup() as group:
        for number in range(1_000_000):
            group.create_task(one(number))
            await asyncio.sleep(SUBMIT_EVERY_S)


async def after_each_node(directory: Path, say: Callable[[str], None]) -> list[tuple[str, float]]:
    """The longest pause of deliveries after the kill of each node of three, which comes back at the
    end of the look.
    """
    found = []
    async with cluster(directory / "cluster") as nodes:
        await nodes.ready()
        url = ",".join(node.url for node in nodes.nodes)
        kills: list[tuple[str, float]] = []
        async with load(url, THREE_NODES, directory / "fleet") as log:
            await asyncio.sleep(2 * STEADY_S)
            for number, node in enumerate(nodes.nodes):
                roles = [
                    name
                    for name, ask in (("log", nodes.leader), ("meta", nodes.meta_leader))
                    if await patiently(ask) is node
                ]
                kills.append(
                    (
                        f"node {number}{' (leads ' * bool(roles)}{' and '.join(roles)}{')' * bool(roles)}",
                        time.monotonic(),
                    )
                )
                node.kill()
                await asyncio.sleep(LOOK_S)
                await node.start()
                await asyncio.sleep(STEADY_S)
            starts = await _starts(log)
        for name, at in kills:
            found.append(("node", _longest_pause(starts, at, at + LOOK_S)))
            say(f"deliveries after the loss of {name}: {found[-1][1]:.1f} s")
    return found


async def after_restarts(directory: Path, say: Callable[[str], None]) -> list[tuple[str, float]]:
    async with nats_server(directory / "nats") as server:
        await _set_up(server)
        kills = []
        async with load(server.url, ONE_SERVER, directory / "fleet") as log:
            for _ in range(RESTARTS):
                await asyncio.sleep(STEADY_S)
                kills.append(time.monotonic())
                server.kill()
                await server.start()
            await asyncio.sleep(2 * STEADY_S)
            starts = await _starts(log)
    found = [("server", _longest_pause(starts, at, at + 2 * STEADY_S)) for at in kills]
    say(
        f"agents after a restart of the server: {', '.join(f'{took_s:.1f}' for _, took_s in found)} s"
    )
    return found


async def _set_up(server: NatsServer) -> None:
    async with connect(server.url, name="setup") as connection:
        await streams.ensure(connection, ONE_SERVER.deployment)


async def _starts(log: EventLog) -> list[float]:
    return [
        one.at
        for one in await patiently(lambda: read_log(log.connection))
        if isinstance(one.event, Started)
    ]


def _longest_pause(starts: list[float], since: float, until: float) -> float:
    return max(
        after - before
        for before, after in pairwise([since, *(at for at in starts if since < at < until), until])
    )


async def after_a_dead_read_loop(directory: Path, say: Callable[[str], None]) -> tuple[str, float]:
    """nats-py's read loop may end for ever on an error of its own, and the connection still looks
    alive.
    """
    async with nats_server(directory) as server, connect(server.url, name="loop") as connection:
        began, before = time.monotonic(), connection.reconnects
        reading = connection.client._reading_task
        assert reading is not None
        reading.cancel()

        async def mended() -> bool:
            return connection.reconnects > before

        await eventually(mended, within_s=60.0)
        await connection.api("INFO")
        took_s = time.monotonic() - began
    say(f"a connection whose read loop has died works again after {took_s:.1f} s")
    return "read loop", took_s


# -- a million events ----------------------------------------------------------------------------------------------------------


async def projection(
    directory: Path, say: Callable[[str], None], events: int
) -> list[tuple[str, float]]:
    """An API process that is killed and started again: with its database, and without."""
    async with (
        nats_server(directory / "nats") as server,
        connect(server.url, name="fill") as connection,
    ):
        await streams.ensure(connection, ONE_SERVER.deployment)
        log = EventLog(connection)
        await fill(log, events)
        fleet = Fleet(directory / "fleet", ONE_SERVER, server.url, seed=1)
        try:
            (port,) = free_ports(1)
            anew_s = await _until_applied(fleet, log, port)
            say(f"projection of {events} events from nothing: {anew_s:.1f} s")
            fleet.replicas["api"].kill()
            await log.submit(spec(test="tests/last.spec.js"))
            again_s = await _until_applied(fleet, log, port)
            say(
                f"projection after a kill of the API at {events} events, from its start to its being up to date: {again_s:.1f} s"
            )
        finally:
            fleet.close()
    return [("projection", again_s)]


async def _until_applied(fleet: Fleet, log: EventLog, port: int) -> float:
    last, began = (await log.state()).last_seq, time.monotonic()
    replica = fleet.start_replica("api", port)

    async def applied() -> bool:
        return replica.database.exists() and model.applied_seq >= last

    model = ReadModel.open(replica.database)
    try:
        await eventually(applied, within_s=600.0)
    finally:
        model.close()
    return time.monotonic() - began


async def fill(log: EventLog, events: int) -> None:
    """Jobs that were run, as many as it takes, written as fast as the server takes them."""
    for first in range(0, events // EACH, JOBS_AT_ONCE):
        before = (await log.state()).last_seq
        for number in range(JOBS_AT_ONCE):
            for subject, payload in _story(first + number, before + EACH * number):
                await log.connection.publish(subject, payload)
        await _stored(log, before + EACH * JOBS_AT_ONCE)


async def _stored(log: EventLog, last: int) -> None:
    async def ask() -> bool:
        return (await log.state()).last_seq >= last

    await eventually(ask, within_s=60.0)


def _story(number: int, seq: int) -> Iterator[tuple[str, bytes]]:
    """The messages after `seq` of a job that passes."""
    wanted = spec(
        job_id=str(uuid.UUID(int=number, version=4)),
        test=f"tests/{number:07d}.spec.js",
        submitted_at=utc_now(),
    )
    job: Job | None = None
    for command in (
        Submit(wanted),
        Start(seq + 1, "agent"),
        EndAttempt("agent", 1, Outcome(verdict=Verdict.PASSED, duration_s=1.0)),
    ):
        event, seq = decide(command, job, utc_now()), seq + 1
        job = state_of(event, seq)
        rank = event.spec.rank if isinstance(event, Submitted | Requeued) else None
        yield (
            subjects.event_subject(subjects.slot_prefix(wanted.slot), event_type(event), rank),
            codec.encode(event),
        )
