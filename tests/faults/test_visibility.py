"""A visibility timeout that changes while agents hold leases: no job is given to a second agent
because of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agents import ended, eventually, running_agent, story
from factories import NOW, spec
from faults.watched import Ledger, patiently, watched
from qgjet.config.settings import QueueSettings
from qgjet.domain.deployment import Deployment
from qgjet.domain.events import Verdict
from qgjet.domain.subjects import STREAM, Lane
from qgjet.jetstream.connection import Connection, connect
from qgjet.jetstream.server import NatsServer
from qgjet.store import agent_registry, streams
from qgjet.store.agent_registry import AgentInfo
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue
from qgjet_projections.maintenance.janitor import Janitor
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.readmodel.projector import Projector

LONG = QueueSettings(visibility_timeout_s=9.0, retry_base_s=0.02, retry_cap_s=0.05)
SHORT = QueueSettings(visibility_timeout_s=1.5, retry_base_s=0.02, retry_cap_s=0.05)
PRESENCE_TTL_S = 1.0


@pytest.fixture
async def long(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EventLog]:
    """A log with a long visibility timeout, and a list of agents that forgets soon."""
    monkeypatch.setattr(streams, "VALUE_FRESH_S", 1.0)
    async with connect(server.url, name="test") as connection:
        await streams.ensure(
            connection,
            Deployment(visibility_timeout_s=LONG.visibility_timeout_s, agents_ttl_s=PRESENCE_TTL_S),
        )
        yield EventLog(connection)


async def in_force(connection: Connection) -> Deployment:
    return streams.deployment_of(await streams.stream_config(connection, STREAM) or {})


async def test_a_shorter_timeout_after_an_outage_longer_than_presence_takes_no_job_from_its_agent(
    server: NatsServer, long: EventLog, read_model: ReadModel, tmp_path: Path, ledger: Ledger
) -> None:
    job, gate = spec(), asyncio.Event()
    lane = Lane(job.partition, job.rank)
    async with (
        running_agent(
            long,
            tmp_path / "one",
            runners=watched(ledger, "one", gate=gate),
            queue=LONG,
            poll_s=0.2,
        ),
        running_agent(
            long,
            tmp_path / "two",
            runners=watched(ledger, "two", gate=gate),
            queue=LONG,
            poll_s=0.2,
        ),
        Projector(long, read_model),
        Janitor(long, read_model, LONG),
    ):
        await Queue(long.connection, LONG).ensure(lane)
        await long.submit(job)
        run = await ledger.started(job.slot)
        server.stop()
        await asyncio.sleep(2 * PRESENCE_TTL_S)  # the length of the outage
        await server.start()
        await patiently(lambda: streams.change_leases(long.connection, SHORT.deployment))

        async def is_short() -> bool:
            return any(
                Queue(long.connection, SHORT).is_current(state)
                for state in await Queue(long.connection, SHORT).lanes()
            )

        await eventually(is_short, within_s=60)
        for _ in range(3):
            await run.heartbeat(within_s=30)
        assert (ledger.runs, run.ended) == ([run], None)
        gate.set()
        final = await ended(long, job.slot)
    assert (final.verdict, final.attempt) == (Verdict.PASSED, 1)
    assert await story(long, job.slot) == ["submitted", "started", "finished"]


async def test_consumers_get_a_shorter_timeout_only_when_every_agent_keeps_to_it(
    long: EventLog, read_model: ReadModel, tmp_path: Path
) -> None:
    job = spec()
    lane = Lane(job.partition, job.rank)
    loop = asyncio.get_running_loop()
    await long.submit(job)
    async with (
        running_agent(long, tmp_path, queue=LONG) as agent,
        Projector(long, read_model),
        Janitor(long, read_model, LONG),
    ):
        await ended(long, job.slot)
        announced_at = loop.time()
        assert (
            await streams.change_leases(long.connection, SHORT.deployment)
        ).visibility_timeout_s == LONG.visibility_timeout_s

        async def has_adopted() -> bool:
            return [
                info.visibility_timeout_s for info in await agent_registry.agents(long.connection)
            ] == [SHORT.visibility_timeout_s]

        await eventually(has_adopted)
        assert agent.info().visibility_timeout_s == SHORT.visibility_timeout_s
        assert not any(
            Queue(long.connection, SHORT).is_current(state)
            for state in await Queue(long.connection, SHORT).lanes()
            if state.lane == lane
        )

        async def is_in_force() -> bool:
            return (
                await in_force(long.connection)
            ).visibility_timeout_s == SHORT.visibility_timeout_s

        await eventually(is_in_force, within_s=60)
        assert loop.time() - announced_at >= streams.adoption_time_s(LONG.visibility_timeout_s)


async def test_a_longer_timeout_is_in_force_at_once_and_ends_the_wait_for_a_shorter_one(
    long: EventLog,
) -> None:
    assert (
        await streams.change_leases(long.connection, SHORT.deployment)
    ).next_visibility_timeout_s == SHORT.visibility_timeout_s
    longer = await streams.change_leases(long.connection, Deployment(visibility_timeout_s=20.0))
    assert longer == await in_force(long.connection)
    assert (
        longer.visibility_timeout_s,
        longer.next_visibility_timeout_s,
        longer.lease_timeout_s,
    ) == (20.0, 0.0, 20.0)


async def test_an_agent_of_a_version_that_adopts_nothing_keeps_the_longer_timeout_in_force(
    long: EventLog, read_model: ReadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "VALUE_FRESH_S", -LONG.visibility_timeout_s)
    old = AgentInfo(
        instance="old", name="old", host="h", pid=1, version="0", targets=(), slots=1, since=NOW
    )
    janitor = Janitor(long, read_model, LONG)
    await streams.change_leases(long.connection, SHORT.deployment)
    for _ in range(3):
        await agent_registry.announce(long.connection, old)
        await janitor.round()
    assert (await in_force(long.connection)).visibility_timeout_s == LONG.visibility_timeout_s
    await agent_registry.withdraw(long.connection, old.instance)
    await janitor.round()
    assert (await in_force(long.connection)).visibility_timeout_s == SHORT.visibility_timeout_s


async def test_agents_announce_themselves_when_the_connection_comes_back(
    server: NatsServer, long: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qgjet.agent.agent.RENEW_EVERY_S", 3600.0)

    async def present() -> bool:
        return bool(await patiently(lambda: agent_registry.agents(long.connection)))

    async with running_agent(long, tmp_path, queue=LONG):
        await eventually(present)
        server.stop()
        await asyncio.sleep(2 * PRESENCE_TTL_S)  # the length of the outage
        await server.start()
        await eventually(present, within_s=20)
