"""Time: the only place that reads the wall clock, and waiting with a limit, which goes by the event loop's monotonic time instead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Gives the current time, aware."""


def utc_now() -> datetime:
    return datetime.now(UTC)


async def within(seconds: float, event: asyncio.Event) -> bool:
    """Wait for `event`, but no longer than `seconds`; says whether it is set.

    Not `asyncio.wait_for`: until Python 3.12 that loses a cancellation that comes together with the event, and the task never ends.
    """
    if not event.is_set():
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return False
    return True
