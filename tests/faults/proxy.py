"""A TCP relay before a nats-server that holds, cuts and loses what passes: the network at its
worst.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from patience import patience
from qgjet.jetstream.server import NatsServer

STORED = b'{"stream":"QG_EVENTS",'
"""How JetStream says that an event is stored."""
TO_SERVER, TO_CLIENT = "to the server", "to the client"


class Destination(Protocol):
    """A server on loopback."""

    @property
    def port(self) -> int: ...


class Proxy:
    """Made by `proxy`. Connections end with their other side.

    While the server is away it should `refuse`: a connection that is taken and closed at once makes
    nats-py forget its end of it.
    """

    def __init__(self, server: Destination) -> None:
        self._server = server
        self._port = 0
        self._listener: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._open = {TO_SERVER: asyncio.Event(), TO_CLIENT: asyncio.Event()}
        self._delay_s = 0.0
        self._cut_at = self._hold_at = b""
        self._held = bytearray()
        self._arrival = asyncio.Event()
        self.cut = asyncio.Event()
        """Set when a connection was cut by `cut_at`."""
        self.let_go()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self._port}"

    def hold(self, *directions: str) -> None:
        """Let nothing through, in both directions or in one, without breaking a connection. What is
        sent meanwhile arrives after `let_go`.
        """
        for direction in directions or self._open:
            self._open[direction].clear()
        self._held.clear()

    def delay(self, seconds: float) -> None:
        """From now on everything takes so much longer, in both directions; 0: no longer."""
        self._delay_s = seconds

    async def reached(self, data: bytes) -> None:
        """Wait until something that holds `data` is held up here."""
        async with asyncio.timeout(patience(10)):
            while data not in self._held:
                self._arrival.clear()
                await self._arrival.wait()

    def hold_at(self, answer: bytes) -> None:
        """Hold, from the next thing on that the server says and that holds `answer`. `reached`
        waits for it.
        """
        self._hold_at = answer
        self._held.clear()

    def let_go(self) -> None:
        for gate in self._open.values():
            gate.set()

    def cut_at(self, answer: bytes) -> None:
        """Lose the next thing the server says that holds `answer`, with the connection; refuse new
        ones until `accept`.
        """
        self._cut_at = answer
        self.cut.clear()

    def refuse(self) -> None:
        """Break all connections and take no new ones until `accept`."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for link in self._links:
            link.cancel()

    async def accept(self) -> None:
        """Take connections. A second call is harmless."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._relay, "127.0.0.1", self._port)
            self._port = self._listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self.let_go()
        self.refuse()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _relay(
        self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter
    ) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        writers = [client_out]
        try:
            server_in, server_out = await asyncio.open_connection("127.0.0.1", self._server.port)
            writers.append(server_out)
            pumps = {
                asyncio.create_task(self._pump(client_in, server_out, TO_SERVER)),
                asyncio.create_task(self._pump(server_in, client_out, TO_CLIENT)),
            }
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            return
        finally:
            self._links.discard(link)
            for writer in writers:
                writer.transport.abort()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: str
    ) -> None:
        while data := await source.read(65536):
            if self._hold_at and self._hold_at in data:
                self._hold_at = b""
                self.hold()
            if not self._open[direction].is_set():
                self._held += data
                self._arrival.set()
                await self._open[direction].wait()
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            if direction == TO_CLIENT and self._is_cut(data):
                return
            sink.write(data)
            await sink.drain()

    def _is_cut(self, data: bytes) -> bool:
        if not self._cut_at or self._cut_at not in data:
            return False
        self._cut_at = b""
        self.refuse()
        self.cut.set()
        return True


@contextlib.asynccontextmanager
async def proxy(server: NatsServer) -> AsyncIterator[Proxy]:
    """A relay before `server` for the length of a block."""
    relay = Proxy(server)
    await relay.accept()
    try:
        yield relay
    finally:
        await relay.close()


async def meanwhile(
    relay: Proxy, answer: bytes, work: Awaitable[object], then: Callable[[], Awaitable[object]]
) -> object:
    """Do `work` while the relay loses one answer to it; do `then` while nothing gets through; give
    what `work` comes to.
    """
    relay.cut_at(answer)
    working = asyncio.ensure_future(work)
    try:
        async with asyncio.timeout(patience(10)):
            await relay.cut.wait()
            await then()
            await relay.accept()
            return await working
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
