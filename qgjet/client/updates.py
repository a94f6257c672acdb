"""What happens to jobs, one change after the other, until they have ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from qgjet.client.base import Client, Events
from qgjet.client.tracker import JobTracker, JobUpdate

TICK_S = 0.5


async def updates(client: Client, tracker: JobTracker) -> AsyncGenerator[JobUpdate | None, None]:
    """Each change of the tracker's jobs once, before the next one is applied; None after each
    batch, and every half second without one.

    Ends when no job is active. Raises CannotReach when the server stays away for longer than the
    client's patience. Close it when you leave early.
    """
    if not tracker.live:
        return
    async with contextlib.aclosing(_ticking(client.follow(tracker))) as source:
        async for events in source:
            client.check()
            for seq, event in events:
                for update in tracker.apply(seq, event):
                    yield update
            yield None
            if not tracker.live:
                return


async def _ticking(source: AsyncIterator[Events]) -> AsyncGenerator[Events, None]:
    """What comes from `source`, and nothing every half second without."""
    pending: asyncio.Future[Events] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(source))
            await asyncio.wait({pending}, timeout=TICK_S)
            if not pending.done():
                yield ()
                continue
            events, pending = pending.result(), None
            yield events
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
        if isinstance(source, AsyncGenerator):
            await source.aclose()
