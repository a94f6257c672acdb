"""Appends whose answer was lost: written or not, once or never, and the writer is told which."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agents import FAST, eventually, running_agent, story, submit
from factories import NOW, spec
from faults.proxy import STORED, Proxy, meanwhile
from faults.watched import Ledger, ended, legal_history, watched
from qgjet.domain.decide import Cancel, Command, EndAttempt, OnDuplicate, Start, Submit, decide
from qgjet.domain.events import JobSpec, Outcome, Status, Verdict
from qgjet.domain.subjects import Lane
from qgjet.errors import VersionConflict
from qgjet.jetstream.connection import Connection, connect
from qgjet.jetstream.server import NatsServer
from qgjet.store.event_log import Accepted, EventLog
from qgjet.store.job_queue import Queue


async def nothing() -> None:
    return


async def prepared(log: EventLog, job: JobSpec, *commands: Command) -> int:
    """Carry out the commands; gives the slot's version."""
    version = 0
    for command in commands:
        _, version = await log.execute(job.slot, command, await log.load(job.slot))
    return version


PASSED = Outcome(verdict=Verdict.PASSED)
STEPS: list[Command] = [
    Submit(spec()),
    Start(ticket=1, agent="a"),
    EndAttempt(agent="a", attempt=1, outcome=PASSED),
]


@pytest.mark.parametrize("steps", [1, 2, 3], ids=["submitted", "started", "finished"])
async def test_an_append_whose_answer_is_lost_is_found_and_not_written_again(
    log: EventLog, relay: Proxy, steps: int
) -> None:
    *before, command = STEPS[:steps]
    job = STEPS[0].spec  # type: ignore[union-attr]
    version = await prepared(log, job, *before)
    event = decide(command, await log.load(job.slot), NOW)
    async with connect(relay.url, name="unlucky") as connection:
        seq = await meanwhile(
            relay, STORED, EventLog(connection).append(job.slot, event, version), nothing
        )
    history = await log.history(job.slot)
    assert len(history) == steps
    assert (history[-1].seq, history[-1].event) == (seq, event)


async def test_an_append_whose_answer_is_lost_is_found_even_when_others_have_followed(
    log: EventLog, relay: Proxy
) -> None:
    job = spec()
    event = decide(Submit(job), None, NOW)

    async def others() -> None:
        await prepared(log, job, Start(ticket=1, agent="other"), Cancel(by="other"))

    async with connect(relay.url, name="unlucky") as connection:
        assert (
            await meanwhile(relay, STORED, EventLog(connection).append(job.slot, event, 0), others)
            == 1
        )
    assert await story(log, job.slot) == ["submitted", "started", "cancel_requested"]


async def is_away(connection: Connection) -> bool:
    return not connection.is_connected


async def test_an_append_without_a_connection_waits_for_one(log: EventLog, relay: Proxy) -> None:
    job = spec()
    async with connect(relay.url, name="unlucky") as connection:
        relay.refuse()
        await eventually(lambda: is_away(connection))
        working = asyncio.create_task(
            EventLog(connection).append(job.slot, decide(Submit(job), None, NOW), 0)
        )
        await relay.accept()
        assert await working == 1
    assert await story(log, job.slot) == ["submitted"]


async def test_an_append_that_never_arrived_is_sent_again(log: EventLog, relay: Proxy) -> None:
    job = spec()
    async with connect(relay.url, name="unlucky") as connection:
        relay.hold()
        working = asyncio.create_task(
            EventLog(connection).append(job.slot, decide(Submit(job), None, NOW), 0)
        )
        await relay.reached(b"Nats-Expected-Last-Subject-Sequence")
        relay.refuse()
        relay.let_go()
        await relay.accept()
        assert await working == 1
    assert await story(log, job.slot) == ["submitted"]


async def test_an_append_that_never_arrived_gives_way_to_one_that_did(
    log: EventLog, relay: Proxy
) -> None:
    mine, other = spec(), spec()
    async with connect(relay.url, name="unlucky") as connection:
        relay.hold()
        working = asyncio.create_task(
            EventLog(connection).append(mine.slot, decide(Submit(mine), None, NOW), 0)
        )
        await relay.reached(b"Nats-Expected-Last-Subject-Sequence")
        await log.submit(other)
        relay.refuse()
        relay.let_go()
        await relay.accept()
        with pytest.raises(VersionConflict):
            await working
    live = await log.load(mine.slot)
    assert live is not None
    assert live.job_id == other.job_id
    assert await story(log, mine.slot) == ["submitted"]


@pytest.mark.parametrize("how", list(OnDuplicate))
async def test_a_submission_whose_answer_is_lost_is_answered_as_if_it_was_not(
    log: EventLog, relay: Proxy, how: OnDuplicate
) -> None:
    """Above all, it does not find itself a duplicate of itself."""
    job = spec()
    async with connect(relay.url, name="unlucky") as connection:
        answer = await meanwhile(relay, STORED, EventLog(connection).submit(job, how), nothing)
    assert answer == Accepted(job_id=job.job_id, seq=1)
    assert await story(log, job.slot) == ["submitted"]


async def test_a_server_killed_between_storing_and_answering_has_stored_once(
    server: NatsServer, log: EventLog, relay: Proxy
) -> None:
    jobs = [spec(test=f"tests/{number}.spec.js") for number in range(50)]

    async def kill() -> None:
        server.kill()
        await server.start()

    async with connect(relay.url, name="unlucky") as connection:
        answers = await meanwhile(relay, STORED, EventLog(connection).submit_many(jobs), kill)
        await log.connection.wait_connected(10)
    assert [getattr(answer, "job_id", answer) for answer in answers] == [job.job_id for job in jobs]  # type: ignore[attr-defined]
    assert [answer.attached for answer in answers] == [False] * len(jobs)  # type: ignore[attr-defined]
    for job in jobs:
        assert await story(log, job.slot) == ["submitted"]


@pytest.mark.parametrize("lost", [1, 2], ids=["started", "finished"])
async def test_an_agent_that_loses_an_answer_runs_the_job_once(
    log: EventLog, relay: Proxy, tmp_path: Path, ledger: Ledger, lost: int
) -> None:
    job = spec(infra_retries=0)
    gate = asyncio.Event()
    await submit(log, job)
    async with connect(relay.url, name="unlucky") as connection:
        if lost == 1:
            relay.cut_at(STORED)
        async with running_agent(
            EventLog(connection), tmp_path, runners=watched(ledger, gate=gate), name="unlucky"
        ):
            if lost == 1:
                await relay.cut.wait()
                await relay.accept()
            await ledger.started(job.slot)
            if lost == 2:
                relay.cut_at(STORED)
            gate.set()
            if lost == 2:
                await relay.cut.wait()
                await relay.accept()
            final = await ended(log, job.slot)
    assert (final.verdict, final.attempt) == (Verdict.PASSED, 1)
    assert await story(log, job.slot) == ["submitted", "started", "finished"]
    assert len(ledger.runs) == 1


async def test_a_result_survives_a_connection_that_breaks_while_the_slot_is_read_again(
    log: EventLog, relay: Proxy, tmp_path: Path, ledger: Ledger
) -> None:
    """The agent's version is an old one because of the cancel; the answer that tells it so is the
    last thing it hears for a while.
    """
    job = spec(max_retries=0, infra_retries=0)
    gate = asyncio.Event()
    await Queue(log.connection, FAST).ensure(Lane(job.partition, job.rank))
    await log.submit(job)
    async with (
        connect(relay.url, name="unlucky") as connection,
        running_agent(EventLog(connection), tmp_path, runners=watched(ledger, gate=gate)),
    ):
        run = await ledger.started(job.slot)
        await run.heartbeat()
        await log.execute(job.slot, Cancel(by="test"), await log.load(job.slot))
        relay.cut_at(b'"err_code":10071')
        gate.set()
        await relay.cut.wait()
        await relay.accept()
        final = await ended(log, job.slot, within_s=5.0)
    assert final.status in (Status.DONE, Status.CANCELLED)
    assert final.attempt == 1
    await legal_history(log, job.slot)
