"""Jobs for the benchmarks, and the processes that serve them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import nats

from qgjet.agent.agent import Agent
from qgjet.config.settings import AgentSettings, QueueSettings
from qgjet.domain import codec
from qgjet.domain.decide import Submit, decide
from qgjet.domain.events import JobSpec
from qgjet.domain.subjects import STREAM
from qgjet.jetstream.connection import connect
from qgjet.jetstream.server import NatsServer, nats_server
from qgjet.runners.scripted import ScriptedRunner
from qgjet.store import streams
from qgjet.store.event_log import EventLog
from qgjet.support.clock import utc_now

QUEUE = QueueSettings()
REFERENCE = "bench.reference"
"""Subject of a stream beside the log, for plain publishes."""


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
        async with (
            nats_server(Path(directory)) as server,
            connect(server.url, name="bench") as connection,
        ):
            await streams.ensure(connection)
            await connection.api(
                "STREAM.CREATE.BENCH", {"name": "BENCH", "subjects": [REFERENCE], "storage": "file"}
            )
            yield server, EventLog(connection)


async def serve(url: str, slots: int) -> None:
    """One agent with the scripted runner, until it is ended."""
    with tempfile.TemporaryDirectory(prefix="qgjet-bench-") as directory:
        async with connect(url, name="bench-agent") as connection:
            agent = Agent(
                EventLog(connection),
                {"bench": ScriptedRunner({})},
                {"bench": slots},
                Path(directory),
                AgentSettings(),
                QUEUE,
            )
            print("ready", flush=True)
            await agent.run()


async def move(url: str, workers: int) -> None:
    """What an agent says to the server for each job, in nats-py and nothing else, until it is
    ended: pull, two fenced events, acknowledgement.
    """
    client = await nats.connect(url)
    stream = client.jetstream()
    (info,) = await stream.consumers_info(STREAM)
    payload = codec.encode(decide(Submit(specs(1, "raw")[0]), None, utc_now()))

    async def work() -> None:
        subscription = await stream.pull_subscribe_bind(consumer=info.name, stream=STREAM)
        while True:
            with contextlib.suppress(nats.errors.TimeoutError):
                (message,) = await subscription.fetch(1, timeout=5)
                seq, prefix = (
                    message.metadata.sequence.stream,
                    message.subject.removesuffix(".submitted.p5"),
                )
                for event in ("started", "finished"):
                    fence = {
                        "Nats-Expected-Last-Subject-Sequence": str(seq),
                        "Nats-Expected-Last-Subject-Sequence-Subject": f"{prefix}.>",
                    }
                    seq = (await stream.publish(f"{prefix}.{event}", payload, headers=fence)).seq
                await message.ack()

    print("ready", flush=True)
    await asyncio.gather(*(work() for _ in range(workers)))


@contextlib.contextmanager
def process(role: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m bench <role> …`, ended with the block, and what it kept in its temporary directory
    deleted.
    """
    with tempfile.TemporaryDirectory(prefix="qgjet-bench-") as directory:
        started = subprocess.Popen(
            [sys.executable, "-m", "bench", role, *arguments],
            stdout=subprocess.PIPE,
            env={**os.environ, "TMPDIR": directory},
        )
        try:
            assert started.stdout is not None
            assert started.stdout.readline(), f"{role} did not start"
            yield started
        finally:
            started.kill()
            started.wait()
