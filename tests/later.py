"""A log whose server's clock, and this host's, show another time: what is stored keeps its true
times.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from msgspec.structs import replace

from qgjet.jetstream.connection import Connection
from qgjet.store.event_log import EventLog, StreamState
from qgjet.support.clock import utc_now


class LaterLog(EventLog):
    """`now` gives the present time, for the server and this host alike."""

    def __init__(self, connection: Connection, now: Callable[[], datetime]) -> None:
        super().__init__(connection, now)

    async def state(self) -> StreamState:
        return replace(await super().state(), now=self.clock())


def in_(connection: Connection, duration: timedelta) -> LaterLog:
    """The log as it will be after `duration`, unless something is written."""
    return LaterLog(connection, lambda: utc_now() + duration)
