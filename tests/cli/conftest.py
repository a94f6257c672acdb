"""A project, a server, and the ways to reach it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from agents import FAST, running_agent, scripted
from cli.commandline import ORG, TARGET, VERSION, Cli, Ended, Inside, Work, api_of
from qgjet.config.settings import ApiSettings, Settings
from qgjet.jetstream.server import NatsServer
from qgjet.store.event_log import EventLog
from qgjet_cli.main import main
from surroundings import is_ours


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An AppWright project as far as the CLI looks at it."""
    directory = tmp_path / "project"
    for name in ("a", "b", "c", "onboarding"):
        path = directory / "tests" / f"{name}.spec.js"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (directory / ".git").mkdir()  # no settings of directories above
    return directory


@pytest.fixture
def alone(project: Path) -> Cli:
    """Without any server configured."""
    return Cli(project)


@pytest.fixture
def inside(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Inside]:
    """A command in this process, whose loggers have their levels back afterwards: it quiets them
    for its terminal.
    """
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
    levels = [one.level for one in loggers]
    for name in [name for name in os.environ if is_ours(name)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(project)

    def run(*args: str, **variables: str) -> Ended:
        monkeypatch.setattr("sys.argv", ["qgjet", *args])
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Ended(int(ended.value.code or 0), out, err)

    yield run
    for one, level in zip(loggers, levels, strict=True):
        one.setLevel(level)


@pytest.fixture
def cli(project: Path, server: NatsServer) -> Cli:
    """Straight to NATS."""
    return Cli(
        project,
        QGJET_NATS_URL=server.url,
        QGJET_ORG_ID=ORG,
        QGJET_APP_VERSION_ID=VERSION,
        QGJET_TARGET=TARGET,
    )


@pytest.fixture
def api_settings(server: NatsServer, tmp_path: Path) -> Settings:
    return Settings(
        nats_url=server.url,
        queue=FAST,
        api=ApiSettings(port=0, database=str(tmp_path / "read.sqlite")),
    )


@pytest.fixture
async def api(api_settings: Settings) -> AsyncIterator[str]:
    async with api_of(api_settings) as url:
        yield url


@pytest.fixture
def over_api(cli: Cli, api: str) -> Cli:
    """Through the API only."""
    return cli.with_variables(QGJET_NATS_URL="", QGJET_API_URL=api)


@pytest.fixture(params=["nats", "api"])
def either(request: pytest.FixtureRequest) -> Cli:
    """Both ways to a queue."""
    found: Cli = request.getfixturevalue({"nats": "cli", "api": "over_api"}[request.param])
    return found


@pytest.fixture
def work(log: EventLog, tmp_path: Path) -> Work:
    """`async with work({"tests/a.spec.js": ("failed",)}, slots=2, gate=…)`: an agent for the
    target.
    """

    def work(
        outcomes: dict[str, tuple[str, ...]] | None = None,
        *,
        gate: asyncio.Event | None = None,
        slots: int = 2,
    ) -> Any:
        directory = tmp_path / "work"
        directory.mkdir(exist_ok=True)
        return running_agent(log, directory, runners=scripted(outcomes, gate=gate), slots=slots)

    return work
