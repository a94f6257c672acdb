"""The connection to NATS, where it looks alive and is not."""

from __future__ import annotations

import asyncio

import pytest

from agents import eventually
from patience import patience
from qgjet.errors import PermissionDenied
from qgjet.jetstream import connection as connections
from qgjet.jetstream.connection import Connection, connect
from qgjet.jetstream.server import NatsServer


async def test_a_connection_whose_read_loop_has_died_is_noticed_and_made_anew(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nats-py's read loop ends for good on any error of its own, and says nothing."""
    assert connections._WATCHDOG_S + connections._ROUND_TRIP_S < 15
    monkeypatch.setattr(connections, "_WATCHDOG_S", 0.1)
    monkeypatch.setattr(connections, "_ROUND_TRIP_S", 0.2)
    connection._keepers[-1].cancel()
    connection._keepers[-1] = connection._loop.create_task(
        connection._watch()
    )  # with the shorter times
    assert connection.client._reading_task is not None
    connection.client._reading_task.cancel()

    async def mended() -> bool:
        return connection.reconnects > 0

    await eventually(mended)
    assert connection.client.is_connected
    await connection.api("INFO")


async def test_after_a_failover_an_older_server_is_refused_by_name(
    server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(server.url, name="test") as connection:
        server.stop()
        older = await asyncio.start_server(_older, "127.0.0.1", server.port)
        try:

            async def refused() -> bool:
                return "2.10.0 is not supported" in connection.why

            await eventually(refused)
            assert not connection.is_connected
            with pytest.raises(
                PermissionDenied, match=r"2\.10\.0 is not supported: use 2\.15\.1 or newer"
            ):
                await connection.wait_connected(0.1)
        finally:
            older.close()
            await older.wait_closed()
        said = [line for line in caplog.messages if "2.10.0" in line]
        assert len(said) == 1, "said once, however often it is tried"
        await server.start()
        await connection.wait_connected(patience(10))
        assert (connection.is_connected, connection.why) == (True, "")


async def _older(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What a server of an earlier version answers to a client that connects."""
    writer.write(
        b'INFO {"server_id":"old","version":"2.10.0","headers":true,"jetstream":true,"max_payload":1048576}\r\n'
    )
    while line := await reader.readline():
        if line.startswith(b"PING"):
            writer.write(b"PONG\r\n")
    writer.close()
