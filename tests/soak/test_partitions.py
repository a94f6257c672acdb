"""Builds come and go, day after day: many more partitions than the stream has consumers, and none
is refused or left behind.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from agents import FAST, eventually, running_agent, scripted
from factories import spec
from qgjet.domain.decide import OnDuplicate
from qgjet.domain.events import Verdict
from qgjet.domain.subjects import STREAM
from qgjet.jetstream.connection import Connection, connect
from qgjet.jetstream.server import NatsServer
from qgjet.store import streams
from qgjet.store.event_log import Accepted, EventLog
from qgjet_projections.maintenance.janitor import Janitor
from qgjet_projections.readmodel import JobQuery, ReadModel
from qgjet_projections.readmodel.projector import Projector
from soak.cluster import cluster

WAVE = 500
LASTING = replace(FAST, visibility_timeout_s=30.0)


@contextlib.asynccontextmanager
async def stream_of(path: Path, nodes: int, max_consumers: int) -> AsyncIterator[Connection]:
    """A connection to a server, or a cluster, whose log has room for so many consumers."""
    async with contextlib.AsyncExitStack() as stack:
        if nodes == 1:
            server = NatsServer(path / "nats")
            await server.start()
            stack.callback(server.stop)
            url = server.url
        else:
            several = await stack.enter_async_context(cluster(path / "cluster"))
            await several.ready()
            url = several.url
        connection = await stack.enter_async_context(
            connect(url, name="partitions", timeout_s=15.0)
        )
        with contextlib.suppress(streams.JetStreamError):
            await connection.api(f"STREAM.DELETE.{STREAM}", timeout_s=15.0)
        await streams.ensure(
            connection, replace(LASTING.deployment, max_consumers=max_consumers, replicas=nodes)
        )
        yield connection


@pytest.mark.parametrize(
    ("nodes", "partitions", "max_consumers"), [(1, 20_000, 2_000), (3, 5_000, 500)]
)
async def test_partitions_come_and_go(
    tmp_path: Path, nodes: int, partitions: int, max_consumers: int
) -> None:
    queue = replace(LASTING, replicas=nodes)
    jobs = [spec(app_version_id=f"{number}") for number in range(partitions)]
    most = 0
    async with stream_of(tmp_path, nodes, max_consumers) as connection:
        log, read_model = EventLog(connection), ReadModel.open(tmp_path / "read.sqlite")
        async with (
            Projector(log, read_model) as projector,
            Janitor(log, read_model, queue),
            running_agent(
                log, tmp_path / "work", runners=scripted({"*": ("passed",)}), slots=8, queue=queue
            ),
        ):
            for start in range(0, partitions, WAVE):
                answers = await log.submit_many(jobs[start : start + WAVE], OnDuplicate.REJECT)
                assert all(isinstance(answer, Accepted) for answer in answers)
                most = max(most, (await log.state()).consumers)

            async def all_passed() -> bool:
                counts = read_model.counts()
                return sum(counts.finished.values()) == partitions

            await eventually(all_passed, within_s=800, what="the end of all jobs")
            assert await projector.wait_for((await log.state()).last_seq, 60)
            assert read_model.counts().finished == {("emulator", Verdict.PASSED): partitions}
            assert {job.attempt for job in read_model.all_jobs(JobQuery())} == {1}
            assert most <= max_consumers

            async def gone() -> bool:
                return (await log.state()).consumers < 0.8 * max_consumers

            await eventually(gone, within_s=120, what="room for the next builds")
        read_model.close()
