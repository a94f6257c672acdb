"""A power cut takes the end of the log, with what agents, clients and read models have seen of it:
afterwards everything goes on, and every job ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from pathlib import Path

import pytest

from agents import FAST, agree, eventually, running_agent, scripted, submit
from factories import spec
from faults.proxy import proxy
from faults.watched import Ledger, StubbornRunner, ended, patiently, watched
from patience import patience
from qgjet.config.settings import QueueSettings
from qgjet.domain.decide import EndAttempt, Start, decide
from qgjet.domain.events import JobSpec, Outcome, Status, Verdict
from qgjet.domain.job import state_of
from qgjet.domain.subjects import STREAM, Lane, event_subject, slot_prefix
from qgjet.errors import Conflict, NatsUnavailable, VersionConflict
from qgjet.jetstream.connection import connect
from qgjet.jetstream.server import NatsServer
from qgjet.process.stop_control import StopReason
from qgjet.store import streams
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue
from qgjet.support.clock import utc_now
from qgjet_projections.maintenance import janitor as janitors
from qgjet_projections.maintenance.janitor import Janitor
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.readmodel.projector import Projector


def copy_store(server: NatsServer, store: Path, copy: Path) -> None:
    """What is on the disk at one moment."""
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        shutil.copytree(store, copy)
    finally:
        server.process.send_signal(signal.SIGCONT)


async def statuses(log: EventLog, jobs: list[JobSpec]) -> list[Status | None]:
    states = [await log.load(job.slot) for job in jobs]
    return [None if state is None else state.status for state in states]


@pytest.mark.parametrize(
    "consumers_too", [True, False], ids=["all of it", "not what consumers know"]
)
async def test_every_job_ends_after_the_end_of_the_log_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, consumers_too: bool
) -> None:
    monkeypatch.setattr(janitors, "PRESENCE_GRACE_S", 1.0)
    store, copy, gate = tmp_path / "nats", tmp_path / "copy", asyncio.Event()
    before, after = (
        [spec(test=f"{when}-{number}.js") for number in range(4)] for when in ("before", "after")
    )
    server = NatsServer(store)
    await server.start()
    read_model = ReadModel.open(tmp_path / "read.sqlite")
    try:
        async with connect(server.url, name="test") as connection:
            await streams.ensure(connection)
            await agree(connection, FAST.deployment)
            log = EventLog(connection)
            async with (
                Projector(log, read_model) as projector,
                Janitor(log, read_model, FAST),
                running_agent(
                    log,
                    tmp_path / "work",
                    runners=scripted({"*": ("passed",)}, gate=gate),
                    slots=2,
                    poll_s=0.5,
                ),
            ):
                for job in before:
                    await submit(log, job)

                async def two_run() -> bool:
                    return (await statuses(log, before)).count(Status.RUNNING) == 2

                await eventually(two_run, what="two running jobs")
                await asyncio.to_thread(copy_store, server, store, copy)
                gate.set()
                for job in after:
                    await submit(log, job)

                async def all_done() -> bool:
                    with contextlib.suppress(NatsUnavailable):
                        return await statuses(log, [*before, *after]) == [Status.DONE] * 8
                    return False

                await eventually(all_done, within_s=30, what="the end of all jobs")
                server.kill()
                await asyncio.to_thread(restore, store, copy, consumers_too)
                await server.start()
                await connection.wait_connected(patience(10))
                for (
                    job
                ) in after:  # their clients have had an answer, and submit again what is not there
                    await submit(log, job)
                await eventually(all_done, within_s=90, what="the end of all jobs, once more")
                assert await projector.wait_for((await log.state()).last_seq, 30)
                assert read_model.counts().finished == {("emulator", Verdict.PASSED): 8}
    finally:
        server.stop()
        read_model.close()


async def test_an_attempt_that_the_log_has_forgotten_does_not_run_beside_its_second_start(
    server: NatsServer, tmp_path: Path
) -> None:
    """The message comes to the agent that runs the job already, whose name and attempt number the
    second start would have, too.
    """
    ledger, gate, job = Ledger(), asyncio.Event(), spec()
    lane = Lane(job.partition, job.rank)
    async with connect(server.url, name="test") as connection:
        await streams.ensure(connection)
        log = EventLog(connection)
        async with running_agent(
            log, tmp_path / "work", runners=watched(ledger, gate=gate), slots=2
        ):
            await submit(log, job)
            run = await ledger.started(job.slot)
            await connection.api(
                f"STREAM.PURGE.{STREAM}",
                {"filter": event_subject(slot_prefix(job.slot), "started", None)},
            )
            assert await statuses(log, [job]) == [Status.QUEUED]
            queue = Queue(connection, FAST)
            await queue.drop(lane)
            await patiently(lambda: queue.ensure(lane))
            await queue.ring(lane)
            await ledger.until(
                lambda: run.ended is not None, what="the end of the forgotten attempt"
            )
            assert run.stop_control.reason is StopReason.LEASE_LOST
            gate.set()
            assert (await ended(log, job.slot)).verdict is Verdict.PASSED
    assert not ledger.overlaps
    assert [one.number for one in ledger.runs] == [1, 1]


async def test_a_job_is_not_taken_from_its_agent_when_the_server_has_lost_its_last_heartbeats(
    tmp_path: Path,
) -> None:
    """By what the server still knows of its delivery, the job was due for another agent long ago."""
    store, copy, ledger, queue = (
        tmp_path / "nats",
        tmp_path / "copy",
        Ledger(),
        QueueSettings(visibility_timeout_s=3.0),
    )
    job, another = spec(), spec(test="another.js")
    server = NatsServer(store)
    await server.start()
    try:
        async with (
            connect(server.url, name="two") as connection,
            proxy(server) as relay,
            connect(relay.url, name="one") as relayed,
        ):
            await streams.ensure(connection)
            await agree(connection, queue.deployment)
            log, stubborn = EventLog(connection), {"emulator": StubbornRunner(ledger, "one")}
            async with running_agent(
                EventLog(relayed), tmp_path / "one", runners=stubborn, queue=queue
            ):
                await submit(log, job)
                run = await ledger.started(job.slot)
                async with running_agent(
                    log, tmp_path / "two", runners=watched(ledger, "two"), queue=queue, poll_s=0.05
                ):
                    await submit(log, another)
                    await ended(log, another.slot)  # the second agent takes jobs
                    await run.heartbeat()
                    await asyncio.to_thread(copy_store, server, store, copy)
                    while await log.quiet_s(job.slot) < queue.visibility_timeout_s:
                        await run.heartbeat()
                    await run.heartbeat()
                    relay.refuse()
                    server.kill()
                    await asyncio.to_thread(restore, store, copy, True)
                    await server.start()
                    final = await ended(log, job.slot)
                await relay.accept()
    finally:
        server.stop()
    assert not ledger.overlaps, ledger.overlaps
    assert (final.verdict, final.attempt) == (Verdict.PASSED, 2)


async def test_a_result_is_not_appended_to_an_event_that_has_taken_the_place_of_a_lost_one(
    tmp_path: Path,
) -> None:
    """After the end of the log was lost, its sequences are given again: the number that a result
    was to follow may be that of another agent's event.
    """
    store, copy, job = tmp_path / "nats", tmp_path / "copy", spec()
    server = NatsServer(store)
    await server.start()
    try:
        async with connect(server.url, name="one") as one, connect(server.url, name="two") as two:
            await streams.ensure(one)
            log, other = EventLog(one), EventLog(two)
            submitted = await log.submit(job)
            await asyncio.to_thread(copy_store, server, store, copy)
            before, at = one.server, await log.load(job.slot)
            event, seq = await log.execute(job.slot, Start(ticket=submitted.seq, agent="one"), at)
            known = state_of(event, seq)
            server.kill()
            await asyncio.to_thread(restore, store, copy, True)
            await server.start()
            for connection in (one, two):
                await connection.wait_connected(patience(10))
            assert one.server != before
            _, again = await other.execute(
                job.slot, Start(ticket=submitted.seq, agent="two"), await other.load(job.slot)
            )
            assert again == seq
            result = EndAttempt(
                agent="one", attempt=1, outcome=Outcome(verdict=Verdict.FAILED), job_id=job.job_id
            )
            with pytest.raises(Conflict):
                await log.execute(job.slot, result, known, server=before)
            with pytest.raises(VersionConflict):
                await log.append(
                    job.slot, decide(result, known, utc_now()), known.version, server=before
                )
            now = await log.load(job.slot)
            assert now is not None
            assert (now.status, now.agent) == (Status.RUNNING, "two")
    finally:
        server.stop()


def restore(store: Path, copy: Path, consumers_too: bool) -> None:
    """The older log. JetStream stores what a consumer knows in files of its own, which may have
    reached the disk when the log's last events had not.
    """
    newer = store.with_name("newer")
    store.rename(newer)
    shutil.copytree(copy, store)
    if not consumers_too:
        for known in newer.rglob("QG_EVENTS/obs"):
            place = store / known.relative_to(newer)
            shutil.rmtree(place)
            shutil.copytree(known, place)
