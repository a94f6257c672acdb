"""A node of a cluster that is cut off from the others, with an API that is connected to it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import httpx
import pytest

from agents import eventually
from cli.commandline import api_of
from factories import spec
from patience import patience
from qgjet.config.settings import ApiSettings, QueueSettings, Settings
from qgjet.errors import NatsUnavailable
from qgjet.jetstream.connection import connect
from qgjet.store.event_log import EventLog
from soak.cluster import cluster

pytestmark = pytest.mark.timeout(300)


async def test_an_api_at_a_leader_that_was_cut_off_does_not_deny_what_the_others_know(
    tmp_path: Path,
) -> None:
    async with cluster(tmp_path / "cluster", relayed=True) as nodes:
        await nodes.ready()
        old = await nodes.leader()
        other = next(node for node in nodes.nodes if node is not old)
        settings = Settings(
            nats_url=old.url,
            queue=QueueSettings(replicas=3),
            api=ApiSettings(port=0, database=str(tmp_path / "read.sqlite")),
        )
        async with (
            connect(other.url, name="test") as connection,
            api_of(settings) as url,
            httpx.AsyncClient(base_url=url, timeout=patience(20)) as api,
        ):
            log = EventLog(connection)
            assert (await log.state()).leads
            assert (await api.get("/jobs/nobody")).status_code == 404
            for relay in nodes.relays_of(old):
                relay.hold()

            async def elected() -> bool:
                with contextlib.suppress(NatsUnavailable):
                    return (await log.state()).leads
                return False

            await eventually(elected, within_s=60)
            job = spec()
            await log.submit(job)
            denied = await api.get(f"/jobs/{job.job_id}")
            assert (denied.status_code, "cut off" in denied.text) == (503, True), denied.text
            assert (await log.state()).leads
            for relay in nodes.relays_of(old):
                relay.let_go()

            async def knows() -> bool:
                return (await api.get(f"/jobs/{job.job_id}")).status_code == 200

            await eventually(knows, within_s=60)
