"""Events that this code would never append, at the end of a slot: who reads the slot's last event
alone must not believe them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from agents import FAST, ended, eventually, running_agent, submit
from factories import NOW, spec
from faults.watched import Ledger, watched
from patience import patience
from qgjet.domain import codec, subjects
from qgjet.domain.decide import Submit, decide
from qgjet.domain.events import (
    Cancelled,
    CancelRequested,
    Event,
    Finished,
    JobSpec,
    Outcome,
    Started,
    Status,
    Verdict,
    event_type,
)
from qgjet.domain.job import contradiction
from qgjet.store.event_log import EventLog
from qgjet_projections.maintenance.janitor import Janitor
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.readmodel.projector import Projector


@pytest.fixture
async def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def read_model(tmp_path: Path) -> Iterator[ReadModel]:
    opened = ReadModel.open(tmp_path / "read.sqlite")
    yield opened
    opened.close()


async def append(log: EventLog, job: JobSpec, event: Event) -> None:
    """Without a word about the version: a client of somebody else's."""
    assert contradiction(event) is not None
    await log.connection.request(
        subjects.event_subject(subjects.slot_prefix(job.slot), event_type(event)),
        codec.encode(event),
    )


def forgeries(job: JobSpec, ticket: int) -> dict[str, Event]:
    state = {
        "job_id": job.job_id,
        "at": NOW,
        "ticket": ticket,
        "retries_left": 3,
        "infra_retries_left": 3,
    }
    passed = Outcome(verdict=Verdict.PASSED)
    return {
        "passed without an attempt": Finished(
            **state, status=Status.DONE, verdict=Verdict.PASSED, outcome=passed
        ),
        "finished and queued": Finished(
            **state, status=Status.QUEUED, verdict=Verdict.PASSED, outcome=passed
        ),
        "failed and done": Finished(
            **state, attempt=1, status=Status.DONE, verdict=Verdict.FAILED, outcome=passed
        ),
        "cancelled, and nobody asked": Cancelled(**state, status=Status.CANCELLED),
        "started and done": Started(**state, attempt=1, status=Status.DONE),
        "run by nobody": Started(**state, attempt=1, status=Status.RUNNING),
        "no ticket": Started(
            **state | {"ticket": 0}, attempt=1, status=Status.RUNNING, agent="ghost"
        ),
        "budgets without end": CancelRequested(
            **state | {"retries_left": -1}, status=Status.CANCELLED, cancel_requested=True
        ),
        "submitted with a past": replace(decide(Submit(job), None, NOW), attempt=7),
    }


async def test_jobs_behind_forged_events_run_once_and_are_seen_to_end(
    log: EventLog, tmp_path: Path, ledger: Ledger, read_model: ReadModel
) -> None:
    jobs = {name: spec(test=f"tests/{name}.spec.js") for name in forgeries(spec(), 1)}
    for name, job in jobs.items():
        await append(log, job, forgeries(job, (await submit(log, job)).seq)[name])
        live = await log.load(job.slot)
        assert live is not None
        assert (live.job_id, live.status) == (job.job_id, Status.QUEUED), name
    async with (
        running_agent(log, tmp_path / "work", runners=watched(ledger), slots=4),
        Projector(log, read_model) as projector,
    ):
        for name, job in jobs.items():
            final = await ended(log, job.slot)
            assert (final.verdict, final.attempt, len(ledger.of(job.slot))) == (
                Verdict.PASSED,
                1,
                1,
            ), name
        assert await projector.wait_for((await log.state()).last_seq, patience(10)), (
            projector.failure
        )
    for name, job in jobs.items():
        view = read_model.job(job.job_id)
        assert view is not None
        assert (view.status, view.attempt) == (Status.DONE, 1), name


async def test_a_forged_end_of_a_running_job_takes_nothing_from_its_run(
    log: EventLog, tmp_path: Path, ledger: Ledger
) -> None:
    job, gate = spec(infra_retries=0), asyncio.Event()
    accepted = await submit(log, job)
    async with running_agent(log, tmp_path, runners=watched(ledger, gate=gate)):
        run = await ledger.started(job.slot)
        for event in forgeries(job, accepted.seq).values():
            await append(log, job, event)
        for _ in range(2):
            await run.heartbeat()
        gate.set()
        final = await ended(log, job.slot)
    assert (final.verdict, final.attempt, len(ledger.runs)) == (Verdict.PASSED, 1, 1)


async def test_a_submission_for_another_slot_is_not_run_and_ends_without_a_verdict(
    log: EventLog, tmp_path: Path, ledger: Ledger, read_model: ReadModel
) -> None:
    """Its subject says one slot and its body another. Nobody may run it on either, and nobody may
    think that it is queued for ever.
    """
    honest, here, elsewhere = (
        spec(),
        spec(test="tests/here.spec.js"),
        spec(test="tests/elsewhere.spec.js"),
    )
    await submit(log, honest)
    await log.connection.request(
        f"{subjects.slot_prefix(here.slot)}.submitted.p5",
        codec.encode(decide(Submit(elsewhere), None, NOW)),
    )
    async with (
        Projector(log, read_model),
        running_agent(log, tmp_path / "work", runners=watched(ledger)),
    ):
        await ended(log, honest.slot)
        janitor = Janitor(log, read_model, FAST)

        async def over() -> bool:
            await janitor.round()
            found = await log.load(here.slot)
            return found is not None and not found.live

        await eventually(over)
    assert [run.slot for run in ledger.runs] == [honest.slot]
    found = await log.load(here.slot)
    assert found is not None
    assert found.verdict is Verdict.INFRA_ERROR
