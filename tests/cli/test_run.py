"""`qgjet run`: submit, follow, report; and what happens when it is interrupted or the server goes
away.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from agents import eventually
from cli.commandline import BIN, ORG, TARGET, VERSION, Cli, Work, api_of
from patience import patience
from qgjet.config.settings import Settings
from qgjet.domain.decide import EndAttempt, Start
from qgjet.domain.events import Outcome, Slot, Status, Verdict
from qgjet.domain.job import Job
from qgjet.jetstream.server import NatsServer
from qgjet.store.event_log import EventLog

A, B, C = (f"tests/{name}.spec.js" for name in "abc")
HANG = ("hang",)
OWN_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


async def job_of(log: EventLog, test: str) -> Job:
    job = await log.load(Slot(ORG, VERSION, TARGET, test))
    assert job is not None
    return job


def in_status(log: EventLog, test: str, status: Status) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return (await job_of(log, test)).status is status

    return ask


async def test_each_change_is_told_once_on_stderr_and_the_table_goes_to_stdout(
    either: Cli, work: Work
) -> None:
    async with work({B: ("failed", "passed"), C: ("failed",)}):
        ended = await either("run", "--test", "tests/[abc].spec.js", "--max-retries", "1")
    assert ended.code == 1
    assert [line.split()[:4] for line in ended.out.splitlines()] == [
        ["TEST", "TARGET", "VERSION", "VERDICT"],
        [A, TARGET, VERSION, "passed"],
        [B, TARGET, VERSION, "flaky"],
        [C, TARGET, VERSION, "failed"],
    ]
    told = [line.partition(" → ")[2] for line in ended.err.splitlines() if " → " in line]
    of_b = [line.split(" · ") for line in told if B in line]
    assert [(one[0], *one[3:]) for one in of_b] == [
        ("running",),
        ("queued", "attempt 1 failed (scripted)"),
        ("running", "attempt 2"),
        ("done", of_b[-1][3]),
    ]
    assert of_b[-1][3].startswith("flaky")
    assert len([line for line in told if A in line]) == 2


async def test_json_is_one_document_with_jobs_and_summary(either: Cli, work: Work) -> None:
    async with work({B: ("infra_error", "failed", "passed")}):
        ended = await either("run", "--test", A, "--test", B, "--tag", "pr=7", "--json")
    assert ended.code == 0
    document = ended.json
    assert document["summary"] == {
        "exit_code": 0,
        "total": 2,
        "passed": 1,
        "flaky": 1,
        "failed": 0,
        "timed_out": 0,
        "infra_error": 0,
        "config_error": 0,
        "cancelled": 0,
        "skipped": 0,
        "no_result": 0,
    }
    a, b = document["jobs"]
    assert (
        a["test"],
        a["status"],
        a["legacy_status"],
        a["verdict"],
        a["attempts"],
        a["first_failure"],
    ) == (A, "done", "completed", "passed", 1, None)
    assert (b["verdict"], b["attempts"], b["first_failure"]) == (
        "flaky",
        3,
        {"attempt": 1, "verdict": "infra_error", "reason": "scripted", "message": ""},
    )
    assert document["suite_id"]


async def test_each_test_runs_on_each_target(cli: Cli, log: EventLog) -> None:
    ended = await cli(
        "run",
        "--test",
        A,
        "--test",
        B,
        "--target",
        "one",
        "--target",
        "two",
        "--timeout",
        "0.2s",
        "--json",
    )
    assert [(job["test"], job["target"]) for job in ended.json["jobs"]] == [
        (A, "one"),
        (B, "one"),
        (A, "two"),
        (B, "two"),
    ]


async def test_a_live_duplicate_counts_with_its_verdict(
    either: Cli, work: Work, log: EventLog
) -> None:
    gate = asyncio.Event()
    async with (
        work({A: ("failed",)}, gate=gate),
        either.start("run", "--test", A, "--max-retries", "0") as first,
    ):
        await first.says("→ running")
        async with either.start("run", "--test", A, "--test", B, "--json") as second:
            await second.says("1 of them live before")
            gate.set()
            ended = await second.ends()
        assert (await first.ends()).code == ended.code == 1
    assert [(job["attached"], job["verdict"]) for job in ended.json["jobs"]] == [
        (True, "failed"),
        (False, "passed"),
    ]


async def test_a_refused_duplicate_has_no_verdict(either: Cli, work: Work) -> None:
    async with work({A: HANG}):
        await either("submit", "--test", A)
        ended = await either(
            "run", "--test", A, "--test", B, "--on-duplicate", "reject", "--partial", "--json"
        )
        none = await either("run", "--test", A, "--test", B, "--on-duplicate", "reject", "--json")
        alone = await either("run", "--test", A, "--on-duplicate", "reject", "--json")
    assert ended.code == 3
    assert {job["test"]: (job["verdict"], job["reason"]) for job in ended.json["jobs"]} == {
        B: ("passed", "scripted"),
        A: (None, "refused"),
    }
    assert (none.code, none.json["summary"]["no_result"]) == (2, 2)
    assert (alone.code, alone.json["summary"]["exit_code"], alone.json["summary"]["no_result"]) == (
        2,
        2,
        1,
    )


async def test_a_job_that_somebody_replaces_has_ended(either: Cli) -> None:
    async with either.start("run", "--test", A, "--json") as running:
        await running.says("Suite")
        other = (await either("submit", "--test", A, "--on-duplicate", "replace", "--json")).json
        ended = await running.ends()
    assert ended.code == 6
    (job,) = ended.json["jobs"]
    assert (job["verdict"], job["reason"]) == ("cancelled", "replaced")
    assert other["job_id"] in job["message"]


async def test_an_interrupt_cancels_what_was_submitted_and_not_what_was_attached(
    either: Cli, work: Work, log: EventLog
) -> None:
    async with work({"*": HANG}, slots=2):
        await either("submit", "--test", A)
        async with either.start("run", "--test", A, "--test", B, "--test", C, "--json") as running:
            await running.says("→ running", B)
            running.signal(signal.SIGINT)
            await running.says("cancelling 2 jobs")
            ended = await running.ends()
        assert ended.code == 130
        assert {job["test"]: job["verdict"] for job in ended.json["jobs"]} == {
            A: None,
            B: "cancelled",
            C: "cancelled",
        }
        assert (await job_of(log, A)).status is Status.RUNNING
        assert (await job_of(log, B)).verdict is Verdict.CANCELLED


async def test_a_second_interrupt_leaves_at_once_and_the_cancellation_stands(
    cli: Cli, log: EventLog
) -> None:
    async with cli.start("run", "--test", A) as running:
        await running.says("Suite")
        job = await job_of(log, A)
        await log.execute(
            slot_of(A), Start(job.ticket, "deaf"), job
        )  # an agent that does not react
        await running.says("→ running")
        running.signal(signal.SIGINT)
        await running.says("asked to stop")
        running.signal(signal.SIGINT)
        ended = await running.ends()
    assert ended.code == 130
    assert [line.split()[0] for line in ended.out.splitlines()] == ["TEST", A]
    assert (await job_of(log, A)).cancel_requested


@pytest.mark.parametrize("whose", ["its own", "another session's"])
async def test_a_terminal_that_is_closed_cancels_as_a_hangup_does(
    whose: str, cli: Cli, log: EventLog, tmp_path: Path
) -> None:
    """Its own is announced by SIGHUP, and then not writable. Another session's is not announced:
    the next line of progress cannot be written.
    """
    master, slave = pty.openpty()
    environment = cli.environment | {"TERM": "xterm"}
    report = tmp_path / "report.json"
    argv = [str(BIN / "qgjet"), "run", "--test", A, "--report-json", str(report)]
    if whose == "its own":
        argv = [sys.executable, "-c", OWN_TERMINAL, *argv]
    run = subprocess.Popen(  # noqa: ASYNC220 - it starts at once
        argv,
        cwd=cli.cwd,
        env=environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:

        async def submitted() -> bool:
            return await log.load(slot_of(A)) is not None

        await eventually(submitted, within_s=30, what="the submission")
        job = await job_of(log, A)
        if whose != "its own":
            os.close(master)  # it is noticed when the start of the job is to be shown
        await log.execute(slot_of(A), Start(job.ticket, "agent"), job)
        if whose == "its own":
            os.close(master)
        await eventually(cancel_requested(log, A), within_s=30, what="the cancel")
        await log.execute(
            slot_of(A),
            EndAttempt("agent", 1, Outcome(verdict=Verdict.CANCELLED)),
            await job_of(log, A),
        )
        assert await asyncio.to_thread(run.wait, patience(30)) == 129
    finally:
        run.kill()
        run.wait()
    (ended,) = json.loads(report.read_bytes())["jobs"]
    assert ended["verdict"] == "cancelled", "it waits for the end of what it has cancelled"


def cancel_requested(log: EventLog, test: str) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return (await job_of(log, test)).cancel_requested

    return ask


async def test_what_is_known_is_written_at_the_first_signal_and_again_at_the_second(
    cli: Cli, log: EventLog, tmp_path: Path
) -> None:
    """GitHub Actions kills a step ten seconds after it was cancelled: one test has finished, the
    agent of the other one does not react.
    """
    files = [tmp_path / name for name in ("junit.xml", "summary.md", "outputs")]
    step = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_STEP_SUMMARY": str(files[1]),
        "GITHUB_OUTPUT": str(files[2]),
    }
    files[1].write_text("of an earlier command\n")

    async def written() -> bool:
        return all(file.exists() and len(file.read_bytes()) > 22 for file in files)

    async with cli.start(
        "run", "--test", A, "--test", B, "--junit", str(files[0]), **step
    ) as running:
        await running.says("Suite")
        for test in (A, B):
            job = await job_of(log, test)
            await log.execute(slot_of(test), Start(job.ticket, "agent"), job)
        await running.says("→ running", B)
        running.signal(signal.SIGINT)
        await eventually(written, within_s=30, what="reports of what is known")
        first = [file.read_text() for file in files]
        await log.execute(
            slot_of(A),
            EndAttempt("agent", 1, Outcome(verdict=Verdict.PASSED)),
            await job_of(log, A),
        )
        await running.says("→ done", A)
        running.signal(signal.SIGTERM)
        ended = await running.ends()
    second = [file.read_text() for file in files]
    assert ended.code == 130
    assert (await job_of(log, B)).cancel_requested
    assert [output_of(text, "passed") for text in (first[2], second[2])] == ["0", "1"]
    assert [text.count("<error") for text in (first[0], second[0])] == [2, 1]
    assert [text.count("of an earlier command") for text in (first[1], second[1])] == [1, 1]
    assert second[2].count("suite-id<<") == 1, (
        "the second time replaces what was written the first time"
    )


def output_of(text: str, name: str) -> str:
    """The value of an output of the step."""
    return text.partition(f"{name}<<")[2].splitlines()[1]


def slot_of(test: str) -> Slot:
    return Slot(ORG, VERSION, TARGET, test)


async def test_detached_jobs_survive_the_interrupt(cli: Cli, log: EventLog) -> None:
    async with cli.start("run", "--test", A, "--detach-on-interrupt") as running:
        await running.says("Suite")
        running.signal(signal.SIGTERM)
        ended = await running.ends()
    assert ended.code == 143
    assert "qgjet wait --suite" in ended.err
    assert (await job_of(log, A)).status is Status.QUEUED


async def test_a_restart_of_the_nats_server_is_survived(
    cli: Cli, work: Work, server: NatsServer, log: EventLog
) -> None:
    gate = asyncio.Event()
    async with work(gate=gate), cli.start("run", "--test", A) as running:
        await running.says("→ running")
        server.kill()
        await running.says("is lost")
        await server.start()
        await running.says("again")
        gate.set()
        ended = await running.ends()
    assert ended.code == 0
    assert ended.err.count("→ running") <= 2  # once more if the agent lost its lease


async def test_a_restart_of_the_api_is_survived(
    cli: Cli, work: Work, api_settings: Settings, log: EventLog
) -> None:
    gate = asyncio.Event()
    async with work(gate=gate), contextlib.AsyncExitStack() as until_the_end:
        async with api_of(api_settings) as url:
            over_api = cli.with_variables(QGJET_NATS_URL="", QGJET_API_URL=url)
            running = await until_the_end.enter_async_context(
                over_api.start("run", "--test", A, "--test", B)
            )
            await running.says("→ running")
            await running.says("→ running")
        await running.says("trying again")
        gate.set()
        await eventually(in_status(log, B, Status.DONE))
        port = int(url.rpartition(":")[2])
        async with api_of(replace(api_settings, api=replace(api_settings.api, port=port))):
            ended = await running.ends()
    assert ended.code == 0, ended.err
    for test in (A, B):
        assert [
            line.partition(" → ")[2].split(" · ")[0]
            for line in ended.err.splitlines()
            if "→" in line and test in line
        ] == ["running", "done"]


async def test_without_a_server_everything_is_started_and_stopped(
    alone: Cli, project: Path
) -> None:
    (project / "qgjet.toml").write_text(
        f'[targets.{TARGET}]\nrunner = "scripted"\n[targets.{TARGET}.outcomes]\n"{B}" = ["failed"]\n[targets.broken]\nrunner = "scripted"\n'
    )
    ended = await alone(
        "run", "--test", A, "--test", B, "--target", TARGET, "--max-retries", "0", "--json"
    )
    assert ended.code == 1, ended.err
    assert [(job["org_id"], job["verdict"]) for job in ended.json["jobs"]] == [
        ("local", "passed"),
        ("local", "failed"),
    ]


async def test_without_a_server_an_interrupt_leaves_nothing_behind(
    alone: Cli, project: Path
) -> None:
    (project / "qgjet.toml").write_text(
        f'[targets.{TARGET}]\nrunner = "scripted"\noutcomes = {{"*" = ["hang"]}}\n'
    )
    async with alone.start("run", "--test", A) as running:
        await running.says("→ running")
        running.signal(signal.SIGINT)
        ended = await running.ends()
    assert ended.code == 130
    assert "cancelled" in ended.out


async def test_without_a_server_an_undeclared_target_and_detaching_are_usage(
    alone: Cli, project: Path
) -> None:
    (project / "qgjet.toml").write_text(f'[targets.{TARGET}]\nrunner = "scripted"\n')
    unknown = await alone("run", "--test", A, "--target", "toaster")
    detached = await alone("run", "--test", A, "--detach-on-interrupt")
    assert (unknown.code, detached.code) == (2, 2)
    assert TARGET in unknown.error
    assert "--detach-on-interrupt" in detached.error


async def test_on_a_terminal_there_is_one_live_line_and_what_has_ended(
    cli: Cli, work: Work
) -> None:
    reading, writing = os.openpty()
    gate = asyncio.Event()
    async with work({B: ("failed",)}, gate=gate):
        process = await asyncio.create_subprocess_exec(
            str(BIN / "qgjet"),
            *("run", "--test", A, "--test", B, "--max-retries", "0"),
            cwd=cli.cwd,
            env=cli.environment | {"TERM": "xterm", "COLUMNS": "200"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=writing,
        )
        os.close(writing)
        shown = ""
        while "2 running" not in shown:
            shown += (await asyncio.to_thread(os.read, reading, 65536)).decode()
        gate.set()
        with contextlib.suppress(OSError):  # the end of a terminal whose last process has gone
            while piece := await asyncio.to_thread(os.read, reading, 65536):
                shown += piece.decode()
        assert await process.wait() == 1
    os.close(reading)
    assert "0/2" in shown
    assert "→ running" not in shown
    assert f"→ done · {A}" in shown
    assert f"→ failed · {B}" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h")  # the cursor is there again
