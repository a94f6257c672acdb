"""Fixtures for everything that needs a broker: a real nats-server per test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from qgjet import streams
from qgjet.bus import Bus, connect
from qgjet.embedded import NatsServer, nats_server
from qgjet.log import EventLog


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with nats_server(tmp_path / "nats") as running:
        yield running


@pytest.fixture
async def bus(server: NatsServer) -> AsyncIterator[Bus]:
    async with connect(server.url, name="test") as connected:
        await streams.ensure(connected)
        yield connected


@pytest.fixture
def log(bus: Bus) -> EventLog:
    return EventLog(bus)
