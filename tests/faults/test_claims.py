"""Many who want the same: one job, one slot, one end."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from agents import FAST, ended, eventually, running_agent, story, submit
from factories import spec
from faults.watched import Ledger, WatchedRunner, legal_history, watched
from qgjet.agent.executor import Executor
from qgjet.agent.slot import AgentSlot
from qgjet.config.settings import AgentSettings, QueueSettings
from qgjet.domain.decide import Cancel, OnDuplicate
from qgjet.domain.events import Status, Verdict
from qgjet.domain.subjects import Lane, lane_consumer
from qgjet.errors import Conflict, DuplicateJob
from qgjet.jetstream.connection import connect
from qgjet.jetstream.server import NatsServer
from qgjet.store.event_log import Accepted, EventLog
from qgjet.store.job_queue import Delivery, Queue


async def test_of_two_agents_that_hold_the_same_message_one_starts_the_job(
    log: EventLog, tmp_path: Path, ledger: Ledger
) -> None:
    """A consumer that was made anew delivers what somebody has in hand already. Both know nothing
    but their message.
    """
    jobs = [spec(test=f"tests/{number}.spec.js") for number in range(20)]
    await Queue(log.connection, FAST).ensure(Lane(jobs[0].partition, 5))
    await log.submit_many(jobs)
    pairs = [await taken(log, len(jobs)), await taken(log, len(jobs))]
    async with asyncio.TaskGroup() as group:
        for name, deliveries in zip(("one", "two"), pairs, strict=True):
            for delivery in deliveries:
                group.create_task(execute(log, name, delivery, tmp_path, ledger))
    for job in jobs:
        assert await story(log, job.slot) == ["submitted", "started", "finished"]
    assert len(ledger.runs) == len(jobs)
    assert ledger.overlaps == []


async def test_a_consumer_that_many_create_while_it_is_deleted_serves_its_lane(
    log: EventLog, server: NatsServer
) -> None:
    """A single nats-server 2.15.1 may remove the files of the new consumer together with those of
    the old one: every later change of it fails, for good.
    """
    longer = QueueSettings(visibility_timeout_s=60.0)
    async with contextlib.AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(connect(server.url, name=f"creator {number}"))
            for number in range(6)
        ]
        for number in range(40):
            job = spec(app_version_id=f"build-{number}")
            await log.submit(job)
            lane = Lane(job.partition, job.rank)
            await Queue(log.connection, FAST).ensure(lane)
            await asyncio.gather(
                Queue(log.connection, FAST).drop(lane),
                *(Queue(connection, FAST).ensure(lane) for connection in connections),
            )
            await Queue(log.connection, FAST).ensure(lane)
            queue = Queue(log.connection, longer)
            await queue.ensure(lane)
            assert [state.ack_wait_ns for state in await queue.lanes() if state.lane == lane] == [
                queue._ack_wait_ns
            ]
            delivery = await queue.take(lane, 1.0)
            assert delivery is not None
            assert delivery.spec.job_id == job.job_id
            await delivery.extend(5.0)


async def taken(log: EventLog, number: int) -> list[Delivery]:
    """All messages of the lane, from a consumer that remembers nothing."""
    queue, lane = Queue(log.connection, FAST), Lane(spec().partition, 5)
    await queue.drop(lane)
    return [
        delivery for _ in range(number) if (delivery := await queue.take(lane, 1.0)) is not None
    ]


async def execute(
    log: EventLog, name: str, delivery: Delivery, tmp_path: Path, ledger: Ledger
) -> None:
    executor = Executor(log, name, AgentSettings(), FAST, tmp_path)
    slot = AgentSlot("emulator", WatchedRunner(ledger, name, takes_s=lambda _: 0.2), tmp_path)
    await executor.execute(delivery, slot)
    await slot.release()


async def test_attach_and_reject_leave_a_running_job_alone(
    log: EventLog, tmp_path: Path, ledger: Ledger
) -> None:
    gate = asyncio.Event()
    live = spec()
    await submit(log, live)
    async with running_agent(log, tmp_path, runners=watched(ledger, gate=gate)):
        await ledger.started(live.slot)
        version = (await log.history(live.slot))[-1].seq
        assert await log.submit(spec(), OnDuplicate.ATTACH) == Accepted(
            job_id=live.job_id, seq=version, attached=True, status=Status.RUNNING
        )
        with pytest.raises(DuplicateJob, match=live.job_id):
            await log.submit(spec(), OnDuplicate.REJECT)
        gate.set()
        assert (await ended(log, live.slot)).job_id == live.job_id
    assert await story(log, live.slot) == ["submitted", "started", "finished"]
    assert len(ledger.runs) == 1


async def test_replace_stops_a_running_job_within_a_heartbeat_and_takes_its_place(
    log: EventLog, tmp_path: Path, ledger: Ledger
) -> None:
    old, new = spec(), spec()
    await submit(log, old)
    async with running_agent(
        log,
        tmp_path,
        runners=watched(ledger, takes_s=lambda job: 60.0 if job.job_id == old.job_id else 0.0),
    ):
        run = await ledger.started(old.slot)
        accepted = await log.submit(new, OnDuplicate.REPLACE)
        await ledger.until(
            lambda: run.ended is not None,
            what="the end of the old one",
            within_s=FAST.visibility_timeout_s,
        )
        final = await ended(log, new.slot)
    assert (accepted.job_id, accepted.replaced, accepted.attached) == (
        new.job_id,
        old.job_id,
        False,
    )
    assert (final.job_id, final.verdict, final.attempt) == (new.job_id, Verdict.PASSED, 1)
    assert await story(log, old.slot) == [
        "submitted",
        "started",
        "submitted",
        "started",
        "finished",
    ]
    await legal_history(log, old.slot)
    assert ledger.overlaps == []


async def test_of_50_clients_that_race_for_one_slot_one_gets_it_and_it_is_free_again_after_the_end(
    server: NatsServer, log: EventLog, tmp_path: Path
) -> None:
    await Queue(log.connection, FAST).ensure(Lane(spec().partition, 5))
    async with contextlib.AsyncExitStack() as stack:
        logs = [
            EventLog(await stack.enter_async_context(connect(server.url, name=f"client {number}")))
            for number in range(10)
        ]
        for round_number in (1, 2):
            specs = [spec() for _ in range(50)]
            answers = await asyncio.gather(
                *(logs[number % 10].submit(one) for number, one in enumerate(specs))
            )
            (winner,) = [
                one for one, answer in zip(specs, answers, strict=True) if not answer.attached
            ]
            assert {answer.job_id for answer in answers} == {winner.job_id}
            async with running_agent(log, tmp_path):
                assert (await ended(log, winner.slot)).job_id == winner.job_id
            assert (
                await story(log, winner.slot) == ["submitted", "started", "finished"] * round_number
            )


async def test_of_50_clients_that_insist_the_last_one_has_the_slot(
    server: NatsServer, log: EventLog
) -> None:
    """Everybody replaces everybody: all are accepted, one after the other, and each but the last is
    named as replaced once.
    """
    specs = [spec() for _ in range(50)]
    answers = await asyncio.gather(*(log.submit(one, OnDuplicate.REPLACE) for one in specs))
    live = await log.load(specs[0].slot)
    assert live is not None
    by_seq = sorted(answers, key=lambda answer: answer.seq)
    assert [answer.replaced for answer in by_seq] == [
        "",
        *(answer.job_id for answer in by_seq[:-1]),
    ]
    assert live.job_id == by_seq[-1].job_id
    await legal_history(log, specs[0].slot)


async def test_a_cancel_that_races_with_a_claim_either_prevents_the_run_or_stops_it(
    log: EventLog, tmp_path: Path, ledger: Ledger
) -> None:
    jobs = [spec(test=f"tests/{number}.spec.js") for number in range(60)]
    await Queue(log.connection, FAST).ensure(Lane(jobs[0].partition, 5))

    async def cancel(number: int) -> None:
        job = jobs[number]
        await log.submit(job)
        await asyncio.sleep(number % 10 * 0.002)
        with contextlib.suppress(Conflict):
            await log.execute(job.slot, Cancel(by="test"), await log.load(job.slot))

    async with (
        running_agent(
            log,
            tmp_path,
            runners=watched(ledger, "one", takes_s=lambda _: 0.005),
            slots=4,
            batch=100,
        ),
        running_agent(
            log,
            tmp_path,
            runners=watched(ledger, "two", takes_s=lambda _: 0.005),
            slots=4,
            batch=100,
        ),
    ):
        await asyncio.gather(*map(cancel, range(len(jobs))))
        finals = [await ended(log, job.slot) for job in jobs]
        await eventually(lambda: quiet(log))
    for job, final in zip(jobs, finals, strict=True):
        told = await story(log, job.slot)
        await legal_history(log, job.slot)
        assert len(ledger.of(job.slot)) == told.count("started") <= 1
        if told == ["submitted", "cancel_requested"]:
            assert final.status is Status.CANCELLED
        else:
            assert told[-1] in ("finished", "cancelled"), told
            assert told[1] == "started", told


async def quiet(log: EventLog) -> bool:
    return all(
        (state.pending, state.unacknowledged) == (0, 0)
        for state in await Queue(log.connection, FAST).lanes()
    )


async def test_a_message_that_comes_too_early_does_not_overtake_the_heartbeats_of_who_runs_the_job(
    log: EventLog, tmp_path: Path, ledger: Ledger
) -> None:
    """A late answer to an earlier delivery brings it between two heartbeats. Given back until the
    third is due, it would be there before that.
    """
    job, lane = spec(), Lane(spec().partition, 5)
    accepted = await submit(log, job)
    async with running_agent(
        log,
        tmp_path,
        runners=watched(ledger, "one", takes_s=lambda _: 2 * FAST.visibility_timeout_s),
    ):
        run = await ledger.started(job.slot)
        await run.heartbeat()
        await run.heartbeat()
        async with running_agent(log, tmp_path, runners=watched(ledger, "two"), poll_s=0.05):
            await log.connection.publish(
                f"$JS.ACK.QG_EVENTS.{lane_consumer(lane)}.1.{accepted.seq}.1.0.0", b"-NAK"
            )
            final = await ended(log, job.slot)
    assert ledger.overlaps == []
    assert (final.verdict, final.attempt) == (Verdict.PASSED, 1)
