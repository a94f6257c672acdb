"""Agents do what was decided: they wait while something is paused, and end when they are told to
drain.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from pathlib import Path

import pytest

from agents import FAST, ended, eventually, running_agent, scripted, story, submit
from factories import spec
from faults.proxy import proxy
from patience import patience
from qgjet.agent.agent import Agent
from qgjet.config.settings import AgentSettings
from qgjet.domain.control import Control, DrainRequested, Kind, Paused, Resumed, encode, subject_of
from qgjet.domain.events import JobSpec, Verdict
from qgjet.domain.subjects import CONTROL_PREFIX
from qgjet.errors import NatsUnavailable
from qgjet.jetstream import direct_get
from qgjet.jetstream.connection import connect
from qgjet.jetstream.server import NatsServer
from qgjet.runners.scripted import ScriptedRunner
from qgjet.store import control_log, streams
from qgjet.store.control_log import ControlReader
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue
from qgjet.support.clock import utc_now

EMULATOR = {"kind": Kind.TARGET, "name": "emulator"}


def paused(**fields: object) -> Paused:
    return Paused(**{"at": utc_now(), **EMULATOR, **fields})  # type: ignore[arg-type]


def resumed(**fields: object) -> Resumed:
    return Resumed(**{"at": utc_now(), **EMULATOR, **fields})  # type: ignore[arg-type]


async def is_started(log: EventLog, job: JobSpec) -> bool:
    return "started" in await story(log, job.slot)


async def has_looked(log: EventLog, agent: Agent) -> None:
    """The agent has listed the lanes anew, and what it believes to wait is what waits."""

    async def looked() -> bool:
        (lane,) = await Queue(log.connection, FAST).lanes()
        return agent._catalog.has_waiting(lane.lane)

    await eventually(looked)


async def test_a_paused_target_starts_nothing_until_it_is_resumed(
    log: EventLog, tmp_path: Path
) -> None:
    job = spec()
    await control_log.append(log.connection, paused())
    async with running_agent(log, tmp_path, poll_s=0.1) as agent:
        await submit(log, job)
        await has_looked(log, agent)
        assert not await is_started(log, job)
        await control_log.append(log.connection, resumed())
        await ended(log, job.slot)


async def test_an_agent_hears_of_a_pause_at_once(log: EventLog, tmp_path: Path) -> None:
    async with running_agent(log, tmp_path, poll_s=60) as agent:
        await eventually(lambda: knows(agent, paused=False))
        await control_log.append(log.connection, paused())
        await eventually(lambda: knows(agent, paused=True))
        await control_log.append(log.connection, resumed())
        await eventually(lambda: knows(agent, paused=False))


async def knows(agent: Agent, *, paused: bool) -> bool:
    return agent._pauses is not None and bool(agent._pauses) is paused


async def test_a_pause_leaves_what_runs_and_what_it_is_not_about_alone(
    log: EventLog, tmp_path: Path
) -> None:
    first, second, other = (
        spec(test=f"tests/{name}.spec.js", org_id=org)
        for name, org in (("a", "acme"), ("b", "acme"), ("c", "other"))
    )
    gate = asyncio.Event()
    async with running_agent(log, tmp_path, runners=scripted(gate=gate), poll_s=0.2) as agent:
        await submit(log, first)
        await eventually(lambda: is_started(log, first))
        await control_log.append(log.connection, paused(kind=Kind.ORG, name="acme"))
        await eventually(lambda: knows(agent, paused=True))
        await submit(log, second)
        await submit(log, other)
        gate.set()
        for job in (first, other):
            assert (await ended(log, job.slot)).verdict is Verdict.PASSED
        assert not await is_started(log, second)


async def test_a_pause_ends_by_itself_in_time(log: EventLog, tmp_path: Path) -> None:
    job = spec()
    await control_log.append(log.connection, paused(until=utc_now() + timedelta(seconds=0.7)))
    async with running_agent(log, tmp_path, poll_s=60) as agent:
        await submit(log, job)
        await has_looked(log, agent)
        assert not await is_started(log, job)
        await ended(log, job.slot)


async def test_an_agent_drains_when_it_is_told_and_others_do_not(
    log: EventLog, tmp_path: Path
) -> None:
    runners = {"emulator": ScriptedRunner({})}
    async with running_agent(log, tmp_path / "stays") as stays:
        goes = Agent(
            log, runners, {"emulator": 1}, tmp_path / "goes", AgentSettings(poll_s=30), FAST
        )
        async with asyncio.timeout(patience(10)), asyncio.TaskGroup() as group:
            group.create_task(goes.run())
            await eventually(
                lambda: knows(goes, paused=False)
            )  # it listens now: what comes while it starts may wait for its next poll
            await control_log.append(
                log.connection, DrainRequested(kind=Kind.AGENT, name=goes.instance, at=utc_now())
            )
        assert (goes.draining, stays.draining) == (True, False)


async def test_a_new_server_knows_no_pauses(
    tmp_path: Path, server: NatsServer, log: EventLog
) -> None:
    """What an old log said is not in force on a new one."""
    await control_log.append(log.connection, paused())
    job = spec()
    async with running_agent(log, tmp_path / "agent", poll_s=1) as agent:
        await eventually(lambda: knows(agent, paused=True))
        server.stop()
        replacement = NatsServer(tmp_path / "other", port=server.port)
        await replacement.start()
        try:

            async def set_up() -> bool:
                with contextlib.suppress(
                    NatsUnavailable
                ):  # the client may not have noticed yet that its server is gone
                    await streams.ensure(log.connection)
                    return True
                return False

            await eventually(set_up)
            await submit(log, job)
            await ended(log, job.slot)
        finally:
            replacement.stop()


async def test_what_cannot_be_read_is_stepped_over(log: EventLog) -> None:
    await log.connection.request(f"{CONTROL_PREFIX}.target.emulator.painted", b'{"type":"painted"}')
    await control_log.append(log.connection, paused())
    reader = ControlReader(log.connection)
    assert [type(event) for event in await reader.new()] == [Paused]
    assert await reader.new() == []
    await control_log.append(log.connection, resumed())
    assert [type(event) for event in await reader.new()] == [Resumed]


async def test_a_decision_that_stands_where_another_would_is_none(log: EventLog) -> None:
    """The read model does not count it, so an agent that obeyed it would wait and nobody could see
    why.
    """
    await log.connection.request(subject_of(paused(name="sofa")), encode(paused()))
    await control_log.append(log.connection, paused(kind=Kind.ORG, name="acme"))
    assert [event.name for event in await ControlReader(log.connection).new()] == ["acme"]


async def test_a_log_that_does_not_answer_is_not_an_empty_one(server: NatsServer) -> None:
    """As a node of a cluster does before it has found the others: nobody there may believe that
    nothing is paused.
    """
    async with connect(server.url, name="test") as connection:
        with pytest.raises(NatsUnavailable, match="503"):
            await ControlReader(connection).new()


async def test_what_was_read_before_the_connection_broke_comes_with_the_next_call(
    server: NatsServer, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_get, "TIMEOUT_S", 0.5)
    await control_log.append(log.connection, paused())
    async with proxy(server) as relay, connect(relay.url, name="test") as connection:
        reader = ControlReader(connection)
        relay.cut_at(b"NATS/1.0 404")  # that there are no more
        with pytest.raises(NatsUnavailable):
            await reader.new()
        assert relay.cut.is_set()
        await relay.accept()
        await connection.wait_connected(10)
        assert [type(event) for event in await reader.new()] == [Paused]


async def test_a_server_that_is_away_is_complained_about_once(
    server: NatsServer,
    log: EventLog,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(control_log, "_TROUBLE_S", 0.01)
    tries = 0
    read = ControlReader.new

    async def counted(reader: ControlReader) -> list[Control]:
        nonlocal tries
        tries += 1
        return await read(reader)

    async def many_tries() -> bool:
        return tries > 20

    monkeypatch.setattr(ControlReader, "new", counted)
    async with contextlib.aclosing(control_log.follow(log.connection, poll_s=0.01)) as decisions:
        await anext(decisions)
        server.kill()
        waiting = asyncio.ensure_future(anext(decisions))
        tries = 0
        await eventually(many_tries)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert len([record for record in caplog.records if record.name == control_log.__name__]) <= 2, (
        caplog.text
    )
