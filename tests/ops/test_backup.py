"""A backup that is taken while work goes on, and what a server makes of it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from agents import agree, ended, eventually, running_agent, scripted, submit
from cli.commandline import Cli, api_of
from factories import spec
from ops.commands import ROOT
from patience import patience
from qgjet.config.settings import ApiSettings, QueueSettings, Settings
from qgjet.domain.deployment import Deployment
from qgjet.domain.events import Status, Verdict
from qgjet.domain.subjects import LOGS, STREAM, Lane
from qgjet.errors import Conflict, InvalidInput, NatsUnavailable
from qgjet.jetstream.connection import Connection, connect
from qgjet.jetstream.server import NatsServer, nats_server
from qgjet.store import backup
from qgjet.store.artifacts import ArtifactStore, object_name
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue
from qgjet_cli.exits import Exit
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.readmodel.projector import Projector
from security.guarded import guarded_server, variables_of


@pytest.fixture
async def elsewhere(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with nats_server(tmp_path / "elsewhere") as running:
        yield running


async def read_artifact(connection: Connection, name: str) -> bytes:
    store = ArtifactStore(connection)
    info = await store.stat(name)
    assert info is not None
    return b"".join([piece async for piece in store.get(info)])


async def test_a_backup_under_load_brings_back_what_was_there(
    log: EventLog, tmp_path: Path, elsewhere: NatsServer
) -> None:
    """Jobs in every state, artifacts, and clients that go on submitting: queued and running jobs
    run to their end on the other server.
    """
    gate, content = asyncio.Event(), b"\x00report" * 50_000
    done, running, queued = (spec(test=test) for test in ("done", "running", "queued"))
    async with running_agent(log, tmp_path, runners=scripted({"running": ("passed",)}, gate=None)):
        await submit(log, done)
        await ended(log, done.slot)
    await ArtifactStore(log.connection).put(
        object_name(done.job_id, 1, "report.bin"), io.BytesIO(content)
    )
    more = [spec(test=f"more {number}") for number in range(3_000)]
    async with running_agent(log, tmp_path, runners=scripted(gate=gate)):
        await submit(log, running)
        await eventually(lambda: _is(log, running.slot, Status.RUNNING))
        await submit(log, queued)
        submitting = asyncio.create_task(log.submit_many(more))
        manifest = await backup.save(log.connection, tmp_path / "backup")
        answers = await submitting
        gate.set()
    assert not [one for one in answers if isinstance(one, Exception)], "nobody notices a backup"
    assert [one.name for one in manifest.streams] == list(backup.KEPT)
    async with connect(elsewhere.url, name="test") as connection:
        await backup.restore(connection, tmp_path / "backup")
        there = EventLog(connection)
        state = await there.state()
        assert await there.history(done.slot) == await log.history(done.slot)
        assert [await there.get(seq) for seq in range(1, state.last_seq + 1, 97)] == [
            await log.get(seq) for seq in range(1, state.last_seq + 1, 97)
        ]
        assert await read_artifact(connection, object_name(done.job_id, 1, "report.bin")) == content
        await agree(connection, Deployment(visibility_timeout_s=1.5))
        await Queue(connection, QueueSettings(visibility_timeout_s=1.5)).renew(
            Lane(queued.partition, queued.rank)
        )
        async with running_agent(there, tmp_path / "agent", slots=2):
            for one in (queued, running):
                assert (await ended(there, one.slot, within_s=20)).verdict is Verdict.PASSED


async def _is(log: EventLog, slot: object, status: Status) -> bool:
    job = await log.load(slot)  # type: ignore[arg-type]
    return job is not None and job.status is status


async def test_commands_save_and_restore_and_the_api_builds_its_read_model_anew(
    log: EventLog, tmp_path: Path, elsewhere: NatsServer
) -> None:
    """The recipe of docs/operations.md: an API that knows the lost server finds the restored one in
    its place.
    """
    cli = Cli(tmp_path, QGJET_NATS_URL=log.connection.url)
    job, lost = spec(), spec(test="after the backup")
    await submit(log, job)
    saved = await cli("backup", "monday")
    assert saved.code == 0, saved.err
    assert "QG_EVENTS" in saved.out
    assert "1 message" in saved.out
    read_model = ReadModel.open(tmp_path / "api.sqlite")
    accepted = await log.submit(lost)
    async with Projector(log, read_model) as projector:
        assert await projector.wait_for(accepted.seq, patience(5))
    read_model.close()
    restored = await cli("restore", "monday", "--json", "--nats", elsewhere.url)
    assert restored.code == 0, restored.err
    assert restored.json["streams"][0]["last_seq"] == 1
    settings = Settings(
        nats_url=elsewhere.url, api=ApiSettings(port=0, database=str(tmp_path / "api.sqlite"))
    )
    async with api_of(settings) as url, httpx.AsyncClient(base_url=url) as client:

        async def listed() -> bool:
            found = await client.get("/jobs")
            return [one["job_id"] for one in found.json()["jobs"]] == [job.job_id]

        await eventually(listed, what="the jobs of the backup, and no other")


async def test_both_go_to_a_server_that_wants_a_password(log: EventLog, tmp_path: Path) -> None:
    await log.submit(spec())
    await backup.save(log.connection, tmp_path / "monday")
    async with guarded_server(tmp_path / "guarded") as server:
        cli = Cli(tmp_path, QGJET_NATS_URL=server.url, **variables_of(server, "operator"))
        restored = await cli("restore", "monday")
        assert restored.code == 0, restored.err
        saved = await cli("backup", "tuesday")
        assert saved.code == 0, saved.err
    assert backup.read_manifest(tmp_path / "tuesday").streams[0].messages == 1


async def test_a_server_that_has_streams_is_not_touched_unless_asked(
    log: EventLog, tmp_path: Path
) -> None:
    cli = Cli(tmp_path, QGJET_NATS_URL=log.connection.url)
    await log.submit(spec())
    await backup.save(log.connection, tmp_path / "backup")
    await log.submit(spec(test="later"))
    refused = await cli("restore", "backup")
    assert (refused.code, "--replace" in refused.error, STREAM in refused.error) == (
        Exit.USAGE,
        True,
        True,
    )
    assert (await log.state()).last_seq == 2
    with pytest.raises(InvalidInput, match="exists"):
        await backup.save(log.connection, tmp_path / "backup")
    await backup.restore(log.connection, tmp_path / "backup", replace=True)
    assert (await log.state()).last_seq == 1


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: (path / "manifest.json").unlink(), "is no backup"),
        (lambda path: (path / "manifest.json").write_text("{"), "cannot be read"),
        (lambda path: (path / STREAM / "stream.tar.s2").write_bytes(b"other"), "damaged"),
        (lambda path: (path / LOGS / "stream.tar.s2").unlink(), "not whole"),
        (lambda path: (path / STREAM / "backup.json").unlink(), "not whole"),
        (lambda path: (path / STREAM / "backup.json").write_bytes(b'{"config": {'), "damaged"),
        (
            lambda path: (path / STREAM / "backup.json").write_bytes(
                (path / LOGS / "backup.json").read_bytes()
            ),
            "damaged",
        ),
        (
            lambda path: (path / "manifest.json").write_text(
                (path / "manifest.json").read_text().replace('"format": 1', '"format": 2')
            ),
            "use that version",
        ),
    ],
)
async def test_a_backup_that_is_not_whole_is_refused_before_anything_is_touched(
    log: EventLog, tmp_path: Path, harm, said: str
) -> None:  # type: ignore[no-untyped-def]
    await log.submit(spec())
    await backup.save(log.connection, tmp_path / "backup")
    harm(tmp_path / "backup")
    with pytest.raises(InvalidInput, match=said):
        await backup.restore(log.connection, tmp_path / "backup", replace=True)
    assert (await log.state()).last_seq == 1


async def test_a_server_that_goes_away_leaves_no_half_backup(
    server: NatsServer, log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "STALL_S", 1.0)
    await log.submit_many([spec(test=f"{number}") for number in range(3_000)])
    written = backup._Snapshot._next

    async def die(snapshot: backup._Snapshot) -> object:
        if snapshot.size:
            server.kill()
        return await written(snapshot)

    monkeypatch.setattr(backup._Snapshot, "_next", die)
    with pytest.raises(NatsUnavailable):
        await backup.save(log.connection, tmp_path / "backup")
    assert not list(tmp_path.glob("backup*"))


async def test_there_is_nothing_to_save_on_a_server_without_a_log(
    server: NatsServer, tmp_path: Path
) -> None:
    async with connect(server.url, name="test") as connection:
        with pytest.raises(Conflict, match="nothing to save"):
            await backup.save(connection, tmp_path / "backup")


async def test_the_nats_command_restores_it_too(
    log: EventLog, tmp_path: Path, elsewhere: NatsServer
) -> None:
    await log.submit(spec())
    await backup.save(log.connection, tmp_path / "backup")
    argv = [
        str(ROOT / ".tools/bin/nats"),
        "--server",
        elsewhere.url,
        "stream",
        "restore",
        str(tmp_path / "backup" / STREAM),
        "--no-progress",
    ]
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    async with connect(elsewhere.url, name="test") as connection:
        assert (await EventLog(connection).read(spec().slot)) == (await log.read(spec().slot))
