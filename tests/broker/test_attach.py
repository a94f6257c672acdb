"""Several runs that wait for one job: what each asks for counts, and the job ends with the last of
them.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agents import FAST, ended, eventually, running_agent, scripted, story
from factories import spec
from qgjet.domain.decide import OnDuplicate
from qgjet.domain.events import Attached, JobSpec, Requeued, Status, Verdict
from qgjet.domain.job import Job
from qgjet.domain.subjects import Lane
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue
from qgjet.store.suite_log import Submission, abandon, submit_suite
from qgjet_projections.readmodel import JobQuery, ReadModel
from qgjet_projections.readmodel.projector import Projector


async def joined(log: EventLog, suite_id: str, **fields: object) -> JobSpec:
    """A suite of one job, which is created or attached."""
    wanted = spec(suite_ids=(suite_id,), **fields)
    await Queue(log.connection, FAST).ensure(Lane(wanted.partition, wanted.rank))
    await submit_suite(
        log, Submission(suite_id=suite_id, id=suite_id, specs=[wanted], modes=[OnDuplicate.ATTACH])
    )
    return wanted


async def state(log: EventLog, wanted: JobSpec) -> Job:
    job = await log.load(wanted.slot)
    assert job is not None
    return job


async def leave(log: EventLog, wanted: JobSpec, suite_id: str) -> Job:
    job = await log.cancel(
        wanted.slot, (await state(log, wanted)).job_id, by="me", suite_id=suite_id
    )
    assert job is not None
    return job


@pytest.mark.parametrize("first", ["a", "b"])
async def test_a_job_ends_when_the_last_suite_that_waits_for_it_is_cancelled(
    log: EventLog, first: str
) -> None:
    created = await joined(log, "a")
    await joined(log, "b")
    assert (await state(log, created)).waiters == {"a", "b"}
    kept = await leave(log, created, first)
    assert (kept.status, kept.cancel_requested, kept.waiters) == (
        Status.QUEUED,
        False,
        {"a", "b"} - {first},
    )
    assert await leave(log, created, first) == kept, "once is enough"
    last = await leave(log, created, *({"a", "b"} - {first}))
    assert (last.status, last.verdict) == (Status.CANCELLED, Verdict.CANCELLED)
    assert await story(log, created.slot) == [
        "submitted",
        "attached",
        "detached",
        "cancel_requested",
    ]


async def test_a_suite_that_comes_again_waits_again(log: EventLog) -> None:
    created = await joined(log, "a")
    await joined(log, "b")
    await leave(log, created, "a")
    again = spec(suite_ids=("a",))
    await submit_suite(
        log, Submission(suite_id="a", id="a again", specs=[again], modes=[OnDuplicate.ATTACH])
    )
    assert (await leave(log, created, "b")).status is Status.QUEUED
    assert (await leave(log, created, "a")).status is Status.CANCELLED


async def test_a_submission_outside_of_any_suite_is_not_cancelled_with_one(log: EventLog) -> None:
    alone, suites_own = spec(test="alone.js"), await joined(log, "a", test="suites.js")
    await log.submit(alone)
    await joined(log, "a2", test="alone.js")
    attached = await log.submit(spec(test="suites.js"))
    assert attached.attached
    for wanted, suite_id in ((alone, "a2"), (suites_own, "a")):
        job = await leave(log, wanted, suite_id)
        assert (job.status, job.cancel_requested) == (Status.QUEUED, False)
        ends = await log.cancel(wanted.slot, job.job_id, by="me")
        assert ends is not None
        assert ends.status is Status.CANCELLED, "who names the job itself means it"


async def test_what_is_known_already_writes_nothing(log: EventLog) -> None:
    """S0 submits the same test again and again; none of them is in a suite."""
    wanted = spec()
    await log.submit(wanted)
    answers = await asyncio.gather(*(log.submit(spec()) for _ in range(20)))
    assert {(one.job_id, one.attached) for one in answers} == {(wanted.job_id, True)}
    assert await story(log, wanted.slot) == ["submitted"]


async def test_runs_that_join_at_the_same_time_are_all_known(log: EventLog) -> None:
    created = await joined(log, "a")
    await asyncio.gather(*(joined(log, f"s-{number}") for number in range(20)))
    assert (await state(log, created)).waiters == {"a", *(f"s-{number}" for number in range(20))}


async def test_more_suites_than_an_event_names_keep_the_job(log: EventLog) -> None:
    created = await joined(log, "a")
    for number in range(103):
        await joined(log, f"s-{number}")
    for suite_id in ("a", *(f"s-{number}" for number in range(103))):
        assert (await leave(log, created, suite_id)).status is Status.QUEUED


async def test_the_better_priority_the_shorter_limits_and_the_tags_of_both_count(
    log: EventLog, tmp_path: Path
) -> None:
    read_model = ReadModel.open(tmp_path / "read.sqlite")
    created = await joined(
        log,
        "a",
        rank=5,
        priority=5,
        execution_timeout_s=60.0,
        tags={"commit": "1", "branch": "main"},
    )
    await joined(
        log,
        "b",
        rank=2,
        priority=2,
        execution_timeout_s=90.0,
        queue_timeout_s=30.0,
        tags={"commit": "2", "job": "7"},
    )
    await joined(log, "c", rank=9, priority=9, execution_timeout_s=20.0, tags={"os": "15"})
    events = [one.event for one in await log.history(created.slot)]
    assert [type(event) for event in events[1:]] == [Requeued, Attached]
    async with Projector(log, read_model) as projector:
        assert await projector.wait_for((await log.state()).last_seq, 20)
    (job,) = read_model.jobs(JobQuery()).items
    assert (job.job_id, job.rank, job.priority, job.execution_timeout_s, job.queue_timeout_s) == (
        created.job_id,
        2,
        2,
        20.0,
        30.0,
    )
    assert job.tags == {"commit": "1", "branch": "main", "job": "7", "os": "15"}
    assert [one.job_id for one in read_model.jobs(JobQuery(tags={"os": "15"})).items] == [
        created.job_id
    ]
    read_model.close()
    assert (await state(log, created)).waiters == {"a", "b", "c"}


async def test_a_shorter_limit_ends_an_attempt_that_runs(log: EventLog, tmp_path: Path) -> None:
    created = await joined(log, "a", max_retries=0, execution_timeout_s=3600.0)
    async with running_agent(log, tmp_path, runners=scripted({"*": ("hang",)})):

        async def runs() -> bool:
            return (await state(log, created)).status is Status.RUNNING

        await eventually(runs, what="the attempt")
        await joined(log, "b", execution_timeout_s=0.2)
        final = await ended(log, created.slot, within_s=30)
    assert final.verdict is Verdict.TIMED_OUT


async def test_a_shorter_limit_counts_for_attempts_that_follow(
    log: EventLog, tmp_path: Path
) -> None:
    created = await joined(log, "a", max_retries=0, execution_timeout_s=3600.0)
    await joined(log, "b", execution_timeout_s=0.2)
    async with running_agent(log, tmp_path, runners=scripted({"*": ("hang",)})):
        assert (await ended(log, created.slot, within_s=30)).verdict is Verdict.TIMED_OUT


async def test_a_retry_keeps_its_time_when_another_run_joins(log: EventLog, tmp_path: Path) -> None:
    slow = type(FAST)(visibility_timeout_s=1.5, retry_base_s=600.0, retry_cap_s=600.0)
    created = await joined(log, "a")
    async with running_agent(
        log, tmp_path, runners=scripted({"*": ("failed", "passed")}), queue=slow
    ):

        async def waits() -> bool:
            return (await state(log, created)).retry_at is not None

        await eventually(waits, what="the retry")
    before = await state(log, created)
    await joined(log, "b")
    after = await state(log, created)
    assert (after.retry_at, after.attempt, after.failures) == (before.retry_at, 1, 1)


async def test_a_submission_that_is_given_up_takes_nothing_from_others(log: EventLog) -> None:
    """Its client died half-way; another run has joined one of its jobs meanwhile."""
    specs = [spec(test=f"{number}.js", suite_ids=("torn",)) for number in range(3)]
    torn = Submission(
        suite_id="torn", id="torn", specs=specs, modes=[OnDuplicate.ATTACH] * 3, to_come=5
    )
    await submit_suite(log, torn)
    await joined(log, "b", test="1.js")
    assert await abandon(log, "acme", "torn", "torn", by="janitor")
    assert [(await state(log, one)).status for one in specs] == [
        Status.CANCELLED,
        Status.QUEUED,
        Status.CANCELLED,
    ]
