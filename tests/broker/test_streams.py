"""What everybody on one server agrees on, stored with the log."""

from __future__ import annotations

import pytest

from agents import FAST
from factories import spec
from qgjet.config.settings import QueueSettings
from qgjet.domain.deployment import Deployment
from qgjet.domain.subjects import STREAM, Lane
from qgjet.errors import IncompatibleServer
from qgjet.jetstream.connection import Connection, connect
from qgjet.jetstream.server import NatsServer
from qgjet.store import streams
from qgjet.store.job_queue import ACK_WAIT_SLACK_S, Queue

ASKED = Deployment(priority_order="high-first", visibility_timeout_s=42.5, max_deliver=9)


async def in_force(connection: Connection) -> Deployment:
    return await streams.ensure(connection)


async def test_who_comes_first_decides_and_all_others_find_it(server: NatsServer) -> None:
    async with connect(server.url, name="first") as connection:
        assert await streams.ensure(connection, ASKED) == ASKED
    async with connect(server.url, name="second") as connection:
        assert await streams.ensure(connection) == ASKED
        assert await streams.ensure(connection, Deployment(priority_order="high-first")) == ASKED
        assert QueueSettings(retry_base_s=3.0).agreed(await in_force(connection)) == QueueSettings(
            priority_order="high-first", visibility_timeout_s=42.5, max_deliver=9, retry_base_s=3.0
        )


async def test_leases_can_be_changed_and_the_rest_stays(server: NatsServer) -> None:
    async with connect(server.url, name="test") as connection:
        await streams.ensure(connection, ASKED)
        changed = await streams.change_leases(
            connection, Deployment(visibility_timeout_s=60.0, max_deliver=5)
        )
        assert (
            changed
            == await in_force(connection)
            == Deployment(priority_order="high-first", visibility_timeout_s=60.0, max_deliver=5)
        )
        before = await streams.stream_config(connection, STREAM)
        assert await streams.change_leases(connection, changed) == changed
        assert await streams.stream_config(connection, STREAM) == before


async def test_shorter_leases_are_announced_before_they_are_in_force(
    connection: Connection,
) -> None:
    longer, shorter = Deployment(visibility_timeout_s=40.0), Deployment(visibility_timeout_s=20.0)
    assert await streams.change_leases(connection, longer) == longer
    announced = await streams.change_leases(connection, shorter)
    assert (
        announced
        == await in_force(connection)
        == Deployment(visibility_timeout_s=40.0, next_visibility_timeout_s=20.0)
    )
    assert await streams.change_leases(connection, shorter) == announced
    assert await streams.shorten(connection, longer) == announced, (
        "another announcement is not this one"
    )
    assert await streams.shorten(connection, announced) == await in_force(connection) == shorter


async def test_a_consumer_is_never_made_to_wait_less_by_who_uses_it(connection: Connection) -> None:
    job = spec()
    lane = Lane(job.partition, job.rank)
    for visibility_s, expected_s in ((10.0, 10.0), (5.0, 10.0), (20.0, 20.0)):
        queue = Queue(connection, QueueSettings(visibility_timeout_s=visibility_s))
        await queue.ensure(lane)
        (state,) = await queue.lanes()
        assert state.ack_wait_ns == (expected_s + ACK_WAIT_SLACK_S) * 1e9
    await Queue(connection, FAST).renew(lane)
    (state,) = await Queue(connection, FAST).lanes()
    assert Queue(connection, FAST).is_current(state)


async def test_metadata_that_somebody_has_broken_is_said(connection: Connection) -> None:
    config = await streams.stream_config(connection, STREAM)
    assert config is not None
    await connection.api(
        f"STREAM.UPDATE.{STREAM}",
        config | {"metadata": config["metadata"] | {"qgjet.visibility_timeout": "soon"}},
    )
    with pytest.raises(IncompatibleServer, match="soon"):
        await streams.ensure(connection)
