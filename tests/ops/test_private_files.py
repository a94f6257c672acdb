"""What qgjet keeps is for its owner only, under a umask that opens all to others."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import ended, running_agent, submit
from factories import spec
from qgjet.config.settings import ApiSettings, Settings, TargetSettings
from qgjet.domain.events import Status
from qgjet.jetstream.server import NatsServer, nats_server
from qgjet.runners.registry import make_runner
from qgjet.store import backup
from qgjet.store.event_log import EventLog
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.service import open_service


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> str:
    return oct(stat.S_IMODE(path.stat().st_mode))


def open_to_others(directory: Path) -> list[str]:
    """Files and directories under `directory`, and itself, that others can reach. A closed
    directory closes what is in it.
    """
    if not stat.S_IMODE(directory.stat().st_mode) & 0o077:
        return []
    files = [
        str(path)
        for path in directory.iterdir()
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    return [
        str(directory),
        *files,
        *(name for path in directory.iterdir() if path.is_dir() for name in open_to_others(path)),
    ]


async def test_the_read_model_and_its_journals_are_private(
    server: NatsServer, tmp_path: Path
) -> None:
    directory = tmp_path / "data"
    database = directory / "read.sqlite"
    async with open_service(Settings(nats_url=server.url, api=ApiSettings(database=str(database)))):
        assert {path.name: mode(path) for path in directory.iterdir()} == dict.fromkeys(
            ("read.sqlite", "read.sqlite-wal", "read.sqlite-shm"), "0o600"
        )
    assert mode(directory) == "0o700"


async def test_a_start_tightens_what_older_versions_left_open(
    server: NatsServer, tmp_path: Path
) -> None:
    directory = tmp_path / ".qgjet"
    database = directory / "read.sqlite"
    ReadModel.open(database).close()
    damaged = database.with_name("read.sqlite.damaged")
    damaged.touch()
    database.chmod(0o644)
    directory.chmod(0o755)
    async with open_service(Settings(nats_url=server.url, api=ApiSettings(database=str(database)))):
        assert (mode(directory), mode(database), mode(damaged)) == ("0o700", "0o600", "0o600")


def test_a_directory_that_may_hold_files_of_others_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    ReadModel.open(tmp_path / "read.sqlite").close()
    assert (mode(tmp_path), mode(tmp_path / "read.sqlite")) == ("0o755", "0o600")


async def test_backups_are_private(log: EventLog, tmp_path: Path) -> None:
    await log.submit(spec())
    await backup.save(log.connection, tmp_path / "backups" / "one")
    saved = tmp_path / "backups" / "one"
    assert mode(saved) == "0o700"
    assert {mode(path) for path in saved.rglob("*") if path.is_file()} == {"0o600"}


async def test_the_embedded_server_keeps_its_data_private(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir(mode=0o755)
    async with nats_server(store):
        assert open_to_others(store) == []


async def test_what_jobs_leave_on_an_agent_is_private(log: EventLog, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir(mode=0o755)
    await submit(log, spec())
    runner = make_runner(
        TargetSettings(
            name="emulator", runner="command", dir=str(tmp_path), command=("echo", "{test}")
        )
    )
    async with running_agent(log, work, runners={"emulator": runner}, keep_attempts=True):
        assert (await ended(log, spec().slot)).status is Status.DONE
    (attempt,) = work.iterdir()
    assert list(attempt.iterdir()) != []
    assert mode(attempt) == "0o700"
