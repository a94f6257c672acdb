"""What an agent does with jobs, on a real broker, with outcomes that were written down before."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from agents import FAST, ended, eventually, running_agent, scripted, story, submit
from factories import spec
from qgjet.agent.visibility import VisibilityTimeout
from qgjet.domain.decide import Cancel, OnDuplicate
from qgjet.domain.events import (
    AttemptEnded,
    Finished,
    JobSpec,
    Outcome,
    Partition,
    Released,
    Started,
    Status,
    Verdict,
)
from qgjet.domain.job import Job
from qgjet.domain.subjects import Lane
from qgjet.runners.base import Attempt
from qgjet.runners.redaction import Redactor
from qgjet.store import agent_registry
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue
from strategies import outcome

TEST = "tests/onboarding.spec.js"


async def test_a_job_that_waits_is_run_and_acknowledged(log: EventLog, tmp_path: Path) -> None:
    job = spec()
    await submit(log, job)
    async with running_agent(log, tmp_path):
        assert (await ended(log, job.slot)).verdict is Verdict.PASSED
    assert await story(log, job.slot) == ["submitted", "started", "finished"]
    (lane,) = await Queue(log.connection, FAST).lanes()
    assert (lane.pending, lane.unacknowledged) == (0, 0)


async def test_an_idle_agent_hears_of_a_lane_that_did_not_exist_before(
    log: EventLog, tmp_path: Path
) -> None:
    job = spec(app_version_id="never seen/2.0 *")
    async with running_agent(log, tmp_path, poll_s=60.0) as agent:
        await eventually(lambda: present(log, agent.instance))
        await log.submit(job)
        assert (await ended(log, job.slot)).verdict is Verdict.PASSED


async def present(log: EventLog, instance: str) -> bool:
    return instance in {info.instance for info in await agent_registry.agents(log.connection)}


async def test_a_failed_test_is_retried_as_often_as_it_may_be(
    log: EventLog, tmp_path: Path
) -> None:
    job = spec(max_retries=2)
    await submit(log, job)
    async with running_agent(log, tmp_path, runners=scripted({"*": ("failed",)})):
        final = await ended(log, job.slot)
    assert (final.verdict, final.attempt, final.retries_left, final.infra_retries_left) == (
        Verdict.FAILED,
        3,
        0,
        3,
    )
    assert await story(log, job.slot) == [
        "submitted",
        *["started", "attempt_ended"] * 2,
        "started",
        "finished",
    ]


async def test_a_job_that_passes_after_a_failure_is_flaky(log: EventLog, tmp_path: Path) -> None:
    job = spec()
    await submit(log, job)
    async with running_agent(log, tmp_path, runners=scripted({TEST: ("failed", "passed")})):
        final = await ended(log, job.slot)
    assert (final.status, final.verdict) == (Status.DONE, Verdict.FLAKY)


async def test_an_attempt_knows_the_test_cases_that_failed_before_and_a_final_failure_ends_the_job(
    log: EventLog, tmp_path: Path
) -> None:
    failed, final = (
        outcome("failed", a="failed", b="failed"),
        replace(outcome("failed", b="failed"), final=True),
    )
    outcomes, known = (
        iter([failed, outcome("failed", a="passed", b="failed"), outcome("infra_error"), final]),
        list[frozenset[str]](),
    )

    class Session:
        device = "test"
        redactor = Redactor()

        async def healthy(self) -> bool:
            return True

        async def run(self, attempt: Attempt) -> Outcome:
            known.append(attempt.failed_before)
            return next(outcomes)

        async def release(self) -> None:
            return

    class Runner:
        async def prepare(self, partition: Partition, directory: Path) -> Session:
            return Session()

    job = spec(max_retries=9)
    await submit(log, job)
    async with running_agent(log, tmp_path, runners={"emulator": Runner()}):
        last = await ended(log, job.slot)
    assert known == [frozenset(), {"a", "b"}, {"b"}, {"b"}]
    assert (last.verdict, last.attempt, last.retries_left, [one.id for one in last.unresolved]) == (
        Verdict.FAILED,
        4,
        7,
        ["b"],
    )


async def test_infra_errors_have_a_budget_of_their_own(log: EventLog, tmp_path: Path) -> None:
    job = spec(max_retries=0, infra_retries=2)
    await submit(log, job)
    async with running_agent(
        log, tmp_path, runners=scripted({TEST: ("infra_error", "crash", "passed")})
    ):
        final = await ended(log, job.slot)
    assert (final.verdict, final.attempt, final.infra_retries_left) == (Verdict.PASSED, 3, 0)


async def test_a_config_error_is_never_retried(log: EventLog, tmp_path: Path) -> None:
    job = spec(max_retries=10, infra_retries=10)
    await submit(log, job)
    async with running_agent(log, tmp_path, runners=scripted({TEST: ("config_error", "passed")})):
        final = await ended(log, job.slot)
    assert (final.verdict, final.attempt) == (Verdict.CONFIG_ERROR, 1)


async def test_one_prepare_serves_a_whole_queue(log: EventLog, tmp_path: Path) -> None:
    jobs = [spec(test=f"tests/{number}.spec.js") for number in range(7)]
    for job in jobs:
        await submit(log, job)
    async with running_agent(log, tmp_path):
        for job in jobs:
            await ended(log, job.slot)
    starts = [
        one.event
        for job in jobs
        for one in await log.history(job.slot)
        if isinstance(one.event, Started)
    ]
    assert sorted(started.warm for started in starts) == [False] + [True] * 6


async def test_a_failed_prepare_costs_an_infra_retry_and_no_attempt(
    log: EventLog, tmp_path: Path, monkeypatch: object
) -> None:
    job = spec(max_retries=0, infra_retries=1)
    await submit(log, job)
    async with running_agent(
        log, tmp_path, runners=scripted({"@prepare": ("prepare_failed",)})
    ) as first:
        await eventually(lambda: released(log, job.slot))
        first.drain()
        async with running_agent(log, tmp_path):
            final = await ended(log, job.slot)
    assert (final.verdict, final.attempt, final.retries_left, final.infra_retries_left) == (
        Verdict.PASSED,
        1,
        0,
        0,
    )


async def released(log: EventLog, slot: object) -> bool:
    return any(isinstance(one.event, Released) for one in await log.history(slot))  # type: ignore[arg-type]


async def test_a_cancel_reaches_a_running_job_within_a_heartbeat(
    log: EventLog, tmp_path: Path
) -> None:
    job = spec()
    await submit(log, job)
    async with running_agent(log, tmp_path, runners=scripted({TEST: ("hang",)})):
        live = await started(log, job.slot)
        loop = asyncio.get_running_loop()
        before = loop.time()
        await log.execute(job.slot, Cancel(by="test"), live)
        final = await ended(log, job.slot)
    assert (final.status, final.verdict) == (Status.CANCELLED, Verdict.CANCELLED)
    assert loop.time() - before < FAST.visibility_timeout_s
    assert await story(log, job.slot) == ["submitted", "started", "cancel_requested", "cancelled"]


async def started(log: EventLog, slot: object) -> Job:
    async def ask() -> Job | None:
        job = await log.load(slot)  # type: ignore[arg-type]
        return job if job is not None and job.status is Status.RUNNING else None

    job = await eventually(ask)
    assert job is not None
    return job


async def test_a_job_of_many_heartbeats_keeps_its_lease(log: EventLog, tmp_path: Path) -> None:
    """Two agents: the second would take the job over if the first's lease ran out."""
    gate = asyncio.Event()
    job = spec()
    await submit(log, job)
    async with (
        running_agent(log, tmp_path, runners=scripted(gate=gate)),
        running_agent(log, tmp_path, runners=scripted(gate=gate)),
    ):
        await started(log, job.slot)
        loop = asyncio.get_running_loop()
        until = loop.time() + 3 * FAST.visibility_timeout_s
        await eventually(lambda: later_than(until), within_s=20)
        gate.set()
        final = await ended(log, job.slot)
    assert await story(log, job.slot) == ["submitted", "started", "finished"]
    assert final.infra_retries_left == job.infra_retries


async def later_than(moment: float) -> bool:
    return asyncio.get_running_loop().time() > moment


async def test_a_heartbeat_that_fails_by_a_defect_is_not_the_last_one(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job, gate, beats = spec(infra_retries=0), asyncio.Event(), 0
    lease_s = VisibilityTimeout.lease_s

    async def fails_now_and_then(visibility: VisibilityTimeout, sent: float) -> float:
        nonlocal beats
        beats += 1
        if beats % 3 == 2:
            raise RuntimeError("as a defect does")
        return await lease_s(visibility, sent)

    monkeypatch.setattr(VisibilityTimeout, "lease_s", fails_now_and_then)
    await submit(log, job)
    async with running_agent(log, tmp_path, runners=scripted({"*": ("passed",)}, gate=gate)):

        async def many() -> bool:
            return beats > 12

        await eventually(many, within_s=30)
        gate.set()
        final = await ended(log, job.slot)
    assert (final.verdict, final.attempt) == (Verdict.PASSED, 1)
    assert "a heartbeat failed" in caplog.text


async def test_draining_finishes_what_runs_and_leaves_the_rest(
    log: EventLog, tmp_path: Path
) -> None:
    gate = asyncio.Event()
    first, second = spec(test="tests/1.spec.js"), spec(test="tests/2.spec.js")
    await submit(log, first)
    async with running_agent(log, tmp_path, runners=scripted(gate=gate)) as agent:
        await started(log, first.slot)
        await submit(log, second)
        agent.drain()
        gate.set()
        assert (await ended(log, first.slot)).verdict is Verdict.PASSED
    left = await log.load(second.slot)
    assert left is not None
    assert (left.status, left.attempt) == (Status.QUEUED, 0)


async def test_a_hard_stop_gives_a_running_job_back_at_no_cost(
    log: EventLog, tmp_path: Path
) -> None:
    job = spec(max_retries=0, infra_retries=0)
    await submit(log, job)
    async with running_agent(log, tmp_path, runners=scripted({TEST: ("hang",)})) as agent:
        await started(log, job.slot)
        agent.halt()
    assert await story(log, job.slot) == ["submitted", "started", "released"]
    async with running_agent(log, tmp_path):
        final = await ended(log, job.slot)
    assert (final.verdict, final.attempt) == (Verdict.PASSED, 2)


async def test_an_attempt_that_takes_too_long_times_out(log: EventLog, tmp_path: Path) -> None:
    job = spec(max_retries=0, execution_timeout_s=0.1)
    await submit(log, job)
    async with running_agent(log, tmp_path, runners=scripted({TEST: ("hang",)})):
        final = await ended(log, job.slot)
    assert (final.status, final.verdict) == (Status.FAILED, Verdict.TIMED_OUT)


async def test_two_agents_share_a_lane_and_run_each_job_once(log: EventLog, tmp_path: Path) -> None:
    jobs = [spec(test=f"tests/{number}.spec.js") for number in range(60)]
    await Queue(log.connection, FAST).ensure(Lane(jobs[0].partition, 5))
    async with running_agent(log, tmp_path, slots=3), running_agent(log, tmp_path, slots=3):
        await log.submit_many(jobs)
        for job in jobs:
            await ended(log, job.slot)
    stories = [await story(log, job.slot) for job in jobs]
    assert stories == [["submitted", "started", "finished"]] * 60


async def test_the_more_urgent_job_goes_first(log: EventLog, tmp_path: Path) -> None:
    ranks = [7, 3, 0, 9, 5]
    jobs = [spec(test=f"tests/{rank}.spec.js", rank=rank, priority=rank) for rank in ranks]
    for job in jobs:
        await submit(log, job)
    async with running_agent(log, tmp_path, batch=1):
        for job in jobs:
            await ended(log, job.slot)
    ends = {
        one.seq: job.rank
        for job in jobs
        for one in await log.history(job.slot)
        if isinstance(one.event, Finished)
    }
    assert [ends[seq] for seq in sorted(ends)] == sorted(ranks)


async def test_an_agent_bound_to_a_version_leaves_the_others_alone(
    log: EventLog, tmp_path: Path
) -> None:
    mine, other = spec(app_version_id="1.0.0"), spec(app_version_id="2.0.0")
    await submit(log, other)
    await submit(log, mine)
    async with running_agent(log, tmp_path, app_version_id="1.0.0"):
        await ended(log, mine.slot)
    left = await log.load(other.slot)
    assert left is not None
    assert left.status is Status.QUEUED


async def test_a_retry_waits_for_its_time(log: EventLog, tmp_path: Path) -> None:
    job = spec(max_retries=1)
    await submit(log, job)
    async with running_agent(log, tmp_path, runners=scripted({TEST: ("failed", "passed")})):
        await ended(log, job.slot)
    history = [one.event for one in await log.history(job.slot)]
    (first_end,) = [event for event in history if isinstance(event, AttemptEnded)]
    second_start = [event for event in history if isinstance(event, Started)][1]
    assert first_end.retry_at is not None
    assert second_start.at >= first_end.retry_at


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(verdict=Verdict.PASSED, duration_s=float("nan")),
        Outcome(verdict=Verdict.PASSED, message="half an emoji \ud83d"),
        Outcome(verdict=Verdict.PASSED, message="x" * 2_000_000),
    ],
    ids=["not a number", "not a text", "too large"],
)
async def test_an_outcome_that_the_log_cannot_hold_is_no_verdict(
    log: EventLog, tmp_path: Path, outcome: Outcome
) -> None:
    class Session:
        device = "test"
        redactor = Redactor()

        async def healthy(self) -> bool:
            return True

        async def run(self, _: Attempt) -> Outcome:
            return outcome

        async def release(self) -> None:
            return

    class Runner:
        async def prepare(self, _: Partition, __: Path) -> Session:
            return Session()

    job = spec(infra_retries=0)
    await submit(log, job)
    async with running_agent(log, tmp_path, runners={"emulator": Runner()}):
        final = await ended(log, job.slot)
    assert (final.verdict, final.attempt) == (Verdict.INFRA_ERROR, 1)


async def test_the_result_of_a_replaced_job_is_not_the_result_of_its_successor(
    log: EventLog, tmp_path: Path
) -> None:
    """Both are attempt 1 of the same slot, and may be run by the same agent."""
    gate = asyncio.Event()
    old, new = spec(), spec()
    await submit(log, old)
    async with running_agent(log, tmp_path, runners=scripted(gate=gate), slots=2):
        await started(log, old.slot)
        await submit(log, new, OnDuplicate.REPLACE)
        await eventually(lambda: runs(log, new))
        await eventually(lambda: idle_but_for(log, 1))
        still = await log.load(new.slot)
        assert still is not None
        assert (still.job_id, still.status) == (new.job_id, Status.RUNNING)
        gate.set()
        final = await ended(log, new.slot)
    assert (final.job_id, final.verdict) == (new.job_id, Verdict.PASSED)
    assert await story(log, new.slot) == [
        "submitted",
        "started",
        "submitted",
        "started",
        "finished",
    ]


async def runs(log: EventLog, wanted: JobSpec) -> bool:
    job = await log.load(wanted.slot)
    return job is not None and job.job_id == wanted.job_id and job.status is Status.RUNNING


async def idle_but_for(log: EventLog, deliveries: int) -> bool:
    return (
        sum(lane.unacknowledged for lane in await Queue(log.connection, FAST).lanes()) == deliveries
    )
