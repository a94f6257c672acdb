from __future__ import annotations

import asyncio

import pytest

from factories import spec
from patience import patience
from qgjet.domain.decide import Cancel, EndAttempt, OnDuplicate, Start
from qgjet.domain.events import Outcome, Submitted, Verdict
from qgjet.store.event_log import EventLog


async def test_submit_start_finish_is_a_story_of_three_events(log: EventLog) -> None:
    wanted = spec()
    accepted = await log.submit(wanted)
    job = await log.load(wanted.slot)
    assert job is not None
    _started, seq = await log.execute(wanted.slot, Start(accepted.seq, "agent-1"), job)
    assert seq > accepted.seq
    job = await log.load(wanted.slot)
    await log.execute(wanted.slot, EndAttempt("agent-1", 1, Outcome(verdict=Verdict.PASSED)), job)
    history = await log.history(wanted.slot)
    assert [type(one.event).__name__ for one in history] == ["Submitted", "Started", "Finished"]


@pytest.mark.parametrize("again", OnDuplicate)
async def test_a_submission_that_is_repeated_is_found_behind_those_that_took_its_place(
    log: EventLog, again: OnDuplicate
) -> None:
    """Its client has heard no answer, and comes back after others have used the slot: one id is one
    job.
    """
    wanted, other = spec(), spec()
    first = await log.submit(wanted)
    await log.submit(other, OnDuplicate.REPLACE)
    assert await log.submit(wanted, again) == first, "while the other is live"
    await log.execute(other.slot, Cancel("test"), await log.load(other.slot))
    assert await log.submit(wanted, again) == first, "and after its end"
    history = await log.history(wanted.slot)
    assert [one.event.job_id for one in history if isinstance(one.event, Submitted)] == [
        wanted.job_id,
        other.job_id,
    ]
    assert (await log.submit(spec(), again)).seq == history[-1].seq + 1, (
        "the slot is free for a new job"
    )


async def test_tail_gives_old_and_new_events_once_and_in_order(log: EventLog) -> None:
    specs = [spec(test=f"tests/{i}.spec.js") for i in range(300)]
    await log.submit_many(specs[:200])
    seen: list[int] = []
    async with log.tail(1) as batches, asyncio.timeout(patience(10)):
        async for batch in batches:
            seen += [one.seq for one in batch]
            if len(seen) == 200:
                await log.submit_many(specs[200:])
            if len(seen) == 300:
                break
    assert seen == sorted(set(seen))
