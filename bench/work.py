"""Jobs for the benchmarks, and the processes that serve them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from qgjet import streams
from qgjet.agents.agent import Agent
from qgjet.agents.scripted import ScriptedRunner
from qgjet.bus import connect
from qgjet.clock import utc_now
from qgjet.embedded import NatsServer, nats_server
from qgjet.events import JobSpec
from qgjet.log import EventLog
from qgjet.settings import AgentSettings, QueueSettings

QUEUE = QueueSettings()


def specs(count: int, name: str) -> list[JobSpec]:
    """Jobs of one lane, with paths as long as real ones."""
    now = utc_now()
    return [
        JobSpec(
            job_id=str(uuid.uuid4()),
            org_id="bench",
            app_version_id=name,
            target="bench",
            test=f"tests/checkout/{number:06d}.spec.ts",
            submitted_at=now,
        )
        for number in range(count)
    ]


@contextlib.asynccontextmanager
async def broker() -> AsyncIterator[tuple[NatsServer, EventLog]]:
    """A server with the shipped nats.conf and an empty log."""
    with tempfile.TemporaryDirectory(prefix="qgjet-bench-") as directory:
        async with nats_server(Path(directory)) as server, connect(server.url, name="bench") as bus:
            await streams.ensure(bus)
            yield server, EventLog(bus)


async def serve(url: str, slots: int) -> None:
    """One agent with the scripted runner, until it is ended."""
    with tempfile.TemporaryDirectory(prefix="qgjet-bench-") as directory:
        async with connect(url, name="bench-agent") as bus:
            agent = Agent(EventLog(bus), {"bench": ScriptedRunner({})}, {"bench": slots}, Path(directory), AgentSettings(), QUEUE)
            print("ready", flush=True)
            await agent.run()


@contextlib.contextmanager
def process(role: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m bench <role> …`, ended with the block."""
    started = subprocess.Popen([sys.executable, "-m", "bench", role, *arguments], stdout=subprocess.PIPE)
    try:
        assert started.stdout is not None
        assert started.stdout.readline(), f"{role} did not start"
        yield started
    finally:
        started.kill()
        started.wait()
