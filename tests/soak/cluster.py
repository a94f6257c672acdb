"""Three nats-servers on loopback that are one cluster."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import httpx

from agents import eventually
from faults.proxy import Proxy
from qgjet.domain.deployment import Deployment
from qgjet.domain.subjects import STREAM, Lane, lane_consumer
from qgjet.errors import NatsUnavailable
from qgjet.jetstream.connection import connect
from qgjet.jetstream.server import NatsServer, config_file
from qgjet.store import streams

NODES = 3
CLUSTER = """
http: 127.0.0.1:{monitor}
cluster {{
  name: soak
  listen: 127.0.0.1:{port}
  routes: [{routes}]
  no_advertise: {alone}
}}
"""


class _Port(NamedTuple):
    """Where a relay leads to."""

    port: int


class Relay(NamedTuple):
    """What stands between a node that connects and another one."""

    one: int
    other: int
    proxy: Proxy


class Cluster:
    def __init__(self, nodes: list[NatsServer], monitors: list[int], relays: list[Relay]) -> None:
        self.nodes = nodes
        self._monitors = monitors
        self._relays = relays

    @property
    def url(self) -> str:
        """A client that knows one node learns of the others from it."""
        return next(node.url for node in self.nodes if node.process is not None)

    async def ready(self) -> None:
        """Wait until the streams are there, with three replicas."""
        async with connect(self.url, name="setup", timeout_s=15.0) as connection:

            async def ask() -> bool:
                with contextlib.suppress(NatsUnavailable):
                    return (
                        await streams.ensure(connection, Deployment(replicas=NODES))
                    ).replicas == NODES
                return False

            await eventually(ask, within_s=60, what="a cluster with streams")

    async def leader(self) -> NatsServer:
        """The node that leads the log."""
        async with connect(self.url, name="look", timeout_s=15.0) as connection:
            info = await connection.api(f"STREAM.INFO.{STREAM}")
        return self._node(info["cluster"]["leader"])

    async def lane_leader(self, lane: Lane) -> NatsServer:
        """The node that leads the lane's consumer. Raises NatsUnavailable when there is none."""
        async with connect(self.url, name="look", timeout_s=15.0) as connection:
            info = await connection.api(f"CONSUMER.INFO.{STREAM}.{lane_consumer(lane)}")
        return self._node(info["cluster"]["leader"])

    def relays_of(self, node: NatsServer) -> list[Proxy]:
        """All that stands between the node and the others."""
        number = self.nodes.index(node)
        return [relay.proxy for relay in self._relays if number in (relay.one, relay.other)]

    async def meta_leader(self) -> NatsServer:
        """The node that leads the cluster itself: where streams and consumers are made."""
        async with httpx.AsyncClient() as client:
            for node, port in zip(self.nodes, self._monitors, strict=True):
                if node.process is not None:
                    found = (await client.get(f"http://127.0.0.1:{port}/jsz")).json()
                    return self._node(found["meta_cluster"]["leader"])
        raise NatsUnavailable("no node is up")

    def _node(self, name: str) -> NatsServer:
        return self.nodes[int(name.removeprefix("node-"))]


@contextlib.asynccontextmanager
async def cluster(path: Path, *, relayed: bool = False) -> AsyncIterator[Cluster]:
    """Started, and killed at the end. `relayed`: each node speaks with the others through relays
    that can be held and cut.
    """
    free = free_ports(2 * NODES)
    ports, monitors = free[:NODES], free[NODES:]
    async with contextlib.AsyncExitStack() as stack:
        relays = [
            Relay(one, other, Proxy(_Port(ports[other])))
            for one, other in permutations(range(NODES), 2)
            if relayed
        ]
        for relay in relays:
            stack.push_async_callback(relay.proxy.close)
            await relay.proxy.accept()
        nodes = []
        for number, port in enumerate(ports):
            routes = (
                [f"nats://127.0.0.1:{port}" for port in ports]
                if not relayed
                else [relay.proxy.url for relay in relays if relay.one == number]
            )
            config = _config(
                path / f"node-{number}",
                number,
                port=port,
                monitor=monitors[number],
                routes=routes,
                relayed=relayed,
            )
            nodes.append(NatsServer(config.parent, config=config))
        try:
            await asyncio.gather(*(node.start() for node in nodes))
            yield Cluster(nodes, monitors, relays)
        finally:
            for node in nodes:
                node.kill()


def _config(
    store: Path, number: int, *, port: int, monitor: int, routes: list[str], relayed: bool
) -> Path:
    store.mkdir(parents=True)
    config = store / "nats.conf"
    text = config_file().read_text().replace("$QGJET_NATS_NAME", f"node-{number}")
    config.write_text(
        text
        + CLUSTER.format(
            port=port, routes=", ".join(routes), monitor=monitor, alone=str(relayed).lower()
        )
    )
    return config


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(contextlib.closing(socket.create_server(("127.0.0.1", 0))))
            for _ in range(number)
        ]
        return [one.getsockname()[1] for one in sockets]
