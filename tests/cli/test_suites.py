"""Suites on the command line: `suites`, `rerun`, `wait SUITE`, `cancel SUITE`, `--fail-fast`."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from agents import ended as end_of
from agents import eventually
from cli.commandline import ORG, TARGET, VERSION, Cli, Work
from factories import spec
from qgjet.domain.decide import OnDuplicate
from qgjet.domain.events import Slot, Status
from qgjet.store.event_log import EventLog
from qgjet.store.suite_log import Submission, abandon, openings, submit_suite

A, B, C = (f"tests/{name}.spec.js" for name in "abc")
HANG = ("hang",)
ATTACH = OnDuplicate.ATTACH


def slot(test: str) -> Slot:
    return Slot(ORG, VERSION, TARGET, test)


def named(*paths: str) -> list[str]:
    return [flag for path in paths for flag in ("--test", path)]


async def test_a_suite_fails_is_listed_and_only_what_failed_runs_again(
    over_api: Cli, work: Work
) -> None:
    async with work({A: ("failed",), B: ("passed",)}):
        first = await over_api(
            "run",
            *named(A, B),
            "--suite-id",
            "nightly",
            "--max-retries",
            "0",
            "--tag",
            "branch=main",
            "--json",
        )
        assert first.code == 1
        (listed,) = (await over_api("suites", "--json")).json
        assert (
            listed["suite_id"],
            listed["verdict"],
            listed["total"],
            listed["tags"]["branch"],
        ) == ("nightly", "failed", 2, "main")
        table = (await over_api("suites")).out
        assert "nightly" in table
        assert "main" in table
        rerun = (await over_api("rerun", "--failed", "nightly", "--json")).json[0]
        assert [job["test"] for job in rerun["jobs"]] == [A]
        waited = await over_api("wait", rerun["suite_id"], "--json")
        assert (waited.code, [job["test"] for job in waited.json["jobs"]]) == (1, [A])
        assert waited.json["suite_id"] == rerun["suite_id"]


async def test_a_green_suite_has_nothing_to_run_again(over_api: Cli, work: Work) -> None:
    async with work({}):
        assert (await over_api("run", *named(A), "--suite-id", "nightly")).code == 0
        again = await over_api("rerun", "--failed", "nightly")
        assert (again.code, "nothing to run again" in again.error) == (2, True)
        whole = (await over_api("rerun", "nightly", "--json")).json[0]
        assert [job["test"] for job in whole["jobs"]] == [A]
        assert (await over_api("wait", whole["suite_id"])).code == 0


async def test_a_client_that_is_killed_in_the_middle_leaves_nothing_green(
    over_api: Cli, work: Work, log: EventLog
) -> None:
    """Its one chunk has passed; the janitor closes the suite, and `wait` waits for that."""
    one = Submission(
        suite_id="torn",
        id="x",
        specs=[
            spec(org_id=ORG, app_version_id=VERSION, target=TARGET, test=A, suite_ids=("torn",))
        ],
        modes=[ATTACH],
    )
    async with work({A: ("passed",)}):
        await submit_suite(log, replace(one, to_come=1))
        await end_of(log, slot(A))
        waiting = asyncio.create_task(over_api("wait", "torn", "--junit", "report.xml", "--json"))
        await eventually(lambda: listed_with_one_to_come(over_api), what="the suite")
        assert not waiting.done()
        assert await abandon(log, ORG, "torn", "x", by="test")
        ended = await waiting
        (listed,) = (await over_api("suites", "--json")).json
    assert (ended.code, "never arrived" in ended.err) == (6, True)
    assert (listed["status"], listed["verdict"], listed["missing"]) == ("cancelled", "cancelled", 1)
    assert 'errors="1"' in (over_api.cwd / "report.xml").read_text()


async def listed_with_one_to_come(cli: Cli) -> bool:
    return [suite["to_come"] for suite in (await cli("suites", "--json")).json] == [1]


@pytest.mark.parametrize("flags", [(), ("--partial",)])
async def test_more_jobs_than_one_request_holds_are_one_submission(
    either: Cli, log: EventLog, flags: tuple[str, ...]
) -> None:
    assert (
        await either(
            "submit",
            *named(*(f"t{number}" for number in range(1500))),
            "--suite-id",
            "large",
            "--no-ci-tags",
            *flags,
        )
    ).code == 0
    events = [event async for _, event in openings(log, ORG, "large")]
    assert len({event.submission for event in events}) == 1
    assert (events[0].to_come > 0, events[-1].to_come) == (True, 0)


async def test_a_job_runs_again_by_its_own_id(over_api: Cli, work: Work) -> None:
    async with work({}):
        job_id = (await over_api("run", *named(A), "--json")).json["jobs"][0]["job_id"]
        rerun = await over_api("rerun", job_id, "--json")
        (job,) = rerun.json[0]["jobs"]
        assert (await over_api("wait", job["job_id"])).code == 0
        assert (await over_api("status", job["job_id"], "--json")).json["rerun_of"] == job_id


async def test_what_nobody_knows_is_said(over_api: Cli) -> None:
    for command in ("rerun", "wait", "cancel"):
        ended = await over_api(command, "nobody")
        assert (ended.code, "nobody" in ended.error) == (2, True), command


async def test_a_suite_is_cancelled_by_its_id(over_api: Cli, work: Work, log: EventLog) -> None:
    async with work({A: HANG, B: HANG, C: HANG}):
        await over_api("submit", *named(A, B, C), "--suite-id", "long")
        ended = await over_api("cancel", "long")
        assert ended.code == 0
        assert "Suite long" in ended.out
        for path in (A, B, C):
            assert (await end_of(log, slot(path))).status is Status.CANCELLED
        assert (await over_api("wait", "long")).code == 6


async def test_the_rest_is_cancelled_after_the_first_failure(
    either: Cli, work: Work, log: EventLog
) -> None:
    async with work({A: ("failed",), B: HANG, C: HANG}):
        ended = await either("run", *named(A, B, C), "--max-retries", "0", "--fail-fast", "--json")
    assert ended.code == 1
    assert {job["test"]: job["verdict"] for job in ended.json["jobs"]} == {
        A: "failed",
        B: "cancelled",
        C: "cancelled",
    }
    assert "1 failed: cancelling the rest" in ended.err


async def test_as_many_failures_as_allowed_are_waited_for(either: Cli, work: Work) -> None:
    async with work({A: ("failed",), B: ("failed",), C: HANG}):
        ended = await either(
            "run", *named(A, B, C), "--max-retries", "0", "--max-failures", "2", "--json"
        )
    assert {job["test"]: job["verdict"] for job in ended.json["jobs"]} == {
        A: "failed",
        B: "failed",
        C: "cancelled",
    }
