"""`qgjet logs`: the bytes of a job as they are, from its start to its end, and harmless on a
terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agents import ended, eventually, running_agent, submit
from cli.commandline import BIN, TARGET, Cli, api_of
from factories import spec
from qgjet.agent.agent import Agent
from qgjet.config.settings import ArtifactSettings, Settings, TargetSettings
from qgjet.domain.events import JobSpec
from qgjet.runners.registry import make_runner
from qgjet.store.event_log import EventLog
from qgjet_cli.commands.logs import harmless

Shell = Callable[..., contextlib.AbstractAsyncContextManager[Agent]]


@pytest.fixture
def shell(log: EventLog, tmp_path: Path) -> Shell:
    """An agent whose jobs run a script; `wait_for x` in it waits for the file `x` in the yard."""

    def shell(script: str, **artifacts: Any) -> contextlib.AbstractAsyncContextManager[Agent]:
        (tmp_path / "yard").mkdir(exist_ok=True)
        wait = 'wait_for() { while [ ! -e "$1" ]; do sleep 0.02; done; }\n'
        target = TargetSettings(
            name=TARGET,
            runner="command",
            dir=str(tmp_path / "yard"),
            command=("sh", "-c", wait + script, "sh", "{attempt}"),
        )
        settings = ArtifactSettings(**artifacts)
        return running_agent(
            log,
            tmp_path / "work",
            runners={TARGET: make_runner(target)},
            artifact_settings=settings,
        )

    return shell


def job(**fields: Any) -> JobSpec:
    return spec(**{"max_retries": 0, **fields})


async def test_the_output_of_an_ended_job_is_whole_and_as_it_was(
    over_api: Cli, log: EventLog, shell: Shell, tmp_path: Path
) -> None:
    one = job()
    async with shell(
        r"printf '\377\376one\033[31m\r\n'; head -c 2000000 /dev/zero | tr '\0' x; printf last"
    ):
        await submit(log, one)
        await ended(log, one.slot)
    process = await asyncio.create_subprocess_exec(
        str(BIN / "qgjet"),
        "logs",
        one.job_id,
        cwd=over_api.cwd,
        env=over_api.environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert out == b"\xff\xfeone\x1b[31m\r\n" + b"x" * 2_000_000 + b"last"


async def test_a_job_is_followed_from_the_queue_over_its_attempts_to_its_end(
    over_api: Cli, log: EventLog, shell: Shell
) -> None:
    one = job(max_retries=1)
    await submit(log, one)
    async with over_api.start("logs", "-f", one.job_id) as following:
        await following.says("queued: waiting for attempt 1")
        async with shell(r"printf 'attempt %s\nno end' $1; exit 1"):
            ending = await following.ends()
    assert ending.code == 0
    assert ending.out == "attempt 1\nno endattempt 2\nno end"
    assert "Attempt 2 begins" in ending.err


async def test_output_comes_while_the_job_runs(
    over_api: Cli, log: EventLog, shell: Shell, tmp_path: Path
) -> None:
    one = job()
    async with shell("seq 1 100; wait_for gate; echo after"):
        await submit(log, one)
        await eventually(lambda: _prints(over_api, one, "100\n"))
        assert (await over_api("logs", one.job_id, "--tail", "2")).out == "99\n100\n"
        async with over_api.start("logs", "-f", "--tail", "1", one.job_id) as following:
            (tmp_path / "yard" / "gate").touch()
            assert (await following.ends()).out in ("100\nafter\n", "after\n")
    assert (await over_api("logs", "-f", one.job_id, "--tail", "1")).out == "after\n"


async def _prints(cli: Cli, one: JobSpec, end: str) -> bool:
    return (await cli("logs", one.job_id)).out.endswith(end)


async def test_one_attempt_can_be_asked_for(over_api: Cli, log: EventLog, shell: Shell) -> None:
    one = job(max_retries=1)
    async with shell("echo attempt $1; exit 1"):
        await submit(log, one)
        await ended(log, one.slot)
    assert (await over_api("logs", one.job_id)).out == "attempt 2\n"
    assert (await over_api("logs", "--attempt", "1", one.job_id)).out == "attempt 1\n"
    assert (await over_api("logs", "-f", "--attempt", "1", one.job_id)).out == "attempt 1\n"


async def test_a_follower_outlasts_a_restart_of_the_api(
    cli: Cli, api_settings: Settings, log: EventLog, shell: Shell, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = replace(api_settings, api=replace(api_settings.api, port=port))
    over_api = cli.with_variables(QGJET_NATS_URL="", QGJET_API_URL=f"http://127.0.0.1:{port}")
    one = job()
    out, err = tmp_path / "out", tmp_path / "err"

    async def shows(path: Path, text: str) -> None:
        async def ask() -> bool:
            return text in path.read_text()

        await eventually(ask, within_s=20, what=f"{text!r} in {path.name}")

    async with shell(r"printf 'one\ntwo\nhal'; wait_for gate; printf 'f\nlast\n'"):
        with out.open("wb") as stdout, err.open("wb") as stderr:
            async with api_of(settings):
                await submit(log, one)
                await eventually(lambda: _prints(over_api, one, "hal"), within_s=20)
                following = await asyncio.create_subprocess_exec(
                    str(BIN / "qgjet"),
                    "logs",
                    "-f",
                    one.job_id,
                    cwd=over_api.cwd,
                    env=over_api.environment,
                    stdout=stdout,
                    stderr=stderr,
                )
                try:
                    await shows(out, "two\n")
                except BaseException:
                    following.kill()
                    raise
            try:
                await shows(err, "trying again")
                async with api_of(settings):
                    await shows(err, "answers again")
                    (tmp_path / "yard" / "gate").touch()
                    await following.wait()
            finally:
                if following.returncode is None:
                    following.kill()
                    await following.wait()
    assert (following.returncode, out.read_text()) == (0, "one\ntwo\nhalf\nlast\n")


async def test_an_unknown_job_is_an_error(over_api: Cli) -> None:
    for command in (("logs", "nobody"), ("logs", "-f", "nobody"), ("artifacts", "nobody")):
        found = await over_api(*command)
        assert (found.code, "no job nobody" in found.error) == (2, True)


async def test_it_needs_the_api(cli: Cli) -> None:
    found = await cli("logs", "x")
    assert (found.code, "needs the API" in found.error) == (2, True)


async def test_a_terminal_gets_colours_and_nothing_else_to_obey(
    over_api: Cli, log: EventLog, shell: Shell
) -> None:
    one = job()
    async with shell(r"printf '\033[31mred\033[0m\t\033]0;title\007\033[2J\r\n'"):
        await submit(log, one)
        await ended(log, one.slot)
    ours, theirs = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            str(BIN / "qgjet"),
            "logs",
            one.job_id,
            cwd=over_api.cwd,
            env=over_api.environment,
            stdin=theirs,
            stdout=theirs,
            stderr=asyncio.subprocess.PIPE,
        )
        assert (await process.communicate())[1] == b""
        assert os.read(ours, 10_000) == b"\x1b[31mred\x1b[0m\t\\x1b]0;title\\x07\\x1b[2J\r\n\x1b[0m"
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"plain \xc3\xa9\n", "plain é\n"),
        (b"\x1b[1;31mbold\x1b[0m", "\x1b[1;31mbold\x1b[0m"),
        (b"10%\r20%\r\n", "10%\\r20%\n"),
        (b"\x1b]52;c;aGk=\x07\x9b2J", "\\x1b]52;c;aGk=\\x07�2J"),
        ("a\u202eb\u2028".encode(), "a\\u202eb\\u2028"),
        (b"\x1b[31", "\\x1b[31"),
        (b"\x1b[2J\x1b[?25l", "\\x1b[2J\\x1b[?25l"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_instead(line: bytes, shown: str) -> None:
    assert harmless(line).decode() == shown


async def test_a_reader_that_leaves_is_no_error(over_api: Cli, log: EventLog, shell: Shell) -> None:
    one = job()
    async with shell("seq 1 300000"):
        await submit(log, one)
        await ended(log, one.slot)
    process = await asyncio.create_subprocess_shell(
        f"{BIN / 'qgjet'} logs {one.job_id} | head -n 1",
        cwd=over_api.cwd,
        env=over_api.environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert await process.communicate() == (b"1\n", b"")
