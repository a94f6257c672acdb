"""Messages that stand for nothing any more, delivered late: they change nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agents import agree, ended, eventually, running_agent, story
from factories import spec
from faults.watched import Ledger, legal_history, watched
from qgjet.config.settings import QueueSettings
from qgjet.domain.decide import Cancel, OnDuplicate, Requeue
from qgjet.domain.events import JobSpec, Status, Verdict
from qgjet.domain.subjects import Lane
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Delivery, Queue
from qgjet_projections.maintenance.janitor import Janitor
from qgjet_projections.readmodel import ReadModel

BRIEF = QueueSettings(visibility_timeout_s=1.0, retry_base_s=0.02, retry_cap_s=0.05)
GIVES_UP_SOON = QueueSettings(visibility_timeout_s=1.0, max_deliver=2)


async def submit(
    log: EventLog, job: JobSpec, on_duplicate: OnDuplicate = OnDuplicate.ATTACH
) -> None:
    await Queue(log.connection, BRIEF).ensure(Lane(job.partition, job.rank))
    await log.submit(job, on_duplicate)


async def held(log: EventLog, job: JobSpec) -> Delivery:
    """The job's message, delivered to somebody who will not answer: it is delivered again a
    visibility timeout later.
    """
    await submit(log, job)
    delivery = await Queue(log.connection, BRIEF).take(Lane(job.partition, job.rank), 1.0)
    assert delivery is not None
    return delivery


async def rerank(log: EventLog, job: JobSpec, rank: int) -> None:
    new = spec(
        **{name: getattr(job, name) for name in job.__struct_fields__}
        | {"rank": rank, "priority": rank}
    )
    await Queue(log.connection, BRIEF).ensure(Lane(job.partition, rank))
    await log.execute(
        job.slot, Requeue(spec=new, reason="rank", by="test"), await log.load(job.slot)
    )


async def quiet(log: EventLog, rank: int | None = None) -> bool:
    """Whether no lane, or none of `rank`, has anything left to deliver or to be answered."""
    states = [
        state
        for state in await Queue(log.connection, BRIEF).lanes()
        if rank in (None, state.lane.rank)
    ]
    return all((state.pending, state.unacknowledged) == (0, 0) for state in states)


async def re_ranked(log: EventLog, job: JobSpec) -> list[str]:
    await rerank(log, job, 1)
    return ["submitted", "requeued", "started", "finished"]


async def replaced(log: EventLog, job: JobSpec) -> list[str]:
    await submit(log, spec(rank=6, priority=6), OnDuplicate.REPLACE)
    return ["submitted", "submitted", "started", "finished"]


async def cancelled_and_resubmitted(log: EventLog, job: JobSpec) -> list[str]:
    await log.execute(job.slot, Cancel(by="test"), await log.load(job.slot))
    await submit(log, spec(rank=6, priority=6))
    return ["submitted", "cancel_requested", "submitted", "started", "finished"]


async def cancelled(log: EventLog, job: JobSpec) -> list[str]:
    await log.execute(job.slot, Cancel(by="test"), await log.load(job.slot))
    return ["submitted", "cancel_requested"]


@pytest.mark.parametrize(
    "what_happens", [re_ranked, replaced, cancelled_and_resubmitted, cancelled]
)
async def test_an_old_message_that_is_delivered_late_changes_nothing(
    log: EventLog, tmp_path: Path, ledger: Ledger, what_happens: object
) -> None:
    job = spec()
    await held(log, job)
    expected = await what_happens(log, job)  # type: ignore[operator]
    async with running_agent(log, tmp_path, runners=watched(ledger), queue=BRIEF, poll_s=0.2):
        await ended(log, job.slot)
        history = await log.history(job.slot)
        await eventually(lambda: quiet(log), what="the old message is answered")
    assert await log.history(job.slot) == history
    assert await story(log, job.slot) == expected
    await legal_history(log, job.slot)
    assert len(ledger.runs) == expected.count("started")


async def test_an_old_message_does_not_disturb_the_run_that_the_new_one_has_begun(
    log: EventLog, tmp_path: Path, ledger: Ledger
) -> None:
    """A late delivery of a running job looks like a lost lease, unless its ticket is looked at
    first.
    """
    job = spec()
    gate = asyncio.Event()
    await held(log, job)
    await rerank(log, job, 1)
    async with (
        running_agent(
            log, tmp_path, runners=watched(ledger, "one", gate=gate), queue=BRIEF, poll_s=0.2
        ),
        running_agent(
            log, tmp_path, runners=watched(ledger, "two", gate=gate), queue=BRIEF, poll_s=0.2
        ),
    ):
        await ledger.started(job.slot)
        await eventually(lambda: quiet(log, rank=5), what="the old message is answered")
        gate.set()
        final = await ended(log, job.slot)
    assert await story(log, job.slot) == ["submitted", "requeued", "started", "finished"]
    assert (final.verdict, final.infra_retries_left) == (Verdict.PASSED, job.infra_retries)
    assert len(ledger.runs) == 1


async def test_a_late_answer_to_an_old_message_changes_nothing(
    log: EventLog, tmp_path: Path, ledger: Ledger
) -> None:
    job = spec()
    old = await held(log, job)
    async with running_agent(
        log, tmp_path, runners=watched(ledger, takes_s=lambda _: 0.5), queue=BRIEF, poll_s=0.2
    ):
        run = await ledger.started(job.slot)
        await old.ack()
        final = await ended(log, job.slot)
        await old.nak()
        await eventually(lambda: quiet(log))
    assert run.number == final.attempt == 1
    assert await story(log, job.slot) == ["submitted", "started", "finished"]


async def test_an_advisory_about_an_old_ticket_finishes_nobody(
    log: EventLog, read_model: ReadModel
) -> None:
    job = spec()
    queue = Queue(log.connection, GIVES_UP_SOON)
    lane = Lane(job.partition, job.rank)
    await queue.ensure(lane)
    await log.submit(job)
    for _ in range(GIVES_UP_SOON.max_deliver):
        delivery = await queue.take(lane, 1.0)
        assert delivery is not None
        await delivery.nak()
    assert await queue.take(lane, 0.05) is None
    await rerank(log, job, 2)
    await eventually(lambda: advisories(log))
    await agree(log.connection, GIVES_UP_SOON.deployment)
    await Janitor(log, read_model, GIVES_UP_SOON).round()
    live = await log.load(job.slot)
    assert live is not None
    assert live.status is Status.QUEUED
    assert await story(log, job.slot) == ["submitted", "requeued"]


async def advisories(log: EventLog) -> int:
    info = await log.connection.api("STREAM.INFO.QG_ADVISORIES")
    return int(info["state"]["messages"])
