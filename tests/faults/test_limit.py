"""A stream whose consumers are all taken: partition queues come and go, readers and the other
duties do not wait for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from agents import FAST, agree, ended, eventually, running_agent, scripted, story
from factories import spec
from later import in_
from qgjet.domain import subjects
from qgjet.domain.decide import Cancel, Start
from qgjet.domain.events import JobSpec, Status, Verdict
from qgjet.domain.subjects import Lane
from qgjet.errors import NoConsumerLeft
from qgjet.store import streams
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue
from qgjet.support.clock import utc_now
from qgjet_projections.maintenance.janitor import Janitor
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.readmodel.projector import Projector

LIMIT = 6
VERSIONS = 40


def lane(job: JobSpec) -> Lane:
    return Lane(job.partition, job.rank)


async def lanes(log: EventLog) -> set[Lane]:
    return {state.lane for state in await Queue(log.connection, FAST).lanes()}


@pytest.fixture
async def small(log: EventLog) -> EventLog:
    """A log with room for LIMIT consumers."""
    await log.connection.api(f"STREAM.DELETE.{subjects.STREAM}")
    await streams.ensure(log.connection, replace(FAST.deployment, max_consumers=LIMIT))
    return log


@pytest.fixture
async def janitor(log: EventLog, read_model: ReadModel) -> AsyncIterator[Janitor]:
    """With a projector beside it, five minutes and more from now."""
    await agree(log.connection, FAST.deployment)
    async with Projector(log, read_model):
        yield Janitor(in_(log.connection, timedelta(minutes=6)), read_model, FAST)


async def caught_up(log: EventLog, read_model: ReadModel) -> bool:
    return read_model.applied_seq >= (await log.state()).last_seq


async def test_a_partition_queue_goes_minutes_after_its_last_job(
    log: EventLog, read_model: ReadModel, janitor: Janitor
) -> None:
    queue = Queue(log.connection, FAST)
    waits, runs, over = (spec(test=test, app_version_id=test) for test in ("waits", "runs", "over"))
    for job in (waits, runs, over):
        await log.submit(job)
        await queue.ensure(lane(job))
    delivery = await queue.take(lane(runs), 1.0)
    assert delivery is not None
    await log.execute(
        runs.slot, Start(ticket=delivery.seq, agent="agent"), await log.load(runs.slot)
    )
    await log.execute(over.slot, Cancel("me"), await log.load(over.slot))
    await eventually(lambda: caught_up(log, read_model))
    await Janitor(log, read_model, FAST).round()
    assert await lanes(log) == {lane(job) for job in (waits, runs, over)}, (
        "not at once: the next job of the build may come"
    )
    await janitor.round()
    assert await lanes(log) == {lane(job) for job in (waits, runs)}


async def test_a_read_model_that_is_behind_removes_no_partition_queue(
    log: EventLog, read_model: ReadModel
) -> None:
    job, unknown = spec(), spec(app_version_id="2")
    async with Projector(log, read_model):
        await log.submit(job)
        await log.execute(job.slot, Cancel("me"), await log.load(job.slot))
        await eventually(lambda: caught_up(log, read_model))
    for one in (job, unknown):
        await Queue(log.connection, FAST).ensure(lane(one))
    await log.submit(unknown)
    await Janitor(in_(log.connection, timedelta(hours=1)), read_model, FAST).round()
    assert await lanes(log) == {lane(job), lane(unknown)}


async def test_a_job_that_comes_while_its_partition_queue_is_being_removed_keeps_it(
    log: EventLog, read_model: ReadModel, janitor: Janitor
) -> None:
    """The read model had everything when the round began."""
    old, new = spec(test="old"), spec(test="new")
    await log.submit(old)
    await Queue(log.connection, FAST).ensure(lane(old))
    await log.execute(old.slot, Cancel("me"), await log.load(old.slot))
    await eventually(lambda: caught_up(log, read_model))
    situation = await janitor._look()
    await log.submit(new)
    await janitor._remove_idle_lanes(situation)
    assert await lanes(log) == {lane(new)}


async def test_more_partitions_than_consumers_are_all_served(
    small: EventLog, read_model: ReadModel, tmp_path: Path
) -> None:
    """Each agent and the janitor make what is missing as soon as others have gone; none is refused
    for good.
    """
    jobs = [spec(app_version_id=f"{number}") for number in range(VERSIONS)]
    await small.submit_many(jobs)
    async with (
        Projector(small, read_model),
        running_agent(small, tmp_path, runners=scripted({"*": ("passed",)}), poll_s=0.3),
        Janitor(in_(small.connection, timedelta(minutes=6)), read_model, FAST),
    ):

        async def all_passed() -> bool:
            states = [await small.load(job.slot) for job in jobs]
            return all(state is not None and state.verdict is Verdict.PASSED for state in states)

        await eventually(all_passed, within_s=120.0, what="all partitions to be served")
    state = await small.state()
    assert (state.max_consumers, state.consumers <= LIMIT) == (LIMIT, True)


async def test_readers_and_other_duties_do_not_need_a_consumer(
    small: EventLog, read_model: ReadModel
) -> None:
    """All places are taken by partitions with jobs when a projector starts; a queue timeout is due,
    and a queue is missing.
    """
    queue = Queue(small.connection, FAST)
    jobs = [spec(app_version_id=f"{number}") for number in range(LIMIT)]
    for job in jobs:
        await queue.ensure(lane(job))
        await small.submit(job)
    missing, hasty = (
        spec(app_version_id="missing"),
        spec(test="hasty.spec.js", app_version_id="0", queue_timeout_s=5.0),
    )
    await small.submit_many([missing, hasty])
    with pytest.raises(NoConsumerLeft, match="max_consumers"):
        await queue.ensure(lane(missing))
    async with Projector(small, read_model) as projector:
        assert await projector.wait_for((await small.state()).last_seq, 20.0)
        janitor = Janitor(in_(small.connection, timedelta(seconds=60)), read_model, FAST)
        await janitor.round()
        assert await story(small, hasty.slot) == ["submitted", "finished"]
        assert await lanes(small) == {lane(job) for job in jobs}
        await small.execute(jobs[0].slot, Cancel("me"), await small.load(jobs[0].slot))
        assert await projector.wait_for((await small.state()).last_seq, 20.0)
        await janitor.round()
    assert await lanes(small) == {lane(job) for job in [*jobs[1:], missing]}, (
        "one has ended: its place is taken at once, as there is need"
    )


async def test_a_reader_without_a_consumer_reads_what_its_filters_match(small: EventLog) -> None:
    for number in range(LIMIT):
        await Queue(small.connection, FAST).ensure(
            Lane(spec(app_version_id=f"{number}").partition, 5)
        )
    jobs = [
        spec(app_version_id=version, test=f"{number}.js")
        for number in range(20)
        for version in ("1", "2", "3")
    ]
    await small.submit_many(jobs)
    wanted = [
        subjects.partition_filter(spec(app_version_id=version).partition) for version in ("1", "3")
    ]
    seen: list[tuple[int, int]] = []
    async with small.tail(1, wanted, batch=7) as batches, asyncio.timeout(30):
        async for batch in batches:
            seen += [(one.seq, one.stored_at) for one in batch]
            if len(seen) == 40:
                break
    recorded = [
        one for job in jobs if job.app_version_id != "2" for one in await small.history(job.slot)
    ]
    assert seen == sorted((one.seq, one.stored_at) for one in recorded)
    assert all(abs(stored_at - utc_now().timestamp() * 1e6) < 600e6 for _, stored_at in seen)


async def test_a_duty_that_fails_does_not_keep_the_others_from_their_work(
    log: EventLog,
    read_model: ReadModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hasty, stranded = (
        spec(test="hasty.js", queue_timeout_s=5.0),
        spec(test="stranded.js", app_version_id="2"),
    )
    await log.submit_many([hasty, stranded])
    async with Projector(log, read_model):
        await eventually(lambda: caught_up(log, read_model))

    async def fails(_: object) -> None:
        raise RuntimeError("as a defect does")

    janitor = Janitor(in_(log.connection, timedelta(seconds=60)), read_model, FAST)
    for duty in ("_remove_idle_lanes", "_renew_lanes", "_lose_abandoned"):
        fails.__name__ = duty
        monkeypatch.setattr(janitor, duty, fails)
    await janitor.round()
    assert await story(log, hasty.slot) == ["submitted", "finished"]
    assert await lanes(log) == {lane(hasty), lane(stranded)}
    assert "as a defect does" in caplog.text
    assert (await log.load(stranded.slot)).status is Status.QUEUED  # type: ignore[union-attr]


async def test_a_running_job_survives_the_deletion_of_its_consumer(
    log: EventLog, tmp_path: Path
) -> None:
    """By an operator, or by a janitor in the moment in which the job came."""
    gate, job = asyncio.Event(), spec(infra_retries=0, max_retries=0)
    queue = Queue(log.connection, FAST)
    await queue.ensure(lane(job))
    await log.submit(job)
    async with running_agent(log, tmp_path, runners=scripted({"*": ("passed",)}, gate=gate)):

        async def runs() -> bool:
            state = await log.load(job.slot)
            return state is not None and state.status is Status.RUNNING

        await eventually(runs)
        await queue.drop(lane(job))

        async def made_again() -> bool:
            return lane(job) in await lanes(log)

        await eventually(made_again, within_s=20)
        deadline = asyncio.get_running_loop().time() + 3 * FAST.visibility_timeout_s
        while asyncio.get_running_loop().time() < deadline:
            assert await runs(), "its heartbeats are confirmed by the new consumer"
            await asyncio.sleep(0.1)
        gate.set()
        final = await ended(log, job.slot, within_s=20)
    assert (final.verdict, final.attempt) == (Verdict.PASSED, 1)
