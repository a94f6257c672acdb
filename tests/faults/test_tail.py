"""Following the log while everything under it is taken away: every event once, and in order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from agents import eventually
from factories import spec
from faults.proxy import Proxy
from patience import patience
from qgjet.domain import subjects
from qgjet.errors import NatsUnavailable
from qgjet.jetstream.connection import connect
from qgjet.jetstream.server import NatsServer
from qgjet.store.event_log import EventLog, Recorded, Tail

EVENTS = 600
Break = Callable[[NatsServer, EventLog, Proxy], Awaitable[None]]


async def kill(server: NatsServer, log: EventLog, relay: Proxy) -> None:
    relay.refuse()
    server.kill()
    await server.start()
    await relay.accept()


async def stop(server: NatsServer, log: EventLog, relay: Proxy) -> None:
    relay.refuse()
    server.stop()
    await server.start()
    await relay.accept()


async def delete_consumers(server: NatsServer, log: EventLog, relay: Proxy) -> None:
    """All of them: a tail's is the only kind there is here."""
    try:
        for name in (await log.connection.api(f"CONSUMER.NAMES.{subjects.STREAM}"))[
            "consumers"
        ] or []:
            await log.connection.api(f"CONSUMER.DELETE.{subjects.STREAM}.{name}")
    except NatsUnavailable:  # the tail was faster in deleting its own
        return


async def break_connection(server: NatsServer, log: EventLog, relay: Proxy) -> None:
    relay.refuse()
    await relay.accept()


async def hold_up(server: NatsServer, log: EventLog, relay: Proxy) -> None:
    """For longer than the reader has patience with the silence."""
    relay.hold()
    written = (await log.state()).last_seq
    await eventually(lambda: has_written(log, written + 50))
    relay.let_go()


async def has_written(log: EventLog, seq: int) -> bool:
    return (await log.state()).last_seq >= min(seq, EVENTS)


class Reader:
    """Follows the log in a task of its own and keeps what it was given."""

    def __init__(self, log: EventLog, batch: int, from_seq: int = 1) -> None:
        self._log, self._batch, self._from_seq = log, batch, from_seq
        self.seen: list[Recorded] = []

    async def run(self) -> None:
        async with self._log.tail(self._from_seq, ("qg.>",), batch=self._batch) as batches:
            async for batch in batches:
                self.seen += batch

    async def has(self, number: int) -> bool:
        return len(self.seen) >= number


async def write(log: EventLog, number: int, done: asyncio.Event) -> None:
    """Submit jobs, each until it is accepted."""
    for one in range(number):
        job = spec(test=f"tests/{one}.spec.js")
        while True:
            try:
                await log.submit(job)
                break
            except NatsUnavailable:
                await asyncio.sleep(0.02)
    done.set()


@pytest.mark.parametrize("breaks", [kill, stop, delete_consumers, break_connection, hold_up])
async def test_every_event_comes_once_and_in_order_whatever_breaks(
    server: NatsServer, log: EventLog, relay: Proxy, breaks: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tail, "SILENCE_S", 1.5)
    monkeypatch.setattr(Tail, "HEARTBEAT_S", 0.5)
    written = asyncio.Event()
    async with connect(relay.url, name="reader") as connection, asyncio.TaskGroup() as group:
        readers = [Reader(EventLog(connection), batch) for batch in (3, 1000)]
        tasks = [group.create_task(reader.run()) for reader in readers]
        group.create_task(write(log, EVENTS, written))
        for number in (1, 50, 120, 300):
            await eventually(lambda: readers[0].has(number), within_s=20)  # noqa: B023 - awaited at once
            await breaks(server, log, relay)
        async with asyncio.timeout(patience(20)):
            await written.wait()
        for reader in readers:
            await eventually(
                lambda reader=reader: reader.has(EVENTS), within_s=20, what="all events"
            )  # type: ignore[misc]
        for task in tasks:
            task.cancel()
    for reader in readers:
        assert [one.seq for one in reader.seen] == list(range(1, EVENTS + 1))
        assert len({one.data for one in reader.seen}) == EVENTS


async def test_a_reader_that_is_slow_misses_nothing(
    server: NatsServer, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its consumer falls silent while it does not pull, which looks like a lost server."""
    monkeypatch.setattr(Tail, "SILENCE_S", 0.3)
    monkeypatch.setattr(Tail, "HEARTBEAT_S", 0.1)
    await log.submit_many([spec(test=f"tests/{number}.spec.js") for number in range(100)])
    seen: list[int] = []
    async with log.tail(1, batch=5) as batches, asyncio.timeout(patience(20)):
        async for batch in batches:
            seen += [one.seq for one in batch]
            if len(seen) in range(20, 60):
                await asyncio.sleep(0.35)
            if len(seen) == 100:
                break
    assert seen == list(range(1, 101))


async def test_a_tail_can_be_closed_while_the_server_is_away(
    server: NatsServer, log: EventLog
) -> None:
    await log.submit(spec())
    reader = Reader(log, 10)
    task = asyncio.create_task(reader.run())
    await eventually(lambda: reader.has(1))
    server.kill()
    task.cancel()
    async with asyncio.timeout(patience(3)):
        await asyncio.gather(task, return_exceptions=True)
    await server.start()
    await log.connection.wait_connected(10)
