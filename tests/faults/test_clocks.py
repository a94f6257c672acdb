"""Agents whose wall clocks are wrong: by an hour, which no backoff and no lease lasts."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from agents import FAST, eventually, running_agent, scripted, story, submit
from factories import spec
from faults.watched import ended
from qgjet.domain.decide import Start
from qgjet.domain.events import Slot, Verdict
from qgjet.domain.subjects import Lane
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue
from qgjet.support.clock import Clock, utc_now


def ahead(hours: int = 1) -> Clock:
    def now() -> datetime:
        return utc_now() + timedelta(hours=hours)

    return now


async def test_a_job_whose_agent_is_lost_is_given_on_whatever_its_clock_said(
    log: EventLog, tmp_path: Path
) -> None:
    job = spec()
    await submit(log, job)
    delivery = await Queue(log.connection, FAST).take(Lane(job.partition, job.rank), 1.0)
    assert delivery is not None
    await EventLog(log.connection, ahead()).execute(
        job.slot, Start(delivery.seq, "lost"), await log.load(job.slot)
    )
    async with running_agent(log, tmp_path):
        final = await ended(log, job.slot)
    assert (final.verdict, final.attempt) == (Verdict.PASSED, 2)
    assert await story(log, job.slot) == [
        "submitted",
        "started",
        "attempt_lost",
        "started",
        "finished",
    ]


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_retry_is_not_put_off_by_as_much_as_a_clock_is_wrong(
    log: EventLog, tmp_path: Path, hours: int
) -> None:
    job = spec()
    await submit(log, job)
    async with running_agent(
        EventLog(log.connection, ahead(hours)), tmp_path, runners=scripted({"*": ("failed",)})
    ):
        await eventually(lambda: has_tried(log, job.slot))
    async with running_agent(log, tmp_path):
        final = await ended(log, job.slot)
    assert final.verdict is Verdict.FLAKY


async def has_tried(log: EventLog, slot: Slot) -> bool:
    return "attempt_ended" in await story(log, slot)
