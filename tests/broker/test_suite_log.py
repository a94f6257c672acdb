"""Suites on a real log: all jobs or none, once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from agents import ended, eventually, running_agent
from factories import spec
from qgjet.domain.decide import OnDuplicate
from qgjet.domain.events import JobSpec, Status, Verdict
from qgjet.domain.suite import SuiteOpened
from qgjet.errors import NatsUnavailable
from qgjet.jetstream.connection import connect
from qgjet.jetstream.server import NatsServer
from qgjet.store.event_log import Accepted, EventLog
from qgjet.store.suite_log import (
    IdempotencyKeyReused,
    Submission,
    SubmissionRejected,
    claim_key,
    openings,
    submit_suite,
)

ATTACH, REJECT, REPLACE = OnDuplicate.ATTACH, OnDuplicate.REJECT, OnDuplicate.REPLACE


def jobs(count: int, **fields: Any) -> list[JobSpec]:
    return [
        spec(test=f"tests/{number:04d}.spec.js", suite_ids=("ci-7",), **fields)
        for number in range(count)
    ]


def submission(specs: Sequence[JobSpec], mode: OnDuplicate = ATTACH, **fields: Any) -> Submission:
    return Submission(
        **{
            "suite_id": "ci-7",
            "id": str(uuid.uuid4()),
            "specs": specs,
            "modes": [mode] * len(specs),
            "by": "test",
            **fields,
        }
    )


async def opened(log: EventLog, org_id: str = "acme") -> list[SuiteOpened]:
    return [event async for _, event in openings(log, org_id, "ci-7")]


async def test_all_jobs_and_the_suites_own_event_are_one_stretch_of_the_log(log: EventLog) -> None:
    specs = jobs(5)
    answers = await submit_suite(log, submission(specs, tags={"commit": "abc"}))
    assert answers == [
        Accepted(job_id=one.job_id, seq=number) for number, one in enumerate(specs, 1)
    ]
    assert (await log.state()).last_seq == 6
    (event,) = await opened(log)
    assert [member.job_id for member in event.jobs] == [one.job_id for one in specs]
    assert (event.suite_id, event.org_id, event.by, event.tags, event.to_come) == (
        "ci-7",
        "acme",
        "test",
        {"commit": "abc"},
        0,
    )
    for one in specs:
        job = await log.load(one.slot)
        assert job is not None
        assert (job.job_id, job.status) == (one.job_id, Status.QUEUED)


async def test_live_jobs_are_attached_and_named_in_the_suite(log: EventLog) -> None:
    live, *rest = jobs(3)
    before = await log.submit(live)
    specs = [spec(test=live.test), *rest]
    answers = await submit_suite(log, submission(specs))
    assert answers[0] == Accepted(job_id=live.job_id, seq=before.seq, attached=True)
    assert [answer.attached for answer in answers] == [True, False, False]
    (event,) = await opened(log)
    assert [(member.job_id, member.attached) for member in event.jobs] == [
        (live.job_id, True),
        (rest[0].job_id, False),
        (rest[1].job_id, False),
    ]


async def test_one_refused_job_refuses_all(log: EventLog) -> None:
    live, *rest = jobs(3)
    await log.submit(live)
    with pytest.raises(SubmissionRejected, match=r"1 of 3 jobs") as refused:
        await submit_suite(log, submission([rest[0], spec(test=live.test), rest[1]], REJECT))
    assert {position: error.job_id for position, error in refused.value.errors.items()} == {
        1: live.job_id
    }
    assert (await log.state()).last_seq == 1


async def test_live_jobs_are_replaced_when_asked(log: EventLog) -> None:
    live, other = jobs(2)
    await log.submit(live)
    successor = spec(test=live.test)
    answers = await submit_suite(log, submission([successor, other], REPLACE))
    assert [answer.replaced for answer in answers] == [live.job_id, ""]
    job = await log.load(live.slot)
    assert job is not None
    assert job.job_id == successor.job_id


async def test_a_test_that_is_named_twice_runs_once(log: EventLog) -> None:
    first, second = spec(), spec()
    answers = await submit_suite(log, submission([first, second]))
    assert [(answer.job_id, answer.attached) for answer in answers] == [
        (first.job_id, False),
        (first.job_id, True),
    ]
    assert len(await log.history(first.slot)) == 1


async def test_a_repeated_submission_finds_what_the_first_one_wrote(log: EventLog) -> None:
    live, *rest = jobs(3)
    await log.submit(live)
    repeated = submission([spec(test=live.test), *rest], id="once", request_hash="h")
    first = await submit_suite(log, repeated)
    await log.cancel(live.slot, live.job_id, by="test")  # the slot it was attached to is free now
    written = (await log.state()).last_seq
    again = await submit_suite(log, repeated)
    assert [(one.job_id, one.attached) for one in again] == [
        (one.job_id, one.attached) for one in first
    ]
    assert (await log.state()).last_seq == written
    with pytest.raises(IdempotencyKeyReused):
        await submit_suite(log, submission(rest, id="once", request_hash="other"))


async def test_a_suite_grows_with_each_submission(log: EventLog) -> None:
    first, second = jobs(2)
    await submit_suite(log, submission([first]))
    await submit_suite(log, submission([second]))
    assert [[member.job_id for member in event.jobs] for event in await opened(log)] == [
        [first.job_id],
        [second.job_id],
    ]


async def test_racing_suites_share_their_jobs_and_never_tear(log: EventLog) -> None:
    """Of twenty that want overlapping jobs every slot gets one job; a refused batch leaves nothing."""
    tests = [f"tests/{number}.spec.js" for number in range(12)]
    wanted = [
        [spec(test=test, suite_ids=(f"s{number}",)) for test in tests[number % 6 : number % 6 + 6]]
        for number in range(20)
    ]
    answers = await asyncio.gather(
        *(
            submit_suite(log, submission(specs, suite_id=f"s{number}"))
            for number, specs in enumerate(wanted)
        )
    )
    by_slot: dict[str, set[str]] = {}
    for specs, given in zip(wanted, answers, strict=True):
        for one, answer in zip(specs, given, strict=True):
            by_slot.setdefault(one.test, set()).add(answer.job_id)
    assert {test: len(ids) for test, ids in by_slot.items()} == dict.fromkeys(by_slot, 1)
    assert (await log.state()).last_seq == 20 * 6 + 20, (
        "each job and each that joins one is an event, and each suite"
    )


async def test_more_jobs_than_a_batch_holds_go_in_several(log: EventLog) -> None:
    specs = jobs(1500)
    answers = await submit_suite(log, submission(specs))
    assert len({answer.seq for answer in answers}) == 1500
    events = await opened(log)
    assert [(len(event.jobs), event.to_come) for event in events] == [(999, 501), (501, 0)]


async def test_a_refusal_after_the_first_batch_takes_the_first_one_back(log: EventLog) -> None:
    specs = jobs(1100)
    await log.submit(spec(test=specs[-1].test))
    with pytest.raises(SubmissionRejected):
        await submit_suite(log, submission(specs, REJECT))
    first = await log.load(specs[0].slot)
    assert first is not None
    assert (first.status, first.job_id) == (Status.CANCELLED, specs[0].job_id)
    assert await log.load(specs[1050].slot) is None


async def test_jobs_of_two_orgs_are_one_batch(log: EventLog) -> None:
    specs = [spec(org_id="acme"), spec(org_id="evil"), spec(org_id="acme", test="b.js")]
    answers = await submit_suite(log, submission(specs))
    assert [answer.seq for answer in answers] == [1, 3, 2], "org by org"
    assert [[member.job_id for member in event.jobs] for event in await opened(log)] == [
        [specs[0].job_id, specs[2].job_id]
    ]
    assert [[member.job_id for member in event.jobs] for event in await opened(log, "evil")] == [
        [specs[1].job_id]
    ]


async def test_a_suite_of_one_org_is_complete_before_the_other_one_follows(log: EventLog) -> None:
    mine, other = jobs(999), spec(org_id="other", test="z.js", suite_ids=("ci-7",))
    await submit_suite(log, submission([*mine, other]))
    assert [event.to_come for event in await opened(log)][-1] == 0
    assert [event.to_come for event in await opened(log, "other")] == [0]


async def test_a_submission_of_several_calls_is_complete_after_the_last_one(log: EventLog) -> None:
    first, second = jobs(2)
    await submit_suite(log, submission([first], id="one", to_come=1))
    await submit_suite(log, submission([second], id="one"))
    assert [(event.submission, event.to_come) for event in await opened(log)] == [
        ("one", 1),
        ("one", 0),
    ]


async def test_a_key_belongs_to_one_request_however_many_race_for_it(log: EventLog) -> None:
    claims = [claim_key(log, "acme", "k", f"hash-{number % 4}", by="test") for number in range(20)]
    results = await asyncio.gather(*claims, return_exceptions=True)
    assert [type(one) for one in results if one is not None] == [IdempotencyKeyReused] * 15
    assert (await log.state()).last_seq == 1


async def test_long_names_are_split_before_they_break_a_message(log: EventLog) -> None:
    specs = [
        spec(test=f"{number:04d}/" + "é" * 80 + ".js", app_version_id="v" * 60)
        for number in range(900)
    ]
    tags = {f"key-{number}": "\u2603" * 256 for number in range(32)}
    answers = await submit_suite(log, submission(specs, tags=tags))
    assert len({answer.seq for answer in answers}) == 900


async def test_a_server_that_goes_away_in_the_middle_loses_and_doubles_nothing(
    server: NatsServer, log: EventLog
) -> None:
    specs = jobs(400)
    async with connect(server.url, name="submitter") as connection:
        submitting = asyncio.create_task(submit_suite(EventLog(connection), submission(specs)))
        await eventually(lambda: _last_seq(log))
        server.kill()
        await server.start()
        answers = await submitting
    await log.connection.wait_connected(10)
    assert [answer.job_id for answer in answers] == [one.job_id for one in specs]
    for one in specs:
        assert len(await log.history(one.slot)) == 1


async def _last_seq(log: EventLog) -> int:
    return (await log.state()).last_seq


async def test_a_server_that_stays_away_is_an_error(server: NatsServer, log: EventLog) -> None:
    server.kill()
    with pytest.raises(NatsUnavailable):
        await submit_suite(log, submission(jobs(3)), timeout_s=0.5)
    await server.start()


async def test_agents_run_a_suite(log: EventLog, tmp_path: Any) -> None:
    specs = jobs(20)
    async with running_agent(log, tmp_path, slots=4):
        await submit_suite(log, submission(specs))
        for one in specs:
            assert (await ended(log, one.slot)).verdict is Verdict.PASSED
