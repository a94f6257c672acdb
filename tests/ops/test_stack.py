"""Everything in one process tree: it serves, it ends as one, and it leaves nothing."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from agents import eventually
from factories import spec
from ops.commands import DEADLINE_S, environment
from patience import patience
from qgjet.config.loader import load_settings
from qgjet.config.settings import Settings
from qgjet.domain.events import Status
from qgjet.errors import IncompatibleServer, InvalidSettings, NatsUnavailable
from qgjet.jetstream.connection import connect
from qgjet.jetstream.server import NatsServer
from qgjet.store.event_log import EventLog
from qgjet_projections.serving.local_stack import LocalStack

SCRIPTED = """
[targets.emulator]
runner = "scripted"
outcomes = { "*" = ["passed"] }
"""
SLOW = """
[targets.emulator]
runner = "command"
command = ["sh", "-c", "echo $$ > pid; exec sleep 600"]
"""


def settings(text: str, directory: Path = Path()) -> Settings:
    read = load_settings(text)
    return load_settings(
        text, flags={f"targets.{name}.dir": str(directory) for name in read.targets}
    )


async def submitted(url: str, **fields: Any) -> str:
    async with connect(url, name="test") as connection:
        return (await EventLog(connection).submit(spec(**fields))).job_id


async def status(url: str, **fields: Any) -> Status | None:
    async with connect(url, name="test") as connection:
        job = await EventLog(connection).load(spec(**fields).slot)
        return job.status if job else None


async def test_a_job_is_run_and_the_api_knows_it() -> None:
    async with LocalStack(settings(SCRIPTED)) as stack:
        job_id = await submitted(stack.nats_url, target="emulator")
        async with httpx.AsyncClient(base_url=stack.api_url) as api:

            async def done() -> bool:
                answer = await api.get(f"/jobs/{job_id}")
                return answer.status_code == 200 and answer.json()["status"] == "done"

            await eventually(done)
            assert (await api.get("/readyz")).status_code == 200
            assert len((await api.get("/agents")).json()["agents"]) == 1


async def test_nothing_is_left_after_the_block() -> None:
    async with LocalStack(settings(SCRIPTED)) as stack:
        port = int(stack.nats_url.rsplit(":", 1)[1])
        directory = Path(stack.settings.api.database).parent
        assert directory.is_dir()
    assert not directory.exists()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


async def test_what_runs_at_the_end_of_the_block_is_stopped_and_given_back(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with LocalStack(settings(SLOW, tmp_path), data_dir=data) as stack:
        await submitted(stack.nats_url, target="emulator")
        pid = await eventually(lambda: _pid(tmp_path))
    assert not Path(f"/proc/{pid}").exists()
    async with LocalStack(settings(SLOW, tmp_path), data_dir=data, with_agent=False) as again:
        assert await status(again.nats_url, target="emulator") is Status.QUEUED


async def _pid(directory: Path) -> str:
    file = directory / "pid"
    return file.read_text().strip() if file.exists() else ""


async def test_a_drain_finishes_what_runs(tmp_path: Path) -> None:
    text = SLOW.replace("exec sleep 600", "while [ ! -e go ]; do sleep 0.02; done")
    async with LocalStack(settings(text, tmp_path)) as stack:
        assert stack.agent is not None
        await submitted(stack.nats_url, target="emulator")
        await eventually(lambda: _pid(tmp_path))
        stack.agent.drain()
        (tmp_path / "go").touch()
        async with asyncio.timeout(patience(DEADLINE_S)):
            await stack.agent_ended()
        assert await status(stack.nats_url, target="emulator") is Status.DONE


async def test_the_death_of_the_server_ends_the_block_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[NatsServer] = []
    start = NatsServer.start

    async def remembered(self: NatsServer) -> None:
        await start(self)
        started.append(self)

    monkeypatch.setattr(NatsServer, "start", remembered)

    async def body() -> None:
        async with LocalStack(settings(SCRIPTED)):
            (server,) = started
            assert server.process is not None
            server.process.kill()
            await asyncio.Event().wait()

    with pytest.raises(NatsUnavailable, match="NATS server ended"):
        await body()


async def test_a_cancellation_from_outside_stays_one() -> None:
    entered = asyncio.Event()

    async def body() -> None:
        async with LocalStack(settings(SCRIPTED)):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_block_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        async with LocalStack(settings(SCRIPTED)):
            raise ZeroDivisionError


async def test_without_targets_there_is_no_stack_but_there_may_be_one_without_an_agent() -> None:
    with pytest.raises(InvalidSettings, match="declares no targets"):
        LocalStack(Settings())
    async with LocalStack(Settings(), with_agent=False) as stack:
        await stack.agent_ended()


async def test_a_port_in_use_is_said_so() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(InvalidSettings, match="cannot listen"),
    ):
        async with LocalStack(settings(SCRIPTED), api_port=taken.getsockname()[1]):
            pass


async def test_two_stacks_do_not_share_a_directory(tmp_path: Path) -> None:
    async with LocalStack(settings(SCRIPTED), data_dir=tmp_path):
        with pytest.raises(InvalidSettings, match="in use by another qgjet"):
            async with LocalStack(settings(SCRIPTED), data_dir=tmp_path):
                pass


async def test_what_was_stored_is_there_again(tmp_path: Path) -> None:
    async with LocalStack(settings(SCRIPTED), data_dir=tmp_path, with_agent=False) as stack:
        await submitted(stack.nats_url, target="emulator")
    async with LocalStack(settings(SCRIPTED), data_dir=tmp_path) as stack:

        async def done() -> bool:
            return await status(stack.nats_url, target="emulator") is Status.DONE

        await eventually(done)
    with pytest.raises(IncompatibleServer, match="priority_order is low-first"):
        async with LocalStack(
            settings(SCRIPTED + '[queue]\npriority_order = "high-first"'), data_dir=tmp_path
        ):
            pass


async def test_settings_for_a_cluster_do_not_get_in_the_way() -> None:
    async with LocalStack(settings(SCRIPTED + "[queue]\nreplicas = 3")) as stack:
        assert stack.settings.queue.replicas == 1


OWNER = """
import asyncio, os, sys
from qgjet.config.loader import load_settings
from qgjet_projections.serving import local_stack

if "elsewhere" in sys.argv:  # as where the kernel does not help
    from qgjet.jetstream import server
    server._libc = None
    local_stack.sys = type("sys", (), {"platform": "darwin", "executable": sys.executable})

async def main():
    text = '[targets.emulator]\\nrunner = "command"\\ncommand = ["sh", "-c", "echo $$ > pid; exec sleep 600"]'
    async with local_stack.LocalStack(load_settings(text)) as one:
        print(one.nats_url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("where", ["linux", "elsewhere"])
async def test_neither_server_nor_jobs_outlive_a_killed_owner(tmp_path: Path, where: str) -> None:
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    pipe = asyncio.subprocess.PIPE
    owner = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        where,
        cwd=tmp_path,
        env=environment(TMPDIR=str(tmp_path)),
        stdout=pipe,
    )
    try:
        assert owner.stdout is not None
        url = (await owner.stdout.readline()).decode().strip()
        await submitted(url, target="emulator")
        job = await eventually(lambda: _pid(tmp_path))
    finally:
        owner.kill()
        await owner.communicate()
    host, port = url.removeprefix("nats://").split(":")

    async def gone() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) != 0 and not Path(f"/proc/{job}").exists()

    await eventually(gone, what="server and job are gone")
    assert owner.returncode == -signal.SIGKILL
