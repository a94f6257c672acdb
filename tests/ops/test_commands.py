"""`qgjet agent`, `serve` and `up` as people and supervisors run them: real processes, real signals."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from pathlib import Path

import httpx
import pytest

from agents import eventually
from factories import spec
from ops.commands import qgjet, qgjet_ends
from qgjet.config.settings import QueueSettings
from qgjet.domain.events import JobSpec, Status
from qgjet.domain.subjects import Lane
from qgjet.jetstream.connection import Connection
from qgjet.jetstream.server import NatsServer
from qgjet.store import agent_registry
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue

WAITING = """
[targets.emulator]
runner = "command"
command = ["sh", "-c", 'echo "$QGJET_TEST" >>ran; until [ -e go ]; do sleep 0.02; done']

[targets.device]
runner = "scripted"
outcomes = { "*" = ["passed"] }
slots = 2
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / "qgjet.toml").write_text(WAITING)
    return directory


async def test_an_agent_serves_every_target_declared(
    connection: Connection, log: EventLog, server: NatsServer, project: Path
) -> None:
    async with qgjet("agent", "--nats", server.url, "--name", "lab-1", cwd=project) as running:
        assert "emulator (1 slot), device (2 slots)" in await running.says("serves")
        (info,) = await eventually(lambda: agent_registry.agents(connection))
        assert {(one.target, one.slots) for one in info.targets} == {("emulator", 1), ("device", 2)}
        assert (info.name, info.slots, info.app_version_id) == ("lab-1", 3, "all")


async def test_an_agent_takes_the_flags_of_old(
    connection: Connection, server: NatsServer, project: Path
) -> None:
    flags = (
        "--target",
        "emulator",
        "--app-version-id",
        "all",
        "--slots",
        "1",
        "--batch",
        "2",
        "--execution-timeout",
        "90s",
    )
    async with qgjet("agent", *flags, cwd=project, QGJET_NATS_URL=server.url) as running:
        await running.says("serves emulator (1 slot) on")
        (info,) = await eventually(lambda: agent_registry.agents(connection))
        assert [one.target for one in info.targets] == ["emulator"]


async def test_the_first_signal_finishes_what_runs_and_gives_back_the_rest(
    log: EventLog, server: NatsServer, project: Path
) -> None:
    await _submit(log, spec(test="tests/a.spec.js"), spec(test="tests/b.spec.js"))
    async with qgjet("agent", "--nats", server.url, "--target", "emulator", cwd=project) as running:
        await eventually(lambda: _lines(project / "ran"))
        running.signal(signal.SIGTERM)
        await running.says("draining: 1 running")
        (project / "go").touch()
        assert await running.ends() == 0
    (ran,) = await _lines(project / "ran")
    jobs = {
        test: await log.load(spec(test=test).slot)
        for test in ("tests/a.spec.js", "tests/b.spec.js")
    }
    assert {test: job.status for test, job in jobs.items() if job} == {
        test: Status.DONE if test == ran else Status.QUEUED for test in jobs
    }


async def _submit(log: EventLog, *specs: JobSpec) -> None:
    """As a client does: with the lane's consumer, so that an agent which comes later finds it."""
    for one in specs:
        await log.submit(one)
        await Queue(log.connection, QueueSettings()).ensure(Lane(one.partition, one.rank))


async def _lines(file: Path) -> list[str]:
    return file.read_text().split() if file.exists() else []


async def test_the_second_signal_stops_what_runs_and_gives_it_back(
    log: EventLog, server: NatsServer, project: Path
) -> None:
    await _submit(log, spec())
    async with qgjet("agent", "--nats", server.url, "--target", "emulator", cwd=project) as running:
        await eventually(lambda: _lines(project / "ran"))
        running.signal(signal.SIGINT)
        await running.says("draining: 1 running")
        running.signal(signal.SIGINT)
        assert await running.ends() == 130
    job = await log.load(spec().slot)
    assert job is not None
    assert (job.status, job.attempt) == (Status.QUEUED, 1)


async def test_an_agent_says_what_is_wrong(project: Path, tmp_path: Path) -> None:
    code, text = await qgjet_ends("agent", "--target", "emulater", cwd=project)
    assert (code, "--target: emulater: no such target; declared are emulator, device" in text) == (
        2,
        True,
    ), text
    code, text = await qgjet_ends("agent", cwd=tmp_path)
    assert (code, "declares no targets" in text) == (2, True), text
    code, text = await qgjet_ends("agent", "--batch", "0", cwd=project)
    assert code == 2, text


async def test_an_agent_without_a_server_ends_with_4_and_one_line_that_says_what_to_do(
    project: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code, text = await qgjet_ends("agent", "--nats", f"nats://127.0.0.1:{port}", cwd=project)
    assert (code, len(text.splitlines())) == (4, 1), text
    assert f"no NATS server at nats://127.0.0.1:{port}" in text
    assert "refused" in text
    assert "Start one with `qgjet up`, or correct its address" in text


async def test_an_agent_serves_a_log_whose_priorities_are_ranked_otherwise(
    server: NatsServer, project: Path
) -> None:
    async with qgjet(
        "serve",
        "--nats",
        server.url,
        "--port",
        "0",
        cwd=project,
        QGJET_QUEUE_PRIORITY_ORDER="high-first",
    ) as api:
        await api.says("API on")
        async with qgjet("agent", "--nats", server.url, cwd=project) as agent:
            await agent.says("serves")


async def test_serve_answers_and_ends_on_the_first_signal(
    server: NatsServer, project: Path, tmp_path: Path
) -> None:
    database = tmp_path / "elsewhere" / "read-model.sqlite"
    async with qgjet(
        "serve", "--nats", server.url, "--port", "0", "--database", str(database), cwd=project
    ) as running:
        found = re.search(r"API on (\S+),", await running.says("API on"))
        assert found is not None
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{found[1]}/healthz")).json() == {"status": "ok"}
        assert database.exists()
        running.signal(signal.SIGTERM)
        assert await running.ends() == 0


async def test_serve_says_that_its_port_is_in_use(server: NatsServer, project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, text = await qgjet_ends(
            "serve", "--nats", server.url, "--port", str(taken.getsockname()[1]), cwd=project
        )
    assert (code, "cannot listen" in text) == (2, True), text


async def test_up_runs_everything_until_a_signal(project: Path) -> None:
    async with qgjet("up", "--port", "0", "--nats-port", "0", cwd=project) as running:
        url = (await running.says("API")).split()[1]
        nats = (await running.says("NATS")).split()[1]
        await running.says("emulator")
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.get("/docs")).status_code == 200
            body = {
                "org_id": "acme",
                "app_version_id": "1",
                "test_path": "tests/a.spec.js",
                "target": "device",
            }
            job_id = (await client.post("/submit", json=body)).json()["job_id"]

            async def done() -> bool:
                return (await client.get(f"/status/{job_id}")).json()["status"] == "done"

            await eventually(done)
        running.signal(signal.SIGINT)
        assert await running.ends() == 0, running.text
    host, port = nats.removeprefix("nats://").split(":")
    with socket.socket() as probe:
        assert probe.connect_ex((host, int(port))) != 0
    assert {entry.name for entry in (project / ".qgjet").iterdir()} >= {"nats", "read-model.sqlite"}


async def test_up_drains_on_the_first_signal_and_stops_on_the_second(project: Path) -> None:
    async with qgjet("up", "--port", "0", "--nats-port", "0", cwd=project) as running:
        url = (await running.says("API")).split()[1]
        async with httpx.AsyncClient(base_url=url) as client:
            body = {
                "org_id": "acme",
                "app_version_id": "1",
                "test_path": "tests/a.spec.js",
                "target": "emulator",
            }
            await client.post("/submit", json=body)
            await eventually(lambda: _lines(project / "ran"))
        running.signal(signal.SIGTERM)
        await running.says("draining: 1 running")
        running.signal(signal.SIGTERM)
        assert await running.ends() == 143


async def test_up_ends_with_4_when_its_server_dies(project: Path) -> None:
    async with qgjet("up", "--port", "0", "--nats-port", "0", "--no-agent", cwd=project) as running:
        await running.says("No agent runs here")
        (pid,) = await asyncio.to_thread(_children, running.process.pid, "nats-server")
        os.kill(pid, signal.SIGKILL)
        assert await running.ends() == 4, running.text
        assert "the embedded NATS server ended" in running.text


def _children(parent: int, program: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        if name == program and int(rest.split()[1]) == parent:
            found.append(int(entry.name))
    return found
