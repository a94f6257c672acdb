"""Agents and waiting, for tests that run jobs on a real broker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from patience import patience
from qgjet.agent.agent import Agent
from qgjet.config.settings import AgentSettings, ArtifactSettings, QueueSettings
from qgjet.domain.decide import OnDuplicate
from qgjet.domain.deployment import Deployment
from qgjet.domain.events import JobSpec, Slot, event_type
from qgjet.domain.job import Job
from qgjet.domain.subjects import Lane
from qgjet.jetstream.connection import Connection
from qgjet.runners.base import Runner
from qgjet.runners.scripted import ScriptedRunner
from qgjet.store import streams
from qgjet.store.event_log import Accepted, EventLog
from qgjet.store.job_queue import Queue

FAST = QueueSettings(visibility_timeout_s=1.5, retry_base_s=0.02, retry_cap_s=0.05)
"""Short timers: a lost agent is noticed within seconds."""
T = TypeVar("T")


async def eventually(
    ask: Callable[[], Awaitable[T]], *, within_s: float = 10.0, what: str = ""
) -> T:
    """Ask again until the answer is true. Fails with the last answer."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience(within_s)
    while True:
        answer = await ask()
        if answer:
            return answer
        assert loop.time() < deadline, (
            f"not within {within_s} s: {what or ask}; last answer: {answer!r}"
        )
        await asyncio.sleep(0.01)


def scripted(
    outcomes: Mapping[str, tuple[str, ...]] | None = None, *, gate: asyncio.Event | None = None
) -> dict[str, Runner]:
    return {"emulator": ScriptedRunner(outcomes or {}, gate=gate)}


async def agree(connection: Connection, wanted: Deployment) -> Deployment:
    """Put these leases in force at once, even shorter ones: no agent holds a lease."""
    return await streams.shorten(connection, await streams.change_leases(connection, wanted))


@contextlib.asynccontextmanager
async def running_agent(
    log: EventLog,
    work_dir: Path,
    *,
    runners: Mapping[str, Runner] | None = None,
    slots: int = 1,
    queue: QueueSettings = FAST,
    artifact_settings: ArtifactSettings | None = None,
    **settings: Any,
) -> AsyncIterator[Agent]:
    """An agent for the length of a block; halted at its end."""
    runners = runners or scripted()
    await agree(log.connection, queue.deployment)
    agent = Agent(
        log,
        runners,
        dict.fromkeys(runners, slots),
        work_dir,
        AgentSettings(**{"poll_s": 1.0, **settings}),
        queue,
        artifact_settings,
    )
    task = asyncio.create_task(agent.run())
    try:
        yield agent
    finally:
        agent.halt()
        async with asyncio.timeout(patience(10)):
            await task


async def submit(
    log: EventLog, spec: JobSpec, on_duplicate: OnDuplicate = OnDuplicate.ATTACH
) -> Accepted:
    """Submit, with a consumer for the lane: what the janitor sees to elsewhere."""
    await Queue(log.connection, FAST).ensure(Lane(spec.partition, spec.rank))
    return await log.submit(spec, on_duplicate)


async def ended(log: EventLog, slot: Slot, *, within_s: float = 10.0) -> Job:
    """The slot's job once it is not live any more."""

    async def ask() -> Job | None:
        job = await log.load(slot)
        return job if job is not None and not job.live else None

    job = await eventually(ask, within_s=within_s, what=f"end of {slot}")
    assert job is not None
    return job


async def story(log: EventLog, slot: Slot) -> list[str]:
    """Names of the slot's events, oldest first."""
    return [event_type(one.event) for one in await log.history(slot) if one.event is not None]
