"""The command as a whole: help, version, start-up, and what may never be seen."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import typer

import qgjet
from cli.commandline import BIN, Cli, Inside, Work
from patience import patience
from qgjet.client.tracker import TrackedJob
from qgjet.domain.events import Slot, Status, Verdict
from qgjet_cli import main
from qgjet_cli.exits import Exit
from qgjet_cli.output import console
from qgjet_cli.tracking import result


@pytest.mark.parametrize("program", ["qgjet", "qgjob"])
async def test_both_names_show_the_version_and_the_help(alone: Cli, program: str) -> None:
    version = await alone("--version", program=program)
    assert (version.code, version.out) == (0, f"qgjet {qgjet.__version__}\n")
    bare, help_ = await alone(program=program), await alone("--help", program=program)
    assert (bare.code, bare.out) == (0, help_.out)
    for command in (
        "run",
        "submit",
        "status",
        "wait",
        "job",
        "suite",
        "agent",
        "serve",
        "up",
        "doctor",
    ):
        assert re.search(rf"^  {command}  ", bare.out, re.MULTILINE), command


@pytest.mark.parametrize(
    "command",
    ["run", "submit", "status", "wait", "list", "cancel", "agent", "serve", "up", "doctor"],
)
async def test_every_command_explains_itself(inside: Inside, command: str) -> None:
    ended = inside(command, "--help")
    assert ended.code == 0
    assert len(ended.out.splitlines()) > 5
    if command in ("run", "wait"):
        assert "124  --timeout was reached" in ended.out
    if command in ("run", "submit"):
        assert "0 runs first" in ended.out


def test_the_start_brings_nothing_heavy_along() -> None:
    heavy = {"nats", "httpx", "litestar", "rich", "uvloop", "sqlite3"}
    code = f"import sys, qgjet_cli.main; print(*sorted({heavy!r} & set(sys.modules)))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout
        == "\n"
    )


def test_an_unexpected_error_is_one_line_and_no_verdict(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr("qgjet_cli.commands.listing.settings_of", broken)
    ended = inside("list")
    assert (ended.code, ended.out) == (3, "")
    assert (
        ended.err
        == "Error: this is a defect of qgjet, please report it: ZeroDivisionError: by zero (QGJET_DEBUG=1 shows where)\n"
    )


def test_ctrl_c_before_anything_is_reached_is_130(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qgjet_cli.commands.listing.settings_of", interrupted)
    assert inside("list").code == Exit.INTERRUPTED


async def test_a_terminal_without_an_arrow_gets_a_question_mark(cli: Cli) -> None:
    ended = await cli(
        "submit",
        "--test",
        "tests/ümläut→.spec.js",
        "--test",
        "b",
        PYTHONIOENCODING="ascii",
        PYTHONUTF8="0",
    )
    assert ended.code == 0
    assert "Test: tests/?ml?ut?.spec.js" in ended.out


async def test_a_reader_that_leaves_early_is_no_error(over_api: Cli) -> None:
    for args in (("list", "--json"), ("list",)):
        reading, writing = os.pipe()
        os.close(reading)
        called = partial(
            subprocess.run,
            [BIN / "qgjet", *args],
            cwd=over_api.cwd,
            env=over_api.environment,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
        )
        process = await asyncio.to_thread(called)  # the API is in this process
        os.close(writing)
        assert (process.returncode, "Traceback" in process.stderr) == (0, False), process.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
async def test_a_closed_descriptor_does_not_change_the_exit_code(
    cli: Cli, work: Work, closed: str
) -> None:
    async with work({"a": ("passed",), "b": ("failed",)}):
        for test, code in (("a", 0), ("b", 1)):
            command = f"ulimit -c 0; exec {shlex.quote(str(BIN / 'qgjet'))} run --test {test} --max-retries 0 {closed}"
            called = partial(
                subprocess.run,
                command,
                shell=True,
                cwd=cli.cwd,
                env=cli.environment,
                capture_output=True,
                text=True,
            )
            process = await asyncio.to_thread(called)
            assert process.returncode == code, process.stderr
            assert "Traceback" not in process.stderr


async def _with_full(cli: Cli, stream: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command whose stdout or stderr goes to a full disk."""
    streams = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        stream: os.open("/dev/full", os.O_WRONLY),
    }
    try:
        return await asyncio.to_thread(
            partial(
                subprocess.run,
                [BIN / "qgjet", *args],
                cwd=cli.cwd,
                env=cli.environment,
                text=True,
                **streams,
            )
        )
    finally:
        os.close(streams[stream])


async def test_a_full_stdout_keeps_the_exit_code_and_the_reports(
    cli: Cli, work: Work, tmp_path: Path
) -> None:
    files = {
        "GITHUB_OUTPUT": tmp_path / "output",
        "GITHUB_STEP_SUMMARY": tmp_path / "summary.md",
        "junit": tmp_path / "junit.xml",
    }
    step = cli.with_variables(
        GITHUB_ACTIONS="true", **{name: str(path) for name, path in files.items() if name.isupper()}
    )
    async with work({"a": ("passed",), "b": ("failed",)}):
        for test, code, *more in (("a", 0), ("b", 1), ("a", 0, "--json")):
            for path in files.values():
                path.unlink(missing_ok=True)
            ended = await _with_full(
                step,
                "stdout",
                "run",
                "--test",
                test,
                "--max-retries",
                "0",
                "--junit",
                files["junit"],
                *more,
            )
            assert ended.returncode == code, ended.stderr
            assert [line for line in ended.stderr.splitlines() if "stdout" in line] == [
                "Error: stdout cannot be written: No space left on device"
            ]
            assert "Exception ignored" not in ended.stderr
            assert all(path.stat().st_size > 0 for path in files.values())


async def test_a_list_that_cannot_be_written_is_an_error_of_one_line(over_api: Cli) -> None:
    await over_api("submit", "--test", "a")
    for args in (("list", "--json"), ("list",), ("submit", "--test", "a")):
        ended = await _with_full(over_api, "stdout", *args)
        assert ended.returncode == 2
        assert (
            ended.stderr.splitlines()[-1]
            == "Error: stdout cannot be written: No space left on device"
        )


@pytest.mark.parametrize("command", ["--help", "doctor"])
async def test_every_command_reports_a_full_stdout(alone: Cli, command: str) -> None:
    ended = await _with_full(alone, "stdout", command)
    assert (ended.returncode, ended.stderr) == (
        2,
        "Error: stdout cannot be written: No space left on device\n",
    )


async def test_a_full_stderr_does_not_change_the_exit_code(cli: Cli, work: Work) -> None:
    async with work({"a": ("passed",)}):
        ended = await _with_full(cli, "stderr", "run", "--test", "a", "--json")
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["summary"]["passed"] == 1


# -- output ----------------------------------------------------------------------------------------------------------------


def test_nothing_reaches_a_terminal_as_a_control_sequence() -> None:
    assert console.printable("a\x1b[31mb\u202ec\nd é 漢") == "a\\x1b[31mb\\u202ec\\nd é 漢"
    assert console.one_line("  two\n\tlines \x07 ") == "two lines \\x07"
    assert console.one_line("x" * 10, 5) == "xxxx…"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.04, "0.0s"),
        (59.94, "59.9s"),
        (59.96, "1m00s"),
        (245, "4m05s"),
        (3599.6, "1h00m"),
        (7380, "2h03m"),
        (273_600, "3d04h"),
    ],
)
def test_durations_are_short(seconds: float | None, text: str) -> None:
    assert console.duration(seconds) == text


def test_a_table_keeps_markup_and_long_texts_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    slot = Slot("o", "v", "[red]t", "a" * 150)
    track = TrackedJob(
        job_id="1",
        slot=slot,
        status=Status.FAILED,
        verdict=Verdict.FAILED,
        reason="x",
        message="[bold]\nsecond line",
    )
    code = Exit.FAILED
    result.show([result.of_track(track)], code, suite_id="", json=False)
    (_, row) = capsys.readouterr().out.splitlines()
    assert row.split() == [
        "a" * 150,
        "[red]t",
        "v",
        "failed",
        "0",
        "x:",
        "[bold]",
        "second",
        "line",
    ]


def test_every_command_is_in_one_section_of_the_help() -> None:
    main._register_heavy([])
    commands = typer.main.get_command(main.app).commands  # type: ignore[attr-defined]
    known = {name for name, command in commands.items() if not command.hidden}
    listed = [name for names in main.SECTIONS.values() for name in names]
    assert sorted(listed) == sorted(known)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("qgjet sta", "status"),
        ("qgjet agent --sl", "--slots"),
        ("qgjob status --exit", "--exit-status"),
        ("qgjet dead re", "redrive"),
        ("qgjet job set", "set-priority"),
    ],
)
def test_a_shell_completes_commands_and_flags(words: str, found: str) -> None:
    """Also those of commands that are only imported when they are called."""
    program = words.split()[0]
    completing = {
        f"_{program.upper()}_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    command = [str(Path(sys.executable).with_name(program))]
    ended = subprocess.run(
        command,
        env=os.environ | completing,
        capture_output=True,
        text=True,
        timeout=patience(30),
        check=False,
    )
    assert ended.stdout.split() == [found], ended.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("list --limit 3 --status queued", "job list --limit 3 --status queued"),
        ("artifacts J --attempt 2", "job artifacts J --attempt 2"),
        ("cancel J K --reason r", "job cancel J K --reason r"),
        ("cancel --suite S", "suite cancel --suite S"),
        ("rerun --failed S", "suite rerun --failed S"),
        ("priority J 3", "job set-priority J 3"),
        ("status J --exit-status", "job show J --exit-status"),
        ("logs J -f", "job logs J -f"),
        ("wait S --timeout 5m", "suite wait S --timeout 5m"),
        ("tests list --limit 5", "test list --limit 5"),
        ("pause --target T --for 5m", "queue pause --target T --for 5m"),
        ("resume --target T", "queue resume --target T"),
        ("agents --json", "agent list --json"),
        ("drain A", "agent drain A"),
        ("queue --json", "queue show --json"),
        ("agent --target T --slots 2", "agent start --target T --slots 2"),
        ("suites --limit 3", "suite list --limit 3"),
    ],
)
def test_what_version_0_1_called_a_command_means_the_same(old: str, new: str) -> None:
    def parsed(line: str) -> dict[str, object]:
        words = line.split()
        main._register_heavy(words)
        group = typer.main.get_command(main.app)
        context = group.make_context("qgjet", words)
        while isinstance(group, typer.core.TyperGroup) and (
            left := [*context._protected_args, *context.args]
        ):
            name, group, rest = group.resolve_command(context, left)
            context = group.make_context(name, rest, parent=context)
        return context.params

    before, after = parsed(old), parsed(new)
    assert {key: before.get(key) for key in after} == after
