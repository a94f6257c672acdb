"""An agent whose host cannot run anything, beside one that can: it leaves the jobs to others,
longer each time, and costs none of them anything.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from agents import ended, eventually, running_agent, scripted, story, submit
from factories import spec
from qgjet.agent import host as hosts
from qgjet.agent.host import Host
from qgjet.domain.events import Outcome, Partition, Verdict
from qgjet.runners.base import Attempt
from qgjet.runners.scripted import ScriptedRunner
from qgjet.store import agent_registry
from qgjet.store.event_log import EventLog
from qgjet.support.clock import utc_now
from qgjet.verdict.reasons import Reason


def break_directory(path: Path) -> None:
    """As good as any broken host: nothing can be written where jobs run, not even by root."""
    path.mkdir(parents=True, exist_ok=True)
    path.rename(path.with_name("aside"))
    path.touch()


def repair_directory(path: Path) -> None:
    path.unlink()
    path.with_name("aside").rename(path)


async def test_the_healthy_agent_runs_all_jobs_and_the_broken_one_is_shown(
    log: EventLog, tmp_path: Path
) -> None:
    broken, jobs = (
        tmp_path / "broken",
        [spec(test=f"{number}.js", infra_retries=0, max_retries=0) for number in range(30)],
    )
    break_directory(broken)
    async with running_agent(log, broken, name="broken", poll_s=0.2) as agent:
        await submit(log, jobs[0])

        async def shown() -> bool:
            return any(
                one.problem and one.problem_since
                for one in await agent_registry.agents(log.connection)
                if one.instance == agent.instance
            )

        await eventually(shown, within_s=30, what="the problem in the list of agents")
        async with running_agent(log, tmp_path / "healthy", name="healthy"):
            for job in jobs[1:]:
                await submit(log, job)
            states = [await ended(log, job.slot, within_s=30) for job in jobs]
    assert {(state.verdict, state.attempt) for state in states} == {(Verdict.PASSED, 1)}
    assert {event for job in jobs for event in await story(log, job.slot)} <= {
        "submitted",
        "started",
        "finished",
        "released",
    }


async def test_a_host_that_is_repaired_runs_jobs_again(log: EventLog, tmp_path: Path) -> None:
    work, job = tmp_path / "work", spec(infra_retries=0)
    break_directory(work)
    async with running_agent(log, work, poll_s=0.2) as agent:
        await submit(log, job)

        async def in_trouble() -> bool:
            return bool(agent.info().problem)

        await eventually(in_trouble, within_s=30)
        repair_directory(work)
        assert (await ended(log, job.slot, within_s=60)).verdict is Verdict.PASSED

        async def well() -> bool:
            return not agent.info().problem

        await eventually(well, within_s=30)


async def test_a_work_directory_that_is_gone_is_made_again(log: EventLog, tmp_path: Path) -> None:
    work = tmp_path / "work"
    async with running_agent(log, work, poll_s=0.2):
        for number in range(3):
            job = spec(
                test=f"{number}.js", app_version_id=f"{number}", infra_retries=0, max_retries=0
            )
            await submit(log, job)
            assert (await ended(log, job.slot, within_s=30)).verdict is Verdict.PASSED
            work.rename(tmp_path / f"gone-{number}")


async def test_a_session_whose_directory_is_gone_is_prepared_again(
    log: EventLog, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    async with running_agent(log, work, poll_s=0.2):
        for number in range(3):
            job = spec(test=f"{number}.js", infra_retries=0, max_retries=0)
            await submit(log, job)
            assert (await ended(log, job.slot, within_s=30)).verdict is Verdict.PASSED
            for session in work.glob("session-*"):
                session.rmdir()
            assert number == 0 or (await story(log, job.slot)) == [
                "submitted",
                "started",
                "finished",
            ]


class Unable(ScriptedRunner):
    """Its host has no processes left when a job is to be run."""

    def __init__(self, fails: int) -> None:
        super().__init__({})
        self.left = fails

    async def prepare(self, partition: Partition, directory: Path) -> Unable:  # type: ignore[override]
        self.device, self.redactor = (
            "device",
            (await super().prepare(partition, directory)).redactor,
        )
        return self

    async def healthy(self) -> bool:
        return True

    async def run(self, attempt: Attempt) -> Outcome:
        self.left -= 1
        if self.left >= 0:
            return Outcome(
                verdict=Verdict.INFRA_ERROR,
                reason=Reason.AGENT_IO,
                message="Resource temporarily unavailable",
            )
        return Outcome(verdict=Verdict.PASSED)

    async def release(self) -> None:
        return


async def test_a_process_that_cannot_be_started_spends_no_retry(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "FIRST_DELAY_S", 0.05)
    job = spec(infra_retries=0, max_retries=0)
    async with running_agent(
        log, tmp_path, runners={**scripted(), "emulator": Unable(4)}, poll_s=0.2
    ):
        await submit(log, job)
        final = await ended(log, job.slot, within_s=60)
    assert (final.verdict, final.attempt, final.infra_retries_left) == (Verdict.PASSED, 5, 0)
    assert (await story(log, job.slot)).count("released") == 4


def test_the_delay_grows_up_to_a_bound_and_begins_again_after_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    host = Host(tmp_path, utc_now)
    delays = []
    for _ in range(12):
        delays.append(host.failed("no processes left"))
        assert host.backs_off_s() == delays[-1]
        now += delays[-1]
        assert host.backs_off_s() == 0.0
    assert delays[:4] == [1.0, 2.0, 4.0, 8.0]
    assert delays[-1] == hosts.MAX_DELAY_S
    assert all(before <= after for before, after in itertools.pairwise(delays))
    host.ran()
    assert (host.problem, host.problem_since) == ("", None)
    assert host.failed("again") == hosts.FIRST_DELAY_S
