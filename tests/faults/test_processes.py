"""Agents as real processes, running real processes: killed, frozen, signalled."""

from __future__ import annotations

import signal
import time

from agents import ended, eventually, story
from factories import spec
from faults.crew import SOON, Crew, Yard
from qgjet.domain.decide import Cancel
from qgjet.domain.events import JobSpec, Slot, Started, Status, Verdict
from qgjet.domain.subjects import Lane
from qgjet.store import agent_registry
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue

VISIBILITY_S = SOON.visibility_timeout_s
LATE_S = VISIBILITY_S * 3 + 5.0
"""A handover on a machine that is busy with other things."""


def job(test: str, **fields: object) -> JobSpec:
    return spec(test=test, **fields)


async def submit(log: EventLog, wanted: JobSpec) -> None:
    await Queue(log.connection, SOON).ensure(Lane(wanted.partition, wanted.rank))
    await log.submit(wanted)


async def starts(log: EventLog, slot: Slot) -> list[str]:
    """Who started the slot's attempts."""
    return [one.event.agent for one in await log.history(slot) if isinstance(one.event, Started)]


async def drains(log: EventLog) -> None:
    """Wait until an agent says that it drains."""

    async def ask() -> bool:
        return any(info.draining for info in await agent_registry.agents(log.connection))

    await eventually(ask, what="an agent that drains")


async def test_the_job_of_a_killed_agent_dies_with_it_and_is_handed_on_after_the_visibility_timeout(
    log: EventLog, agents: Crew, yard: Yard
) -> None:
    wanted = job("hang-then-pass.spec.js", max_retries=2, infra_retries=2)
    await submit(log, wanted)
    victim = agents.start("victim")
    lost = await victim.ready()
    began = await yard.started(wanted.test)
    assert yard.is_alive(wanted.test)
    victim.kill()
    killed_at = time.monotonic()
    await yard.dead(wanted.test)
    heir = agents.start("heir")
    final = await ended(log, wanted.slot, within_s=LATE_S)
    assert await story(log, wanted.slot) == [
        "submitted",
        "started",
        "attempt_lost",
        "started",
        "finished",
    ]
    assert await starts(log, wanted.slot) == [lost, await heir.ready()]
    assert (final.verdict, final.attempt, final.retries_left, final.infra_retries_left) == (
        Verdict.PASSED,
        2,
        2,
        1,
    )
    first, second = yard.lines("start")
    assert first == began
    assert second.at - killed_at > VISIBILITY_S / 3, (
        "a third of it may have passed since the last heartbeat"
    )
    assert yard.lines("overlap") == []


async def test_a_frozen_agent_loses_its_job_before_another_one_gets_it_and_is_heard_no_more(
    log: EventLog, agents: Crew, yard: Yard
) -> None:
    wanted = job("hang-then-pass.spec.js", max_retries=0)
    await submit(log, wanted)
    zombie = agents.start("zombie")
    lost = await zombie.ready()
    await yard.started(wanted.test)
    heir = agents.start("heir")
    heir_id = await heir.ready()
    zombie.freeze()
    await yard.dead(wanted.test)
    final = await ended(log, wanted.slot, within_s=LATE_S)
    assert await starts(log, wanted.slot) == [lost, heir_id]
    before = await log.history(wanted.slot)

    zombie.thaw()
    await zombie.says("counts for nothing")
    assert await log.history(wanted.slot) == before
    assert (final.verdict, final.attempt, final.infra_retries_left) == (
        Verdict.PASSED,
        2,
        wanted.infra_retries - 1,
    )
    assert yard.lines("overlap") == []

    heir.terminate()
    assert await heir.ends() == 0
    another = job("pass.spec.js")
    await submit(log, another)
    assert (await ended(log, another.slot)).verdict is Verdict.PASSED
    assert await starts(log, another.slot) == [lost], "an agent that was frozen goes on serving"


async def test_a_cancel_ends_a_running_process_within_a_heartbeat(
    log: EventLog, agents: Crew, yard: Yard
) -> None:
    wanted = job("hang.spec.js")
    await submit(log, wanted)
    agents.start("agent")
    await yard.started(wanted.test)
    await log.execute(wanted.slot, Cancel(by="test"), await log.load(wanted.slot))
    final = await ended(log, wanted.slot)
    assert not yard.is_alive(wanted.test)
    assert (final.status, final.verdict, final.attempt) == (Status.CANCELLED, Verdict.CANCELLED, 1)
    assert await story(log, wanted.slot) == [
        "submitted",
        "started",
        "cancel_requested",
        "cancelled",
    ]


async def test_the_first_sigterm_finishes_what_runs_and_leaves_the_rest(
    log: EventLog, agents: Crew, yard: Yard
) -> None:
    running = [job(f"{number}/gated.spec.js") for number in range(2)]
    for one in running:
        await submit(log, one)
    agent = agents.start("agent", slots=2)
    for one in running:
        await yard.started(one.test)
    waiting = job("waiting/gated.spec.js")
    await submit(log, waiting)
    agent.terminate()
    await drains(log)
    yard.open_gate()
    assert await agent.ends() == 0
    for one in running:
        assert (await ended(log, one.slot)).verdict is Verdict.PASSED
        assert await story(log, one.slot) == ["submitted", "started", "finished"]
    assert await story(log, waiting.slot) == ["submitted"]
    (lane,) = await Queue(log.connection, SOON).lanes()
    assert (lane.pending, lane.unacknowledged) == (1, 0), (
        "what was not started is free for others at once"
    )


async def test_the_second_sigterm_stops_what_runs_and_gives_it_back_at_no_cost(
    log: EventLog, agents: Crew, yard: Yard
) -> None:
    wanted = job("hang-then-pass.spec.js", max_retries=0, infra_retries=0)
    await submit(log, wanted)
    agent = agents.start("agent")
    await yard.started(wanted.test)
    agent.terminate()
    await drains(log)
    assert yard.is_alive(wanted.test)
    agent.terminate()
    assert await agent.ends() == 128 + signal.SIGTERM
    assert not yard.is_alive(wanted.test)
    assert await story(log, wanted.slot) == ["submitted", "started", "released"]
    agents.start("next")
    final = await ended(log, wanted.slot)
    assert (final.verdict, final.attempt) == (Verdict.PASSED, 2)
    assert yard.lines("overlap") == []


async def test_a_killed_agent_among_many_costs_no_job(
    log: EventLog, agents: Crew, yard: Yard
) -> None:
    """Two agents under load; one is killed in the middle of it."""
    jobs = [job(f"{number}/pass.spec.js", max_retries=0) for number in range(24)]
    for one in jobs:
        await submit(log, one)
    victim = agents.start("victim", slots=3)
    agents.start("survivor", slots=3)

    async def in_full_swing() -> bool:
        return len(yard.lines("end")) >= 6 and any(yard.is_alive(one.test) for one in jobs)

    await eventually(in_full_swing, within_s=20)
    victim.kill()
    for one in jobs:
        assert (await ended(log, one.slot, within_s=LATE_S)).verdict is Verdict.PASSED
    assert yard.lines("overlap") == []
