"""Purges all the time, below clients that submit, race and cancel: no accepted job is lost, and no
slot has two.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from datetime import timedelta
from pathlib import Path

import pytest

from factories import spec
from faults.watched import patiently
from patience import patience
from projections.histories import content
from qgjet.domain.events import Status
from qgjet.domain.job import fold
from qgjet.errors import NatsUnavailable
from qgjet.jetstream.connection import Connection, connect
from qgjet.jetstream.server import NatsServer
from qgjet.store import streams
from qgjet.store.event_log import Accepted, EventLog
from qgjet_projections.maintenance import retention as retentions
from qgjet_projections.maintenance.retention import Retention
from qgjet_projections.readmodel import ReadModel, schema
from qgjet_projections.readmodel.projector import Projector
from soak.cluster import cluster

SLOTS = 60
ROUNDS = 20
DAY = timedelta(days=1)


async def race(log: EventLog, test: str) -> str:
    """Three clients want the slot: one gets it, the others hear of that one's job. Gives its id."""
    wanted = [spec(test=test) for _ in range(3)]
    answers: list[Accepted] = await asyncio.gather(
        *(patiently(lambda one=one: log.submit(one)) for one in wanted)
    )
    (winner,) = {answer.job_id for answer in answers}
    assert [answer.job_id for answer in answers if not answer.attached] == [winner]
    return winner


async def client(log: EventLog, test: str) -> str:
    rng = random.Random(test)
    for _ in range(ROUNDS):
        job_id = await race(log, test)
        await patiently(lambda job_id=job_id: log.cancel(spec(test=test).slot, job_id, by="me"))
        await asyncio.sleep(
            rng.uniform(0.0, 1.5)
        )  # now before, now in the middle of, now after a purge
    return await race(log, test)


async def rage(
    connection: Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    break_it: NatsServer | None,
) -> int:
    """Gives the number of events that were purged."""
    monkeypatch.setattr(retentions, "PACE_S", 0.0)
    log, purged = EventLog(connection), 0
    late = EventLog(connection, lambda: log.clock() + 2 * DAY)  # whatever has ended is old
    await streams.change_retention(connection, DAY.total_seconds())
    read_model = ReadModel.open(tmp_path / "read.sqlite")
    async with Projector(log, read_model, retention_s=0) as projector:
        retention = Retention(late, read_model, projector, purges=True)
        clients = asyncio.gather(*(client(log, f"{number}") for number in range(SLOTS)))
        while not clients.done():
            with contextlib.suppress(NatsUnavailable):
                purged += (await retention.round()).events
            if purged > SLOTS * 4 and break_it is not None:
                break_it.kill()
                await break_it.start()
                break_it = None
            await asyncio.sleep(0.05)
        assert break_it is None, "nothing was purged in time to break anything"
        for number, job_id in enumerate(await clients):
            job, version = await patiently(
                lambda number=number: log.read(spec(test=f"{number}").slot)
            )
            assert job is not None
            assert (job.job_id, job.status) == (job_id, Status.QUEUED)
            history = await log.history(spec(test=f"{number}").slot)
            assert fold((one.seq, one.event) for one in history if one.event) == job
            assert history[-1].seq == version
        for _ in range(3):
            await patiently(retention.round)
        assert await projector.wait_for((await log.state()).last_seq, patience(30))
    read_model.close()
    again = ReadModel.open(tmp_path / "again.sqlite")
    async with Projector(log, again, retention_s=0) as projector:
        assert await projector.wait_for((await log.state()).last_seq, patience(30))
    again.close()
    left, rebuilt = content(tmp_path / "read.sqlite"), content(tmp_path / "again.sqlite")
    assert [left[table] for table in schema.CONTENT] == [rebuilt[table] for table in schema.CONTENT]
    return purged


async def test_purges_below_racing_clients_lose_no_job(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await rage(connection, tmp_path, monkeypatch, break_it=None) > SLOTS


async def test_purges_on_a_cluster_whose_leader_dies_lose_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path / "cluster") as nodes:
        await nodes.ready()
        async with connect(nodes.url, name="retention", timeout_s=15.0) as connection:
            assert (
                await rage(connection, tmp_path, monkeypatch, break_it=await nodes.leader()) > SLOTS
            )
