"""Jobs that nobody would end: the janitor does, and touches nobody else."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from agents import FAST, agree, ended, eventually, running_agent, scripted, story, submit
from factories import spec
from faults.watched import Ledger, legal_history, watched
from later import in_
from patience import patience
from qgjet.config.settings import QueueSettings
from qgjet.domain import codec
from qgjet.domain.decide import OnDuplicate, Requeue, Start, Submit, decide
from qgjet.domain.events import Finished, JobSpec, Status, Verdict
from qgjet.domain.subjects import Lane
from qgjet.store import suite_log
from qgjet.store.agent_registry import AgentInfo, announce
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue
from qgjet.store.suite_log import Submission, submit_suite
from qgjet.support.clock import utc_now
from qgjet_projections.api.answers import suite_verdict
from qgjet_projections.maintenance import janitor as janitors
from qgjet_projections.maintenance.janitor import Janitor
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.readmodel.projector import Projector

GIVES_UP_SOON = QueueSettings(visibility_timeout_s=1.0, max_deliver=2)
ADVISORY = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.QG_EVENTS.somebody"


@pytest.fixture(autouse=True)
async def _short_leases(log: EventLog) -> None:
    await agree(log.connection, FAST.deployment)


@contextlib.asynccontextmanager
async def caught_up(
    log: EventLog, read_model: ReadModel, queue: QueueSettings = FAST, *, later_s: float = 0.0
) -> AsyncIterator[Janitor]:
    """A janitor whose read model holds the whole log and stays behind from then on, `later_s` from
    now.
    """
    await agree(log.connection, queue.deployment)
    async with Projector(log, read_model) as projector:
        assert await projector.wait_for((await log.state()).last_seq, patience(10))
    yield Janitor(in_(log.connection, timedelta(seconds=later_s)), read_model, queue)


async def round_of(
    log: EventLog, read_model: ReadModel, queue: QueueSettings = FAST, *, later_s: float = 0.0
) -> None:
    async with caught_up(log, read_model, queue, later_s=later_s) as janitor:
        await janitor.round()


async def advisories(log: EventLog) -> int:
    return int((await log.connection.api("STREAM.INFO.QG_ADVISORIES"))["state"]["messages"])


async def test_all_lanes_get_the_leases_in_force_whatever_the_janitor_was_started_with(
    log: EventLog, read_model: ReadModel
) -> None:
    """Two with different settings would take turns with every consumer; what is stored with the log
    decides.
    """
    job = spec()
    queue, lane = Queue(log.connection, FAST), Lane(job.partition, job.rank)
    await queue.ensure(lane)
    await round_of(log, read_model, FAST)
    in_force = QueueSettings(visibility_timeout_s=8.0, max_deliver=7)
    async with caught_up(log, read_model, FAST) as janitor:
        await agree(log.connection, in_force.deployment)
        await janitor.round()
    (state,) = await queue.lanes()
    assert (state.ack_wait_ns, state.max_deliver) == (9_000_000_000, 7)
    assert Queue(log.connection, in_force).is_current(state)


async def test_a_submission_that_was_never_completed_is_taken_back(
    log: EventLog, read_model: ReadModel
) -> None:
    """Its client died between two batches. What it was attached to goes on."""
    live, first, other = (
        spec(),
        spec(test="b.js", suite_ids=("s",)),
        spec(test="c.js", suite_ids=("s",)),
    )
    await log.submit(live)
    torn = Submission(
        suite_id="s", id="torn", specs=[spec(), first], modes=[OnDuplicate.ATTACH] * 2
    )
    await suite_log._submit(
        log, torn, [0, 1], Counter({live.org_id: 500}), asyncio.get_running_loop().time() + 10
    )
    await submit_suite(log, replace(torn, id="whole", specs=[other], modes=[OnDuplicate.ATTACH]))
    await round_of(log, read_model, later_s=60)
    assert (await log.load(first.slot)).status is Status.QUEUED  # type: ignore[union-attr]
    await round_of(log, read_model, later_s=200)
    statuses = [(await log.load(one.slot)).status for one in (live, first, other)]  # type: ignore[union-attr]
    assert statuses == [Status.QUEUED, Status.CANCELLED, Status.QUEUED]
    written = (await log.state()).last_seq
    await round_of(log, read_model, later_s=400)
    assert (await log.state()).last_seq == written, "once is enough"


async def test_a_suite_that_was_never_completed_is_not_green_though_all_its_jobs_passed(
    log: EventLog, read_model: ReadModel, tmp_path: Path
) -> None:
    """Agents are quicker than the janitor. A client that goes on after all completes the suite."""
    first, second = spec(suite_ids=("s",)), spec(test="b.js", suite_ids=("s",))
    await Queue(log.connection, FAST).ensure(Lane(first.partition, first.rank))
    whole = Submission(
        suite_id="s", id="torn", specs=[first, second], modes=[OnDuplicate.ATTACH] * 2
    )
    await suite_log._submit(
        log, whole, [0], Counter({first.org_id: 1}), asyncio.get_running_loop().time() + 10
    )
    async with running_agent(log, tmp_path):
        await ended(log, first.slot)
    await round_of(log, read_model, later_s=60)
    assert absent(read_model) == (1, 0, None)
    await round_of(log, read_model, later_s=200)
    await round_of(log, read_model, later_s=200)
    assert absent(read_model) == (0, 1, Verdict.CANCELLED)
    again = await suite_log._submit(
        log, whole, [1], Counter(), asyncio.get_running_loop().time() + 10
    )
    assert again[1].job_id == second.job_id
    async with running_agent(log, tmp_path):
        await ended(log, second.slot)
    await round_of(log, read_model, later_s=400)
    assert absent(read_model) == (0, 0, Verdict.PASSED)


def absent(read_model: ReadModel) -> tuple[int, int, Verdict | None]:
    suite = read_model.suite("s")
    assert suite is not None
    return suite.to_come, suite.missing, suite_verdict(suite)


# -- what it is for -------------------------------------------------------------------------------------------------------------------


async def test_a_job_that_was_delivered_as_often_as_allowed_is_finished(
    log: EventLog, read_model: ReadModel
) -> None:
    """By a consumer that takes and never answers. The server says so when somebody asks again after
    the last visibility timeout.
    """
    job = spec()
    queue, lane = Queue(log.connection, GIVES_UP_SOON), Lane(job.partition, job.rank)
    await queue.ensure(lane)
    await log.submit(job)
    for _ in range(GIVES_UP_SOON.max_deliver):
        await eventually(lambda: queue.take(lane, 0.2), what="delivery")
    await eventually(lambda: asked_in_vain(log, queue, lane), what="advisory")
    await round_of(log, read_model, GIVES_UP_SOON)
    final = await ended(log, job.slot)
    assert (final.status, final.verdict) == (Status.FAILED, Verdict.INFRA_ERROR)
    finished = (await legal_history(log, job.slot))[-1]
    assert isinstance(finished, Finished)
    assert finished.outcome.reason == "deliveries_exhausted"
    history = await log.history(job.slot)
    await round_of(log, read_model, GIVES_UP_SOON)
    assert await log.history(job.slot) == history, (
        "once is enough, after a restart of the janitor too"
    )


async def asked_in_vain(log: EventLog, queue: Queue, lane: Lane) -> bool:
    assert await queue.take(lane, 0.1) is None
    return await advisories(log) > 0


async def test_a_queued_job_whose_lane_has_no_consumer_gets_one(
    log: EventLog, read_model: ReadModel, tmp_path: Path
) -> None:
    jobs = [spec(app_version_id=version, rank=rank) for version in ("1", "2") for rank in (0, 9)]
    await log.submit_many(jobs)
    assert await Queue(log.connection, FAST).lanes() == []
    async with running_agent(log, tmp_path, poll_s=60.0), caught_up(log, read_model) as janitor:
        await eventually(lambda: done(log, jobs, janitor), what="four lanes are served")


async def done(log: EventLog, jobs: list[JobSpec], janitor: Janitor) -> bool:
    await janitor.round()
    states = [await log.load(job.slot) for job in jobs]
    return all(state is not None and state.verdict is Verdict.PASSED for state in states)


async def test_a_queued_job_that_nothing_will_deliver_is_queued_again(
    log: EventLog, read_model: ReadModel, tmp_path: Path
) -> None:
    """Somebody has answered its message without ending it."""
    job, other = spec(), spec(app_version_id="2.0.0")
    for one in (job, other):
        await submit(log, one)
    delivery = await Queue(log.connection, FAST).take(Lane(job.partition, job.rank), 1.0)
    assert delivery is not None
    await delivery.ack()
    await round_of(log, read_model)
    assert await story(log, job.slot) == ["submitted"], "it may be on its way still"
    await round_of(log, read_model, later_s=60.0)
    assert await story(log, job.slot) == ["submitted", "requeued"]
    assert await story(log, other.slot) == ["submitted"], "this one will be delivered"
    async with running_agent(log, tmp_path):
        final = await ended(log, job.slot)
    assert (final.verdict, final.attempt, final.infra_retries_left) == (
        Verdict.PASSED,
        1,
        job.infra_retries,
    )


async def test_a_job_that_waits_longer_than_it_may_ends_without_a_verdict(
    log: EventLog, read_model: ReadModel
) -> None:
    now = utc_now()
    patient, hasty, lasting = (
        spec(test=f"{limit}.spec.js", submitted_at=now, queue_timeout_s=limit)
        for limit in (100.0, 5.0, None)
    )
    for job in (patient, hasty, lasting):
        await submit(log, job)
    await round_of(log, read_model, later_s=10.0)
    final = await ended(log, hasty.slot)
    assert (final.status, final.verdict) == (Status.FAILED, Verdict.INFRA_ERROR)
    finished = (await legal_history(log, hasty.slot))[-1]
    assert isinstance(finished, Finished)
    assert finished.outcome.reason == "queue_timeout"
    assert [await story(log, job.slot) for job in (patient, lasting)] == [["submitted"]] * 2


async def running_but_answered(log: EventLog, agent: str) -> JobSpec:
    """A job that the agent has started and whose message it has answered: no redelivery shows its
    loss.
    """
    job = spec()
    await submit(log, job)
    delivery = await Queue(log.connection, FAST).take(Lane(job.partition, job.rank), 1.0)
    assert delivery is not None
    await delivery.ack()
    await log.execute(job.slot, Start(ticket=delivery.seq, agent=agent), await log.load(job.slot))
    return job


async def test_a_running_job_of_an_agent_that_is_gone_is_lost_and_handed_on(
    log: EventLog, read_model: ReadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when its message was answered, so that no redelivery shows the loss."""
    monkeypatch.setattr(janitors, "PRESENCE_GRACE_S", 0.0)
    job = await running_but_answered(log, "ghost")
    async with caught_up(log, read_model) as janitor:
        await janitor.round()
        assert await story(log, job.slot) == ["submitted", "started"], "not at first sight"
        await eventually(lambda: lost(log, job, janitor), what="attempt_lost")
    await round_of(log, read_model, later_s=60.0)
    async with running_agent(log, tmp_path):
        final = await ended(log, job.slot)
    assert await story(log, job.slot) == [
        "submitted",
        "started",
        "attempt_lost",
        "requeued",
        "started",
        "finished",
    ]
    assert (final.verdict, final.attempt, final.retries_left, final.infra_retries_left) == (
        Verdict.PASSED,
        2,
        job.max_retries,
        job.infra_retries - 1,
    )


async def lost(log: EventLog, job: JobSpec, janitor: Janitor) -> bool:
    await janitor.round()
    return "attempt_lost" in await story(log, job.slot)


async def test_a_running_job_of_an_agent_that_is_there_is_left_alone(
    log: EventLog,
    read_model: ReadModel,
    tmp_path: Path,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(janitors, "PRESENCE_GRACE_S", 0.0)
    job = spec(queue_timeout_s=0.0)
    gate = asyncio.Event()
    await submit(log, job)
    async with running_agent(log, tmp_path, runners=watched(ledger, gate=gate)):
        run = await ledger.started(job.slot)
        async with caught_up(log, read_model, later_s=3600.0) as janitor:
            for _ in range(4):
                await janitor.round()
                await run.heartbeat()
        gate.set()
        await ended(log, job.slot)
    assert await story(log, job.slot) == ["submitted", "started", "finished"]


async def test_two_janitors_do_what_one_does(log: EventLog, read_model: ReadModel) -> None:
    jobs = [
        spec(test=f"tests/{number}.spec.js", submitted_at=utc_now(), queue_timeout_s=5.0)
        for number in range(20)
    ]
    await log.submit_many(jobs)
    async with (
        caught_up(log, read_model, later_s=10.0) as one,
        caught_up(log, read_model, later_s=10.0) as two,
    ):
        await asyncio.gather(one.round(), two.round())
    for job in jobs:
        assert await story(log, job.slot) == ["submitted", "finished"]


# -- what it must not do --------------------------------------------------------------------------------------------------------------


async def test_a_queue_timeout_does_not_end_a_job_that_has_just_been_started(
    log: EventLog, read_model: ReadModel
) -> None:
    """The read model is always a little behind."""
    job = spec(submitted_at=utc_now(), queue_timeout_s=5.0)
    await submit(log, job)
    async with caught_up(log, read_model, later_s=10.0) as janitor:
        await log.execute(job.slot, Start(ticket=1, agent="agent"), await log.load(job.slot))
        await janitor.round()
    assert await story(log, job.slot) == ["submitted", "started"]


async def test_a_queue_timeout_does_not_end_a_job_that_waits_for_its_retry(
    log: EventLog, read_model: ReadModel, tmp_path: Path
) -> None:
    """It was started in time: what it waits for now is its own back-off, not a free agent."""
    job = spec(submitted_at=utc_now(), queue_timeout_s=5.0)
    slow = QueueSettings(visibility_timeout_s=1.5, retry_base_s=600.0, retry_cap_s=600.0)
    await submit(log, job)
    async with running_agent(
        log, tmp_path, runners=scripted({"*": ("failed", "passed")}), queue=slow
    ):
        await eventually(lambda: tells(log, job, "attempt_ended"))
    await round_of(log, read_model, later_s=10.0)
    assert await story(log, job.slot) == ["submitted", "started", "attempt_ended"]


async def tells(log: EventLog, job: JobSpec, event: str) -> bool:
    return event in await story(log, job.slot)


async def test_a_job_that_was_re_ranked_a_moment_ago_keeps_its_new_rank(
    log: EventLog, read_model: ReadModel
) -> None:
    job = spec()
    await submit(log, job)
    delivery = await Queue(log.connection, FAST).take(Lane(job.partition, job.rank), 1.0)
    assert delivery is not None
    await delivery.ack()
    async with caught_up(log, read_model, later_s=60.0) as janitor:
        urgent = JobSpec(
            **{name: getattr(job, name) for name in job.__struct_fields__}
            | {"rank": 0, "priority": 0}
        )
        await log.execute(
            job.slot, Requeue(spec=urgent, reason="rank", by="operator"), await log.load(job.slot)
        )
        await janitor.round()
    last = (await legal_history(log, job.slot))[-1]
    assert last.spec.rank == 0  # type: ignore[union-attr]


async def test_advisories_that_make_no_sense_do_not_stop_it(
    log: EventLog, read_model: ReadModel
) -> None:
    nonsense = [
        b"",
        b"garbage",
        b'{"stream_seq":-1}',
        b'{"stream_seq":"7"}',
        b'{"stream_seq":999999}',
        b"{}",
    ]
    job = spec(submitted_at=utc_now(), queue_timeout_s=5.0)
    await log.submit(job)
    for data in nonsense:
        await log.connection.request(ADVISORY, data)
    assert await advisories(log) == len(nonsense)
    await round_of(log, read_model, later_s=10.0)
    assert (await ended(log, job.slot)).verdict is Verdict.INFRA_ERROR


async def test_a_job_in_a_lane_that_cannot_be_does_not_keep_it_from_the_others(
    log: EventLog, read_model: ReadModel
) -> None:
    """Written by somebody who does not know the limits; sorted before all others."""
    impossible, job = spec(org_id="a" * 100), spec()
    subject = (
        f"qg.job.{impossible.org_id}.1%2E0%2E0.emulator.tests/onboarding%2Espec%2Ejs.submitted.p5"
    )
    await log.connection.request(subject, codec.encode(decide(Submit(impossible), None, utc_now())))
    await log.submit(job)
    await round_of(log, read_model)
    assert [state.lane for state in await Queue(log.connection, FAST).lanes()] == [
        Lane(job.partition, job.rank)
    ]


@pytest.mark.parametrize("names_it", [False, True])
async def test_a_running_job_that_its_living_agent_does_not_name_is_lost(
    log: EventLog, read_model: ReadModel, monkeypatch: pytest.MonkeyPatch, names_it: bool
) -> None:
    """As after a power cut that took the end of the log: the job's end is gone, its agent lives and
    has long forgotten it.
    """
    monkeypatch.setattr(janitors, "PRESENCE_GRACE_S", 0.0)
    job = await running_but_answered(log, "lives")
    info = AgentInfo(
        instance="lives",
        name="a",
        host="h",
        pid=1,
        version="1",
        targets=(),
        slots=1,
        since=utc_now(),
        running=(job.job_id,) * names_it,
    )
    await announce(log.connection, info)
    async with caught_up(log, read_model) as janitor:
        await janitor.round()
        deadline = asyncio.get_running_loop().time() + 2 * FAST.visibility_timeout_s
        while asyncio.get_running_loop().time() < deadline:
            await janitor.round()
        assert await story(log, job.slot) == ["submitted", "started"], (
            "its entry is older than that, and may be older than the job"
        )
        await announce(log.connection, info)
        await janitor.round()
    assert await story(log, job.slot) == [
        "submitted",
        "started",
        *["attempt_lost"] * (not names_it),
    ]
