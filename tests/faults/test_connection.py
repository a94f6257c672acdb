"""The connection to NATS, where it looks alive and is not."""

from __future__ import annotations

import pytest

from agents import eventually
from qgjet import bus as connections
from qgjet.bus import Bus


async def test_a_connection_whose_read_loop_has_died_is_noticed_and_made_anew(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """nats-py's read loop ends for good on any error of its own, and says nothing."""
    assert connections._WATCHDOG_S + connections._ROUND_TRIP_S < 15
    monkeypatch.setattr(connections, "_WATCHDOG_S", 0.1)
    monkeypatch.setattr(connections, "_ROUND_TRIP_S", 0.2)
    bus._keepers[-1].cancel()
    bus._keepers[-1] = bus._loop.create_task(bus._watch())  # with the shorter times
    assert bus.client._reading_task is not None
    bus.client._reading_task.cancel()

    async def mended() -> bool:
        return bus.reconnects > 0

    await eventually(mended)
    assert bus.client.is_connected
    await bus.api("INFO")
