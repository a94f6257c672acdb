"""Time: the only place that reads the wall clock and the clock of leases, and waiting with a limit,
which goes by the event loop's monotonic time instead.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

T = TypeVar("T")
Clock = Callable[[], datetime]
"""Gives the current time, aware."""
LEASE_CLOCK: int = getattr(
    time, "CLOCK_BOOTTIME" if sys.platform == "linux" else "CLOCK_MONOTONIC_RAW", -1
)
"""Counts the time of a suspend, as the server's visibility timeout does: CLOCK_BOOTTIME on Linux,
and CLOCK_MONOTONIC_RAW on macOS, which there is `mach_continuous_time`. `time.monotonic()` and the
timers of an event loop stand still meanwhile. -1 on Windows, where no agent runs.
"""
LEASE_LOOK_S = 1.0
"""How long a timer that goes by the clock of leases sleeps at most: it is late by as much after a
suspend.
"""


def utc_now() -> datetime:
    return datetime.now(UTC)


def lease_time() -> float:
    """The clock that every lease and hold goes by, in seconds."""
    return time.clock_gettime(LEASE_CLOCK)


async def within(seconds: float, event: asyncio.Event) -> bool:
    """Wait for `event`, but no longer than `seconds`; says whether it is set.

    Not `asyncio.wait_for`: until Python 3.12 that loses a cancellation that comes together with the
    event, and the task never ends.
    """
    if not event.is_set():
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return False
    return True


async def end(*tasks: asyncio.Task[Any], within_s: float, again_s: float = 0.25) -> bool:
    """Cancel tasks, and wait no longer than `within_s` for their end; returns whether all have
    ended. Their errors are for whoever watches them.

    Cancels them again every `again_s`: until Python 3.12, `asyncio.wait_for`, which nats-py uses,
    can lose a cancellation.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while left := [task for task in tasks if not task.done()]:
        wait_s = min(again_s, deadline - loop.time())
        if wait_s <= 0:
            return False
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=wait_s)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # otherwise asyncio reports that it was not retrieved
    return True


async def bounded(work: Coroutine[Any, Any, T], within_s: float) -> T:
    """The result of `work`. Raises TimeoutError when there is none in time, even when `work` does
    not obey its cancellation.

    Also for work that something in it has cancelled, such as a future of nats-py: that is no
    cancellation of the caller.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=within_s)
        if task.done() and not task.cancelled():
            return task.result()
        raise TimeoutError(f"no result within {within_s:g} s")
    finally:
        await end(task, within_s=0.5)
