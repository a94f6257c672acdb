"""Fixtures for everything that needs a broker: a real nats-server per test."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from patience import patience
from qgjet.jetstream.connection import Connection, connect
from qgjet.jetstream.server import NatsServer, nats_server
from qgjet.store import streams
from qgjet.store.event_log import EventLog

# Started in the background of a script, or by nohup, this process ignores Ctrl-C or a hangup, and
# so would every command that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.register_profile(
    "qgjet",
    max_examples=60,
    deadline=None,  # a machine under load is slow, not wrong
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI"
    in os.environ,  # a gate answers the same every time; at a desk every run looks elsewhere
)
settings.register_profile(
    "soak", settings.get_profile("qgjet"), max_examples=5000, derandomize=False
)  # `make soak`: --hypothesis-profile=soak
settings.load_profile("qgjet")


@pytest.hookimpl(trylast=True)  # after folders have marked their own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Stretch the limit of every test as all deadlines in it. A limit on the command line stands as
    it is.
    """
    for item in items:
        marker, given = item.get_closest_marker("timeout"), item.config.getoption("timeout")
        if marker is not None or given is None:
            limit_s = float(marker.args[0] if marker is not None else item.config.getini("timeout"))
            item.add_marker(pytest.mark.timeout(patience(limit_s)), append=False)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with nats_server(tmp_path / "nats") as running:
        yield running


@pytest.fixture
async def connection(server: NatsServer) -> AsyncIterator[Connection]:
    async with connect(server.url, name="test") as connected:
        await streams.ensure(connected)
        yield connected


@pytest.fixture
def log(connection: Connection) -> EventLog:
    return EventLog(connection)
