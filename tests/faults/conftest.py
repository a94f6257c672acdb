"""Fixtures of the fault tests: what everything is broken with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agents import agree
from faults.crew import SOON, Crew, Yard, crew
from faults.proxy import Proxy, proxy
from faults.watched import Ledger
from qgjet.jetstream.connection import Connection
from qgjet.jetstream.server import NatsServer
from qgjet_projections.readmodel import ReadModel


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """nats-py 2.16 forgets its end of a connection that breaks during the handshake, and
    connections break a lot here.
    """
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(
                pytest.mark.filterwarnings("ignore:unclosed <StreamWriter:ResourceWarning")
            )


@pytest.fixture
async def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
async def relay(server: NatsServer) -> AsyncIterator[Proxy]:
    async with proxy(server) as running:
        yield running


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path / "yard")


@pytest.fixture
async def agents(server: NatsServer, connection: Connection, yard: Yard) -> AsyncIterator[Crew]:
    """Starts agents as processes, on a server where everything is set up."""
    await agree(connection, SOON.deployment)
    with crew(server.url, yard) as started:
        yield started


@pytest.fixture
def read_model(tmp_path: Path) -> Iterator[ReadModel]:
    opened = ReadModel.open(tmp_path / "read-model.sqlite")
    yield opened
    opened.close()
