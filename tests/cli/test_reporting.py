"""The files that `qgjet run` and `qgjet wait` leave behind, however they end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import junitparser
import msgspec
import pytest

from cli.commandline import ORG, TARGET, VERSION, Cli, Inside, Work, api_of
from qgjet.config.settings import Settings
from qgjet.jetstream.server import NatsServer
from qgjet.reporting import document
from qgjet.store.event_log import EventLog
from qgjet_cli.output.reports import api_base

A, B, C = (f"tests/{name}.spec.js" for name in "abc")
FLAGS = (
    "--junit",
    "out/junit.xml",
    "--ctrf",
    "out/ctrf.json",
    "--report-json",
    "out/deep/report.json",
    "--html",
    "out/report.html",
)


@pytest.fixture(params=["nats", "api"])
def either(request: pytest.FixtureRequest) -> Cli:
    found: Cli = request.getfixturevalue({"nats": "cli", "api": "over_api"}[request.param])
    return found


def report_in(project: Path) -> document.Document:
    """The report; the other three files must be there and tell of as many jobs."""
    found = document.read((project / "out/deep/report.json").read_bytes())
    junit = junitparser.JUnitXml.fromstring((project / "out/junit.xml").read_bytes())
    ctrf = msgspec.json.decode((project / "out/ctrf.json").read_bytes())
    page = (project / "out/report.html").read_text()
    assert (
        junit.tests
        == ctrf["results"]["summary"]["tests"]
        == found.total
        == page.count('<details class="job')
    )
    assert [path.name for path in (project / "out").iterdir() if path.name.startswith(".")] == []
    return found


def verdicts(found: document.Document) -> dict[str, str | None]:
    return {job.test: job.verdict for job in found.jobs}


async def test_run_writes_all_four(either: Cli, work: Work, project: Path) -> None:
    async with work({B: ("failed", "passed"), C: ("failed",)}):
        ended = await either(
            "run", "--test", "tests/[abc].spec.js", "--max-retries", "1", "--tag", "pr=7", *FLAGS
        )
    assert ended.code == 1
    found = report_in(project)
    assert (found.verdict, found.exit_code, found.tags["pr"]) == ("failed", 1, "7")
    assert verdicts(found) == {A: "passed", B: "flaky", C: "failed"}
    assert {job.test: [one.verdict for one in job.attempts] for job in found.jobs} == {
        A: ["passed"],
        B: ["failed", "passed"],
        C: ["failed", "failed"],
    }
    junit = junitparser.JUnitXml.fromstring((project / "out/junit.xml").read_bytes())
    assert (junit.failures, junit.errors) == (1, 0)


async def test_after_a_timeout_a_live_job_is_an_error(
    cli: Cli, log: EventLog, project: Path
) -> None:
    ended = await cli("run", "--test", A, "--timeout", "0.2s", *FLAGS)
    assert ended.code == 124
    found = report_in(project)
    assert (found.verdict, found.exit_code, verdicts(found)) == (None, 124, {A: None})
    assert (
        '<error message="live: Not ended yet" type="live">'
        in (project / "out/junit.xml").read_text()
    )


async def test_after_an_interrupt_they_tell_what_was_cancelled(
    either: Cli, work: Work, project: Path
) -> None:
    async with (
        work({"*": ("hang",)}),
        either.start("run", "--test", A, "--test", B, *FLAGS) as running,
    ):
        await running.says("→ running", B)
        running.signal(signal.SIGINT)
        ended = await running.ends()
    assert ended.code == 130
    found = report_in(project)
    assert (found.exit_code, verdicts(found)) == (130, {A: "cancelled", B: "cancelled"})


async def test_a_job_that_was_not_accepted_is_in_them(
    either: Cli, work: Work, project: Path
) -> None:
    async with work({A: ("hang",)}):
        await either("submit", "--test", A)
        ended = await either("run", "--test", A, "--on-duplicate", "reject", *FLAGS)
    assert ended.code == 2
    (job,) = report_in(project).jobs
    assert (job.job_id, job.status, job.reason) == ("", None, "refused")


async def test_wait_looks_up_the_attempts_of_jobs_that_ended_before(
    over_api: Cli, work: Work, project: Path
) -> None:
    async with work({B: ("failed", "passed")}):
        suite = (await over_api("run", "--test", A, "--test", B, "--tag", "pr=7", "--json")).json[
            "suite_id"
        ]
        ended = await over_api("wait", "--suite", suite, *FLAGS)
    assert ended.code == 0
    found = report_in(project)
    assert (found.suite_id, found.verdict, found.exit_code, found.tags["pr"]) == (
        suite,
        "flaky",
        0,
        "7",
    )
    assert {job.test: [one.verdict for one in job.attempts] for job in found.jobs} == {
        A: ["passed"],
        B: ["failed", "passed"],
    }


async def test_wait_tells_of_earlier_attempts_after_a_timeout_too(
    over_api: Cli, work: Work, project: Path, log: EventLog
) -> None:
    async with work({A: ("failed", "hang")}), over_api.start("run", "--test", A) as running:
        await running.says("→ running", "attempt 2")
        job_id = (await over_api("list", "--json")).json[0]["job_id"]
        ended = await over_api(
            "wait", job_id, "--timeout", "3s", *FLAGS
        )  # long enough to look the job up on a busy machine
    assert ended.code == 124
    (job,) = report_in(project).jobs
    assert [one.verdict for one in job.attempts] == ["failed", None]


async def test_the_last_that_is_known_is_written_when_the_server_goes(
    cli: Cli, server: NatsServer, project: Path
) -> None:
    async with cli.start("run", "--test", A, "--patience", "0.5s", *FLAGS) as running:
        await running.says("Suite")
        server.stop()
        ended = await running.ends()
    assert ended.code == 4
    found = report_in(project)
    assert (found.exit_code, verdicts(found)) == (4, {A: None})


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://user:secret@h/q/", "http://h/q"),
        ("localhost:8000", "http://localhost:8000"),
        ("", ""),
    ],
)
def test_links_to_artifacts_lead_to_the_api_without_its_password(url: str, base: str) -> None:
    assert api_base(Settings(api_url=url)) == base


async def test_wait_writes_the_last_that_is_known_when_the_api_goes(
    cli: Cli, api_settings: Settings, project: Path
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with api_of(api_settings) as url:
            over_api = cli.with_variables(QGJET_NATS_URL="", QGJET_API_URL=url)
            await over_api("submit", "--test", A, "--suite-id", "s")
            waiting = await stack.enter_async_context(
                over_api.start("wait", "--suite", "s", "--patience", "0.5s", *FLAGS)
            )
            await waiting.says("Waiting for 1 job")
        ended = await waiting.ends()
    assert ended.code == 4
    found = report_in(project)
    assert (found.exit_code, verdicts(found)) == (4, {A: None})


# -- what cannot be written ----------------------------------------------------------------------------------------------


async def test_a_place_that_can_never_be_written_is_known_before_anything_is_submitted(
    cli: Cli, log: EventLog, project: Path
) -> None:
    (project / "file").write_text("")
    before = (await log.state()).last_seq
    for flag, path, says in (
        ("--junit", "file/junit.xml", "--junit: file cannot be made"),
        ("--html", "tests", "--html: tests is a directory"),
    ):
        ended = await cli("run", "--test", A, flag, path)
        assert (ended.code, ended.out) == (2, "")
        assert says in ended.error
    assert (await log.state()).last_seq == before


def test_two_reports_do_not_share_a_file(inside: Inside) -> None:
    ended = inside("run", "--test", A, "--junit", "a/b.xml", "--ctrf", "a/../a/b.xml")
    assert ended.code == 2
    assert "--ctrf: a/../a/b.xml is the file of --junit already" in ended.error


@pytest.mark.parametrize(("outcome", "code"), [("passed", 2), ("failed", 1)])
async def test_a_file_that_cannot_be_written_is_told_and_hides_no_worse_code(
    cli: Cli, work: Work, project: Path, outcome: str, code: int
) -> None:
    gate = asyncio.Event()
    async with (
        work({A: (outcome,)}, gate=gate),
        cli.start(
            "run",
            "--test",
            A,
            "--max-retries",
            "0",
            "--junit",
            "out/junit.xml",
            "--ctrf",
            "ctrf.json",
        ) as running,
    ):
        await running.says("→ running")
        (project / "out").rmdir()
        gate.set()
        ended = await running.ends()
    assert ended.code == code
    assert ended.error.startswith("Error: --junit: out/junit.xml cannot be written: ")
    assert (project / "ctrf.json").exists()


async def test_a_file_that_is_there_is_replaced_and_a_pipe_is_written_to(
    cli: Cli, work: Work, project: Path
) -> None:
    (project / "junit.xml").write_text("old" * 10_000)
    (project / "link.json").symlink_to("ctrf.json")
    os.mkfifo(project / "pipe")
    async with work():
        reading = asyncio.create_task(asyncio.to_thread((project / "pipe").read_text))
        ended = await cli(
            "run", "--test", A, "--junit", "junit.xml", "--ctrf", "link.json", "--html", "pipe"
        )
        page = await reading
    assert ended.code == 0
    assert junitparser.JUnitXml.fromstring((project / "junit.xml").read_bytes()).tests == 1
    assert (project / "ctrf.json").exists()
    assert (project / "link.json").is_symlink()
    assert page.startswith("<!doctype html>")
    assert f"{TARGET} {VERSION}" in page
    assert ORG in page
