"""Sessions of command-line targets: environment, prepare, health, release, and that they leave
nobody behind.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from patience import patience
from qgjet.config.settings import TargetSettings
from qgjet.domain.events import Outcome, Partition, Verdict
from qgjet.errors import PrepareFailed
from qgjet.runners.base import Attempt, Session
from qgjet.runners.commandline import CommandLineSession, ReportUnusable, open_report
from qgjet.runners.environment import BASE_VARIABLES
from qgjet.runners.registry import make_runner
from runners.processes import MARK, FakeAgent, Family, wait_until

Script = Callable[[str], list[str]]
MakeAttempt = Callable[..., Attempt]
PARTITION = Partition("acme", "1.0.0", "emulator")
SHOW = ("sh", "-c", "env -0")


class Bench:
    """A project directory, a session directory, and targets in them whose processes belong to the
    family.
    """

    def __init__(self, tmp_path: Path, family: Family) -> None:
        self.project = tmp_path / "project"
        self.directory = tmp_path / "session"
        for directory in (self.project, self.directory):
            directory.mkdir()
        self.family = family

    def target(self, *, env: dict[str, str] | None = None, **fields: Any) -> TargetSettings:
        defaults: dict[str, Any] = {
            "name": "emulator",
            "runner": "command",
            "dir": str(self.project),
            "command": SHOW,
        }
        return TargetSettings(**{**defaults, **fields}, env={MARK: self.family.mark, **(env or {})})

    async def prepare(self, partition: Partition = PARTITION, **fields: Any) -> Session:
        return await make_runner(self.target(**fields)).prepare(partition, self.directory)

    async def environment(self, session: Session, make_attempt: MakeAttempt) -> dict[str, str]:
        """What a job of the session sees."""
        attempt = make_attempt(test="tests/a.spec.js", number=2, job_id="job-7")
        assert (await session.run(attempt)).verdict is Verdict.PASSED
        return dict(
            item.split("=", 1)
            for item in (attempt.directory / "output.log").read_text().split("\0")
            if item
        )


@pytest.fixture
def bench(tmp_path: Path, family: Family) -> Bench:
    return Bench(tmp_path, family)


async def test_a_job_sees_what_it_is_about_and_nothing_of_the_agent(
    bench: Bench, make_attempt: MakeAttempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_PASSWORD", "swordfish")
    monkeypatch.setenv("ANDROID_HOME", "/sdk")
    monkeypatch.setenv("TZ", "UTC")
    session = await bench.prepare(pass_env=("ANDROID_HOME", "NOT_SET"), env={"FIXED": "1"})
    seen = await bench.environment(session, make_attempt)
    about = {
        name: value
        for name, value in seen.items()
        if name.startswith("QGJET_") and name not in (MARK, "QGJET_TREE", "QGJET_ATTEMPT_DIR")
    }
    assert about == {
        "QGJET_ORG_ID": "acme",
        "QGJET_APP_VERSION_ID": "1.0.0",
        "QGJET_TARGET": "emulator",
        "QGJET_SESSION_DIR": str(bench.directory),
        "QGJET_ENV": str(bench.directory / "env"),
        "QGJET_JOB_ID": "job-7",
        "QGJET_ATTEMPT": "2",
        "QGJET_TEST": "tests/a.spec.js",
    }
    assert (seen["FIXED"], seen["ANDROID_HOME"], seen["TZ"]) == ("1", "/sdk", "UTC")
    rest = (
        seen.keys()
        - about.keys()
        - {MARK, "QGJET_TREE", "QGJET_ATTEMPT_DIR", "FIXED", "ANDROID_HOME"}
    )
    assert rest <= {*BASE_VARIABLES, "CI", "PWD"}  # PWD is the shell's own doing


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "true"),
        ({"env": {"CI": ""}}, ""),
        ({"env": {"CI": "0"}}, "0"),
        ({"pass_env": ("CI",)}, "of the agent"),
    ],
)
async def test_ci_is_true_in_a_job_unless_the_target_says_otherwise(
    fields: dict[str, Any],
    expected: str,
    bench: Bench,
    make_attempt: MakeAttempt,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CI", "of the agent")
    seen = await bench.environment(await bench.prepare(**fields), make_attempt)
    assert seen["CI"] == expected


async def test_prepare_hands_variables_to_health_check_jobs_and_release(
    bench: Bench, make_attempt: MakeAttempt
) -> None:
    session = await bench.prepare(
        prepare=(
            "sh",
            "-c",
            "printf 'PORT=4723\\nURL=http://x/?a=b\\n\\nEMPTY=\\nQGJET_DEVICE=Pixel 8\\n' >>$QGJET_ENV",
        ),
        healthy=("sh", "-c", 'test "$PORT" = 4723'),
        release=("sh", "-c", 'echo "$PORT" >released'),
    )
    assert session.device == "Pixel 8"
    assert await session.healthy()
    seen = await bench.environment(session, make_attempt)
    assert (seen["PORT"], seen["URL"], seen["EMPTY"]) == ("4723", "http://x/?a=b", "")
    await session.release()
    assert (bench.project / "released").read_text() == "4723\n"
    assert not await session.healthy()


async def test_variables_of_prepare_win_over_the_fixed_ones(
    bench: Bench, make_attempt: MakeAttempt
) -> None:
    session = await bench.prepare(
        env={"COLOUR": "red"}, prepare=("sh", "-c", "echo COLOUR=blue >>$QGJET_ENV")
    )
    assert (await bench.environment(session, make_attempt))["COLOUR"] == "blue"
    await session.release()


@pytest.mark.parametrize(
    "line",
    ["no separator", "=value", "1A=x", "A B=x", " A=x", "A-B=x", "QGJET_ORG_ID=other", "A=b\\000c"],
)
async def test_a_wrong_line_of_the_environment_file_is_named_by_its_number(
    bench: Bench, line: str
) -> None:
    with pytest.raises(PrepareFailed, match="line 3 of QGJET_ENV") as failed:
        await bench.prepare(
            prepare=("sh", "-c", f"sleep 1000 & printf 'A=1\\n\\n{line}\\n' >>$QGJET_ENV")
        )
    assert "other" not in str(failed.value)
    assert not bench.family.pids()


async def test_a_huge_environment_file_is_refused(bench: Bench) -> None:
    with pytest.raises(PrepareFailed, match="larger than"):
        await bench.prepare(prepare=("sh", "-c", "head -c 2000000 /dev/zero >>$QGJET_ENV"))


async def test_a_failing_prepare_says_why_and_leaves_nobody(bench: Bench) -> None:
    with pytest.raises(
        PrepareFailed,
        match=r"target emulator: prepare failed with exit code 3:\n(line \d+\n)*no device$",
    ) as failed:
        await bench.prepare(
            prepare=("sh", "-c", "sleep 1000 & seq -f 'line %g' 100; echo no device >&2; exit 3")
        )
    assert "line 99" in str(failed.value)
    assert "line 10\n" not in str(failed.value)
    assert not bench.family.pids()


async def test_a_prepare_that_takes_too_long_is_ended_with_all_it_started(bench: Bench) -> None:
    with pytest.raises(PrepareFailed, match=r"prepare took longer than 0.3 s:\nbooting"):
        await bench.prepare(
            prepare_timeout_s=0.3,
            prepare=("sh", "-c", "echo booting; setsid sleep 1000 & sleep 1000"),
        )
    assert not bench.family.pids()


@pytest.mark.parametrize("prepare", [("no-such-program",), ("/etc/passwd",), ("echo", "\0")])
async def test_a_prepare_that_cannot_be_started_is_named(
    bench: Bench, prepare: tuple[str, ...]
) -> None:
    with pytest.raises(PrepareFailed, match=f"prepare did not run: .*{prepare[0]}"):
        await bench.prepare(prepare=prepare)


async def test_a_cancelled_prepare_leaves_nobody(bench: Bench) -> None:
    task = asyncio.create_task(
        bench.prepare(prepare=("sh", "-c", "setsid sleep 1000 & sleep 1000"))
    )
    await bench.family.counts(3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not bench.family.pids()


async def test_what_prepare_leaves_running_serves_the_jobs_and_ends_with_the_session(
    bench: Bench, make_attempt: MakeAttempt
) -> None:
    session = await bench.prepare(
        prepare=("sh", "-c", "sleep 1000 & setsid sleep 1000 & echo started"), healthy=("true",)
    )
    for _ in range(2):
        assert await session.healthy()
        await bench.environment(session, make_attempt)
    assert len(bench.family.pids()) == 2
    await session.release()
    assert not bench.family.pids()
    await session.release()


async def test_a_server_that_prints_a_lot_is_not_blocked(bench: Bench) -> None:
    session = await bench.prepare(
        prepare=("sh", "-c", "(yes | head -c 1000000; touch printed; sleep 1000) &")
    )
    await wait_until((bench.project / "printed").exists, "the server has printed everything")
    await session.release()
    assert (bench.directory / "prepare.log").stat().st_size == 1_000_000


async def test_a_frozen_event_loop_loses_its_session_and_the_health_check_says_so(
    bench: Bench,
) -> None:
    session = await bench.prepare(prepare=("sh", "-c", "sleep 1000 &"))
    assert await session.healthy()
    assert isinstance(session, CommandLineSession)
    kept = session._kept
    assert kept is not None
    kept._let_go()
    kept.tree.extend(time.monotonic() + 0.1)
    await bench.family.dies()
    async with asyncio.timeout(patience(5)):
        await kept.tree.gone.wait()
    assert not await session.healthy()
    await session.release()


async def test_kill_9_of_the_agent_ends_the_session(
    bench: Bench, fake_agent: Callable[[str], FakeAgent]
) -> None:
    agent = fake_agent(f"""
import asyncio
from pathlib import Path
from qgjet.config.settings import TargetSettings
from qgjet.runners.registry import make_runner
from qgjet.domain.events import Partition

async def main():
    target = TargetSettings(name="emulator", runner="command", command=("true",), env={{{MARK!r}: {bench.family.mark!r}}},
                    prepare=("sh", "-c", "sleep 1000 & setsid sleep 1000 & echo started"))
    session = await make_runner(target).prepare(Partition("acme", "1", "emulator"), Path({str(bench.directory)!r}))
    print("prepared")
    await asyncio.Event().wait()

asyncio.run(main())
""")
    await agent.says(b"prepared")
    await wait_until(
        lambda: len(bench.family.pids()) == 2, "both children"
    )  # one is seen by its mark once it has become `sleep`
    os.kill(agent.pid, signal.SIGKILL)
    await bench.family.dies(within_s=2)


@pytest.mark.parametrize(
    ("healthy", "expected"),
    [
        ("", True),
        ("true", True),
        ("false", False),
        ("no-such-program", False),
        ("sleep 1000", False),
    ],
)
async def test_health_is_the_exit_code_within_the_time(
    bench: Bench, healthy: str, expected: bool
) -> None:
    session = await bench.prepare(healthy=tuple(healthy.split()), healthy_timeout_s=0.5)
    assert await session.healthy() is expected
    await session.release()


@pytest.mark.parametrize("release", [("false",), ("no-such-program",), ("sleep", "1000")])
async def test_a_release_that_fails_is_logged_and_ends_everybody_all_the_same(
    bench: Bench, release: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    session = await bench.prepare(
        prepare=("sh", "-c", "sleep 1000 &"), release=release, release_timeout_s=0.3
    )
    await session.release()
    assert not bench.family.pids()
    assert "target emulator: release" in caplog.text


async def test_a_cancelled_release_ends_everybody_all_the_same(bench: Bench) -> None:
    session = await bench.prepare(prepare=("sh", "-c", "sleep 1000 &"), release=("sleep", "1000"))
    task = asyncio.create_task(session.release())
    await bench.family.counts(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not bench.family.pids()


async def test_the_build_of_the_app_version_is_given_to_all(
    bench: Bench, make_attempt: MakeAttempt
) -> None:
    (bench.project / "builds").mkdir()
    (bench.project / "builds" / "1.0.0.apk").touch()
    session = await bench.prepare(
        build="builds/{app_version_id}.apk", prepare=("sh", "-c", 'test -f "$APP_BUILD_PATH"')
    )
    assert (await bench.environment(session, make_attempt))["APP_BUILD_PATH"] == str(
        bench.project / "builds" / "1.0.0.apk"
    )
    await session.release()


async def test_a_missing_build_is_named_before_anything_runs(bench: Bench) -> None:
    with pytest.raises(
        PrepareFailed, match=r"there is no build .*builds/1\.0\.0\.apk for app version '1\.0\.0'"
    ):
        await bench.prepare(build="builds/{app_version_id}.apk", prepare=("touch", "ran"))
    assert not (bench.project / "ran").exists()


@pytest.mark.parametrize("version", ["../../etc/passwd", "a/b", "a\\b", "..", "1..2", "a\0b"])
async def test_an_app_version_that_leads_elsewhere_is_a_config_error_and_runs_nothing(
    bench: Bench, make_attempt: MakeAttempt, version: str
) -> None:
    session = await bench.prepare(
        Partition("acme", version, "emulator"),
        build="builds/{app_version_id}.apk",
        prepare=("touch", "ran"),
    )
    outcome = await session.run(make_attempt(app_version_id=version))
    assert (outcome.verdict, outcome.reason) == (Verdict.CONFIG_ERROR, "invalid_input")
    assert "app_version_id" in outcome.message
    assert await session.healthy()
    await session.release()
    assert not (bench.project / "ran").exists()


async def test_without_a_build_template_a_version_may_have_any_name(
    bench: Bench, make_attempt: MakeAttempt
) -> None:
    session = await bench.prepare(Partition("acme", "feature/x", "emulator"))
    assert (await bench.environment(session, make_attempt))["QGJET_APP_VERSION_ID"] == "feature/x"


async def test_a_project_that_is_not_there_is_a_config_error(
    bench: Bench, make_attempt: MakeAttempt
) -> None:
    session = await bench.prepare(dir=str(bench.project / "nowhere"))
    outcome = await session.run(make_attempt())
    assert (outcome.verdict, outcome.reason) == (Verdict.CONFIG_ERROR, "command_not_found")
    assert "nowhere" in outcome.message


async def test_a_host_that_cannot_run_the_job_is_an_infrastructure_error(
    bench: Bench, make_attempt: MakeAttempt
) -> None:
    session = await bench.prepare()
    attempt = make_attempt()
    attempt.directory.write_text("in the way of the attempt's directory")
    outcome: Outcome = await session.run(attempt)
    assert (outcome.verdict, outcome.reason) == (Verdict.INFRA_ERROR, "agent_io")


def test_reports_are_read_only_from_regular_files(tmp_path: Path) -> None:
    report = tmp_path / "report"
    assert open_report(report) is None
    report.write_bytes(b"{}")
    with open_report(report) or io.BytesIO() as opened:
        assert opened.read() == b"{}"
    makers: list[Callable[[], None]] = [
        lambda: report.symlink_to("/etc/passwd"),
        lambda: os.mkfifo(report),
        report.mkdir,
    ]
    for make in makers:
        report.unlink()
        make()
        with pytest.raises(ReportUnusable, match="report"):
            open_report(report)
