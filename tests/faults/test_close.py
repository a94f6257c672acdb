"""The way out: nothing that nats-py does keeps a process from its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from agents import eventually
from patience import patience
from qgjet.jetstream import connection as connections
from qgjet.jetstream.connection import Connection, connect
from qgjet.jetstream.server import NatsServer
from qgjet.support.clock import bounded, end
from qgjet_cli.runtime import daemon

MOST_S = patience(5.0)


class Deaf:
    """Work that loses a number of cancellations, as `asyncio.wait_for` may until Python 3.12."""

    def __init__(self, losses: int) -> None:
        self.losses = losses
        self.began = asyncio.Event()

    async def __call__(self, *_: object, **__: object) -> None:
        self.began.set()
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.losses -= 1
                if self.losses < 0:
                    raise


async def within(seconds: float, close: Callable[[], Awaitable[object]]) -> None:
    """From outside: a limit that rests on cancellation is what is on trial."""
    closing = asyncio.ensure_future(close())
    await asyncio.wait({closing}, timeout=seconds)
    assert closing.done(), f"not closed within {seconds} s"
    await closing


async def test_a_cancellation_that_the_watchdog_loses_does_not_hang_close(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_WATCHDOG_S", 0.0)
    connection = await connections.open_connection(server.url, name="test")
    deaf = Deaf(1)
    monkeypatch.setattr(connection.client, "rtt", deaf)
    await deaf.began.wait()
    await within(MOST_S, connection.close)
    assert all(keeper.done() for keeper in connection._keepers)


@pytest.mark.parametrize("step", ["flush", "close", "rtt"])
async def test_a_step_that_never_ends_does_not_hang_close(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(connections, "_WATCHDOG_S", 0.0)
    connection = await connections.open_connection(server.url, name="test")
    client_close, deaf = connection.client.close, Deaf(100)
    monkeypatch.setattr(connection.client, step, deaf)
    if step == "rtt":
        await deaf.began.wait()
    try:
        await within(MOST_S, connection.close)
        assert deaf.began.is_set()
    finally:
        await client_close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        deaf.losses = 0
        await end(*[task for task in left if task is not None], within_s=MOST_S)


async def test_a_subscription_that_cannot_be_drained_is_left(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def receive(_: object) -> None:
        """Nothing to do."""

    subscription = await connection.subscribe("some.subject", receive)
    deaf = Deaf(2)
    monkeypatch.setattr(subscription, "drain", deaf)
    await within(MOST_S, lambda: connection.stop_listening(subscription))
    assert subscription._id not in connection.client._subs


async def test_a_first_connection_ends_in_time_whatever_is_lost(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections._Client, "_process_connect_init", Deaf(2))

    async def opened() -> None:
        with pytest.raises(connections.NatsUnavailable, match="no NATS server"):
            await connections.open_connection(server.url, name="test", timeout_s=0.2)

    await within(MOST_S, opened)


def test_a_command_ends_with_its_exit_code_though_it_leaves_a_deaf_task_behind() -> None:
    async def main() -> int:
        deaf = Deaf(2)
        left.append(asyncio.create_task(deaf()))  # type: ignore[arg-type]
        await deaf.began.wait()
        return 7

    left: list[asyncio.Task[None]] = []
    began = time.monotonic()
    assert daemon.run(main()) == 7
    assert time.monotonic() - began < MOST_S
    assert left[0].done()


async def test_a_bound_gives_results_errors_and_the_end() -> None:
    async def gives(value: int) -> int:
        return value

    async def fails() -> None:
        raise KeyError("one")

    assert await bounded(gives(3), 1.0) == 3
    with pytest.raises(KeyError):
        await bounded(fails(), 1.0)
    with pytest.raises(TimeoutError):
        await bounded(asyncio.sleep(3600), 0.01)
    lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    lost.cancel()
    with pytest.raises(TimeoutError):
        await bounded(asyncio.wait_for(lost, 1.0), 1.0)  # noqa: TID251 - what nats-py does


async def test_closing_while_the_server_is_away_is_quick(server: NatsServer) -> None:
    async with connect(server.url, name="test") as connection:
        server.kill()

        async def away() -> bool:
            return not connection.is_connected

        await eventually(away)
        began = time.monotonic()
    assert time.monotonic() - began < MOST_S
