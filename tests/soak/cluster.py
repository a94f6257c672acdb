"""Three nats-servers on loopback that are one cluster."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from agents import eventually
from qgjet import streams
from qgjet.bus import connect
from qgjet.embedded import NatsServer, config_file
from qgjet.errors import LogUnavailable
from qgjet.settings import Deployment
from qgjet.subjects import STREAM

NODES = 3
CLUSTER = """
cluster {{
  name: soak
  listen: 127.0.0.1:{port}
  routes: [{routes}]
}}
"""


class Cluster:
    def __init__(self, nodes: list[NatsServer]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        """A client that knows one node learns of the others from it."""
        return next(node.url for node in self.nodes if node.process is not None)

    async def ready(self) -> None:
        """Wait until the streams are there, with three replicas."""
        async with connect(self.url, name="setup", timeout_s=15.0) as bus:

            async def ask() -> bool:
                with contextlib.suppress(LogUnavailable):
                    return (await streams.ensure(bus, Deployment(replicas=NODES))).replicas == NODES
                return False

            await eventually(ask, within_s=60, what="a cluster with streams")

    async def leader(self) -> NatsServer:
        """The node that leads the log."""
        async with connect(self.url, name="look", timeout_s=15.0) as bus:
            info = await bus.api(f"STREAM.INFO.{STREAM}")
        return self.nodes[int(info["cluster"]["leader"].removeprefix("node-"))]


@contextlib.asynccontextmanager
async def cluster(path: Path) -> AsyncIterator[Cluster]:
    ports = _free_ports(NODES)
    routes = ", ".join(f"nats://127.0.0.1:{port}" for port in ports)
    nodes = []
    for number, port in enumerate(ports):
        store = path / f"node-{number}"
        store.mkdir(parents=True)
        config = store / "nats.conf"
        config.write_text(config_file().read_text().replace("$QGJET_NATS_NAME", f"node-{number}") + CLUSTER.format(port=port, routes=routes))
        nodes.append(NatsServer(store, config=config))
    try:
        await asyncio.gather(*(node.start() for node in nodes))
        yield Cluster(nodes)
    finally:
        for node in nodes:
            node.kill()


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(contextlib.closing(socket.create_server(("127.0.0.1", 0)))) for _ in range(number)]
        return [one.getsockname()[1] for one in sockets]
