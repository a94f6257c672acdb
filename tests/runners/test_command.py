"""The `command` runner: its template, its exit code, its report."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qgjet.config.settings import TargetSettings
from qgjet.domain.events import Partition, Verdict
from qgjet.process.stop_control import StopReason
from qgjet.runners.base import Attempt, Session
from qgjet.runners.registry import make_runner
from runners.processes import MARK, Family, Printed

MakeAttempt = Callable[..., Attempt]
Script = Callable[[str], list[str]]
JUNIT = '<testsuites><testsuite name="s"><testcase name="t" classname="c" time="0.1">{}</testcase></testsuite></testsuites>'


@pytest.fixture
def session(tmp_path: Path, family: Family) -> Callable[..., Any]:
    async def make(command: tuple[str, ...], **fields: Any) -> Session:
        (tmp_path / "session").mkdir(exist_ok=True)
        target = TargetSettings(
            name="emulator",
            runner="command",
            dir=str(tmp_path),
            command=command,
            env={MARK: family.mark},
            **fields,
        )
        return await make_runner(target).prepare(
            Partition("acme", "1.0.0", "emulator"), tmp_path / "session"
        )

    return make


@pytest.mark.parametrize(("code", "verdict"), [(0, Verdict.PASSED), (1, Verdict.FAILED)])
async def test_the_exit_code_decides(
    code: int, verdict: Verdict, session: Callable[..., Any], make_attempt: MakeAttempt
) -> None:
    outcome = await (await session(("sh", "-c", f"exit {code}"))).run(make_attempt())
    assert (outcome.verdict, outcome.exit_code) == (verdict, code)
    assert outcome.duration_s > 0


async def test_every_placeholder_is_one_argument(
    session: Callable[..., Any], make_attempt: MakeAttempt, python: Script
) -> None:
    words = (
        "{test}",
        "--id={job_id}",
        "{org_id}/{app_version_id}",
        "{target}",
        "{attempt}",
        "{report}",
    )
    command = (
        *python(
            "report = sys.argv.pop(); say(sys.argv[1:]); open(report, 'w').write("
            + repr(JUNIT.format(""))
            + ")"
        ),
        *words,
    )
    attempt = make_attempt(test="tests/a b $(x).js", number=3, job_id="j 1", app_version_id="'1'")
    outcome = await (await session(command)).run(attempt)
    assert (attempt.directory / "output.log").read_text() == str(
        ["tests/a b $(x).js", "--id=j 1", "acme/'1'", "emulator", "3"]
    ) + "\n"
    assert outcome.verdict is Verdict.PASSED
    assert len(outcome.tests) == 1


@pytest.mark.parametrize(
    ("inner", "code", "verdict"),
    [("", 0, Verdict.PASSED), ("<failure message='no'/>", 1, Verdict.FAILED)],
)
async def test_a_junit_report_tells_the_tests(
    inner: str,
    code: int,
    verdict: Verdict,
    session: Callable[..., Any],
    make_attempt: MakeAttempt,
    tmp_path: Path,
) -> None:
    (tmp_path / "result.xml").write_text(JUNIT.format(inner))
    run = await session(("sh", "-c", f'cp result.xml "$1"; exit {code}', "sh", "{report}"))
    outcome = await run.run(make_attempt())
    assert outcome.verdict is verdict
    assert [test.outcome for test in outcome.tests] == [verdict.value]


async def test_the_report_of_an_earlier_job_is_no_evidence(
    session: Callable[..., Any], make_attempt: MakeAttempt, tmp_path: Path
) -> None:
    (tmp_path / "junit-emulator.xml").write_text(JUNIT.format(""))
    outcome = await (await session(("true",), junit="junit-{target}.xml")).run(make_attempt())
    assert outcome.reason == "report_missing"
    assert not (tmp_path / "junit-emulator.xml").exists()


async def test_a_report_path_takes_no_ids_that_lead_elsewhere(
    session: Callable[..., Any], make_attempt: MakeAttempt, tmp_path: Path
) -> None:
    outcome = await (await session(("touch", "ran"), junit="{app_version_id}.xml")).run(
        make_attempt(app_version_id="../x")
    )
    assert (outcome.verdict, outcome.reason) == (Verdict.CONFIG_ERROR, "invalid_input")
    assert not (tmp_path / "ran").exists()


def make_link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


@pytest.mark.parametrize("fill_in", [os.mkfifo, make_link])
async def test_an_unusable_report_is_a_config_error(
    fill_in: Callable[[Path], None],
    session: Callable[..., Any],
    make_attempt: MakeAttempt,
    printed: Printed,
) -> None:
    run = await session(("sh", "-c", "echo ready; read -r _ <go", "sh", "{report}"))
    os.mkfifo(run._place.project / "go")
    attempt = make_attempt(on_output=printed)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(run.run(attempt))
        await printed.says("ready")
        fill_in(attempt.directory / "junit.xml")
        await asyncio.to_thread((run._place.project / "go").write_text, "\n")
    assert (task.result().verdict, task.result().reason) == (
        Verdict.CONFIG_ERROR,
        "report_unreadable",
    )


@pytest.mark.parametrize("test", ["../x.js", "/etc/passwd", "-x", "a\nb"])
async def test_a_hostile_test_path_runs_nothing(
    test: str, session: Callable[..., Any], make_attempt: MakeAttempt, tmp_path: Path
) -> None:
    outcome = await (await session(("touch", "ran"))).run(make_attempt(test=test))
    assert (outcome.verdict, outcome.reason) == (Verdict.CONFIG_ERROR, "invalid_input")
    assert not (tmp_path / "ran").exists()


async def test_an_id_that_would_be_an_option_runs_nothing(
    session: Callable[..., Any], make_attempt: MakeAttempt, tmp_path: Path
) -> None:
    outcome = await (await session(("touch", "ran", "{org_id}"))).run(
        make_attempt(org_id="--reference=/etc/passwd")
    )
    assert (outcome.verdict, outcome.reason) == (Verdict.CONFIG_ERROR, "invalid_input")
    assert not (tmp_path / "ran").exists()


async def test_a_program_that_is_not_there_is_a_config_error(
    session: Callable[..., Any], make_attempt: MakeAttempt
) -> None:
    outcome = await (await session(("no-such-program",))).run(make_attempt())
    assert (outcome.verdict, outcome.reason) == (Verdict.CONFIG_ERROR, "command_not_found")
    assert "no-such-program" in outcome.message


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [(StopReason.CANCELLED, Verdict.CANCELLED), (StopReason.DEADLINE, Verdict.TIMED_OUT)],
)
async def test_a_stopped_job_is_judged_by_the_stop(
    reason: StopReason,
    verdict: Verdict,
    session: Callable[..., Any],
    make_attempt: MakeAttempt,
    printed: Printed,
    python: Script,
) -> None:
    run = await session(tuple(python("say('ready'); signal.pause()")))
    attempt = make_attempt(on_output=printed)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(run.run(attempt))
        await printed.says("ready")
        attempt.stop_control.stop(reason)
    assert task.result().verdict is verdict


RUNS = ("sh", "-c", 'test -f "$1" && exec sh "$1"; echo "no $1"; exit "$2"', "sh", "{test}")


@pytest.mark.parametrize(
    "test",
    ["tests/missing.py", "missing.yaml", "tests/missing.py::test_a", "tests/missing.spec.ts:12"],
)
@pytest.mark.parametrize("code", ["1", "4", "127"])
async def test_a_test_file_that_is_not_there_is_no_tests_whatever_the_command_makes_of_it(
    test: str, code: str, session: Callable[..., Any], make_attempt: MakeAttempt, tmp_path: Path
) -> None:
    outcome = await (await session((*RUNS, code))).run(make_attempt(test=test))
    assert (outcome.verdict, outcome.reason) == (Verdict.CONFIG_ERROR, "no_tests")
    assert f"there is no test file {test} in {tmp_path}" in outcome.message


@pytest.mark.parametrize(
    ("test", "file"),
    [
        ("tests/a.py", "tests/a.py"),
        ("tests/a.py::test_a[x/y]", "tests/a.py"),
        ("a.spec.ts:12", "a.spec.ts"),
    ],
)
async def test_a_test_in_a_file_that_is_there_is_judged_as_ever(
    test: str, file: str, session: Callable[..., Any], make_attempt: MakeAttempt, tmp_path: Path
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    assert (
        await (await session(("true", "{test}"))).run(make_attempt(test=test))
    ).verdict is Verdict.PASSED


@pytest.mark.parametrize(
    "test",
    ["LoginTest", "com.example.Login", "AppTests/LoginTests/testSignIn", "signs in", "tests/login"],
)
async def test_a_name_that_is_no_path_is_for_the_command_to_understand(
    test: str, session: Callable[..., Any], make_attempt: MakeAttempt
) -> None:
    assert (
        await (await session(("true", "{test}"))).run(make_attempt(test=test))
    ).verdict is Verdict.PASSED


async def test_a_command_that_passes_may_have_its_tests_elsewhere(
    session: Callable[..., Any], make_attempt: MakeAttempt
) -> None:
    assert (
        await (await session(("true", "{test}"))).run(make_attempt(test="tests/on-the-farm.yaml"))
    ).verdict is Verdict.PASSED


async def test_tests_that_ran_are_believed_though_their_path_is_not_here(
    session: Callable[..., Any], make_attempt: MakeAttempt, tmp_path: Path
) -> None:
    (tmp_path / "result.xml").write_text(JUNIT.format(""))
    run = await session(("sh", "-c", 'cp result.xml "$2"', "sh", "{test}", "{report}"))
    assert (await run.run(make_attempt(test="elsewhere/a.py"))).verdict is Verdict.PASSED


async def test_two_agents_in_one_project_do_not_share_a_report(
    session: Callable[..., Any],
    make_attempt: MakeAttempt,
    python: Script,
    printed: Printed,
    tmp_path: Path,
) -> None:
    """The second job waits until the first is judged, though nothing but the file's path connects
    the two.
    """
    script = f"""
say("writes")
bad = sys.argv[1] == "bad"
if bad: open("go").read()
open("junit.xml", "w").write({JUNIT!r}.format("<failure message='wrong total'/>" if bad else ""))
"""
    os.mkfifo(tmp_path / "go")
    first, second = (
        await session((*python(script), "bad"), junit="junit.xml"),
        await session((*python(script), "good"), junit="junit.xml"),
    )
    seen = Printed()
    async with asyncio.TaskGroup() as group:
        one = group.create_task(first.run(make_attempt(on_output=printed)))
        await printed.says("writes")
        two = group.create_task(second.run(make_attempt(on_output=seen)))
        await asyncio.to_thread((tmp_path / "go").write_text, "on")
        await seen.says("writes")
        assert one.done()
    assert (one.result().verdict, two.result().verdict) == (Verdict.FAILED, Verdict.PASSED)


async def test_a_job_that_is_stopped_while_it_waits_for_its_report_does_not_run(
    session: Callable[..., Any],
    make_attempt: MakeAttempt,
    python: Script,
    printed: Printed,
    tmp_path: Path,
) -> None:
    os.mkfifo(tmp_path / "go")
    holder = await session(tuple(python("say('holds'); open('go').read()")), junit="junit.xml")
    waiter = await session(("touch", "ran"), junit="junit.xml")
    stopped = make_attempt()
    async with asyncio.TaskGroup() as group:
        group.create_task(holder.run(make_attempt(on_output=printed)))
        await printed.says("holds")
        task = group.create_task(waiter.run(stopped))
        stopped.stop_control.stop(StopReason.CANCELLED)
        await asyncio.wait([task])
        await asyncio.to_thread((tmp_path / "go").write_text, "on")
    assert task.result().verdict is Verdict.CANCELLED
    assert not (tmp_path / "ran").exists()
