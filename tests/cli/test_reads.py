"""`status`, `list`, `wait` and `cancel`, through the API."""

from __future__ import annotations

import asyncio
import signal

from agents import ended as end_of
from cli.commandline import ORG, TARGET, VERSION, Cli, Work
from qgjet.domain.events import Slot
from qgjet.store.event_log import EventLog

A, B, C = (f"tests/{name}.spec.js" for name in "abc")


async def submitted(
    cli: Cli, *tests: str, suite: str = "ci-1", flags: tuple[str, ...] = ()
) -> list[str]:
    """Ids of the tests' jobs, in a suite."""
    asked = [flag for test in tests for flag in ("--test", test)]
    answer = (await cli("submit", *asked, "--suite-id", suite, *flags, "--json")).json
    return [job["job_id"] for job in (answer if isinstance(answer, list) else [answer])]


async def all_ended(log: EventLog, *tests: str) -> None:
    for test in tests:
        await end_of(log, Slot(ORG, VERSION, TARGET, test))


async def test_status_shows_the_job_and_its_attempts(
    over_api: Cli, work: Work, log: EventLog
) -> None:
    async with work({A: ("failed", "passed")}):
        (job_id,) = await submitted(over_api, A, flags=("--tag", "branch=main"))
        await all_ended(log, A)
    ended = await over_api("status", job_id)
    assert ended.code == 0
    for text in (
        job_id,
        "done",
        "flaky: attempt 1 failed (scripted)",
        A,
        "branch=main",
        "0 runs first",
        "ci-1",
    ):
        assert text in ended.out
    attempts = ended.out.splitlines()[-2:]
    assert [line.split()[:2] for line in attempts] == [["1", "failed"], ["2", "passed"]]
    found = (await over_api("status", "--job-id", job_id, "--json")).json
    assert (
        found["legacy_status"],
        found["verdict"],
        [attempt["verdict"] for attempt in found["attempts"]],
    ) == ("completed", "flaky", ["failed", "passed"])


async def test_status_ends_with_the_exit_code_of_the_verdict_when_it_is_asked_to(
    over_api: Cli, work: Work, log: EventLog
) -> None:
    (waiting,) = await submitted(over_api, C, flags=("--target", "toaster"))
    async with work({A: ("failed",), B: ("infra_error",)}):
        jobs = await submitted(over_api, A, B, flags=("--max-retries", "0", "--infra-retries", "0"))
        await all_ended(log, A, B)
    for job_id, code in ((waiting, 0), (jobs[0], 1), (jobs[1], 3)):
        assert (await over_api("status", job_id)).code == 0
        ended = await over_api("status", job_id, "--exit-status", "--json")
        assert (ended.code, ended.json["job_id"]) == (code, job_id)


async def test_an_unknown_job_is_said_in_one_line(over_api: Cli) -> None:
    for args in (("status", "nope"), ("wait", "--suite", "nope"), ("status", "../suites")):
        ended = await over_api(*args)
        assert ended.code == 2
        assert ended.error


async def test_list_filters_and_is_json_on_demand(over_api: Cli, work: Work, log: EventLog) -> None:
    await submitted(
        over_api,
        C,
        suite="ci-2",
        flags=("--target", "toaster", "--tag", "branch=dev", "--priority", "1"),
    )
    async with work({A: ("failed",)}):
        await submitted(over_api, A, B, flags=("--max-retries", "0"))
        await all_ended(log, A, B)
    for filters, tests in (
        (("--status", "queued", "--suite-id", "ci-2", "--tag", "branch=dev"), [C]),
        (("--verdict", "failed", "--target", TARGET, "--test", A), [A]),
        (("--org-id", "other"), []),
        (("--app-version-id", VERSION, "--limit", "2"), [B, A]),
    ):
        ended = await over_api("list", *filters, "--json")
        assert [job["test"] for job in ended.json] == tests, filters
    shown = await over_api("list")
    assert "queued (no_agent)" in shown.out
    assert "Priority: 0 runs first." in shown.err
    assert shown.out.splitlines()[0].split() == [
        "JOB",
        "STATUS",
        "AGE",
        "PRIO",
        "TRIES",
        "TARGET",
        "VERSION",
        "TEST",
    ]


async def test_wait_follows_to_the_end(over_api: Cli, work: Work) -> None:
    first, second = await submitted(over_api, A, B, flags=("--max-retries", "0"))
    async with (
        over_api.start("wait", first, second, "--json") as by_id,
        over_api.start("wait", "--suite", "ci-1") as by_suite,
    ):
        await by_id.says("Waiting for 2 jobs: 2 queued")
        await by_suite.says("Waiting for 2 jobs: 2 queued")
        async with work({B: ("failed",)}):
            of_ids, of_suite = await by_id.ends(), await by_suite.ends()
    assert "→ running" in of_ids.err
    assert "→ running" in of_suite.err
    assert (of_ids.code, of_suite.code) == (1, 1)
    assert [(job["job_id"], job["verdict"]) for job in of_ids.json["jobs"]] == [
        (first, "passed"),
        (second, "failed"),
    ]
    assert "failed" in of_suite.out


async def test_wait_takes_in_jobs_that_join_the_suite(over_api: Cli, work: Work) -> None:
    gate = asyncio.Event()
    await submitted(over_api, A)
    async with (
        over_api.start("wait", "--suite", "ci-1", "--json") as waiting,
        work({B: ("config_error",)}, gate=gate),
    ):
        await waiting.says("running")
        await submitted(over_api, B)
        await waiting.says("→ running", B)
        gate.set()
        ended = await waiting.ends()
    assert ended.code == 3
    assert [job["verdict"] for job in ended.json["jobs"]] == ["passed", "config_error"]


async def test_wait_for_what_has_ended_answers_at_once_with_the_first_failure(
    over_api: Cli, work: Work, log: EventLog
) -> None:
    async with work({A: ("infra_error", "passed")}):
        await submitted(over_api, A)
        await all_ended(log, A)
    ended = await over_api("wait", "--suite", "ci-1", "--json")
    assert ended.code == 0
    async with work({B: ("infra_error", "failed", "passed")}):
        (job_id,) = await submitted(over_api, B)
        await all_ended(log, B)
    ended = await over_api("wait", job_id, "--fail-on-flaky", "--json")
    (job,) = ended.json["jobs"]
    assert ended.code == 1
    assert (job["verdict"], job["first_failure"]["verdict"], job["attempts"]) == (
        "flaky",
        "infra_error",
        3,
    )


async def test_wait_has_a_timeout_and_an_interrupt_leaves_the_jobs_alone(
    over_api: Cli, work: Work, log: EventLog
) -> None:
    (job_id,) = await submitted(over_api, A)
    assert (await over_api("wait", job_id, "--timeout", "200ms")).code == 124
    async with over_api.start("wait", job_id) as waiting, work({A: ("hang",)}):
        await waiting.says("running")  # found so, or become so
        waiting.signal(signal.SIGINT)
        assert (await waiting.ends()).code == 130
        job = await log.load(Slot(ORG, VERSION, TARGET, A))
        assert job is not None
        assert (job.live, job.cancel_requested) == (True, False)


async def test_cancel_ends_queued_jobs_and_asks_for_the_end_of_running_ones(
    over_api: Cli, work: Work, log: EventLog
) -> None:
    waits, other = await submitted(over_api, A, B, flags=("--target", "toaster"))
    ended = await over_api("cancel", waits, "nope", other, "--reason", "no need")
    assert ended.code == 2
    assert ended.out.splitlines() == [
        f"Job {waits} → cancelled",
        "Job nope → not cancelled",
        f"Job {other} → cancelled",
    ]
    assert "nope" in ended.error
    again = await over_api("cancel", waits, "--json")
    assert (again.code, again.json[0]["status"]) == (0, "cancelled")
    async with work({C: ("hang",)}):
        (runs,) = await submitted(over_api, C)
        async with over_api.start("wait", runs) as waiting:
            await _running(log, C)
            assert "asked to stop" in (await over_api("cancel", runs)).out
            assert (await waiting.ends()).code == 6


async def _running(log: EventLog, test: str) -> None:
    while True:
        job = await log.load(Slot(ORG, VERSION, TARGET, test))
        if job is not None and job.agent:
            return
        await asyncio.sleep(0.01)


async def test_a_job_that_has_ended_in_another_way_cannot_be_cancelled(
    over_api: Cli, work: Work, log: EventLog
) -> None:
    async with work():
        (job_id,) = await submitted(over_api, A)
        await all_ended(log, A)
    ended = await over_api("cancel", job_id)
    assert ended.code == 2
    assert "passed" in ended.error


async def test_a_suite_is_cancelled_as_a_whole(over_api: Cli) -> None:
    await submitted(over_api, A, B)
    ended = await over_api("cancel", "--suite", "ci-1")
    assert (ended.code, ended.out) == (0, "Suite ci-1: 2 cancelled, 0 asked to stop\n")
    assert (await over_api("wait", "--suite", "ci-1")).code == 6
