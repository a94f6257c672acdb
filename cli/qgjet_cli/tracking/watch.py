"""Following jobs to their end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable

from qgjet.client.base import ALL, Client, Events
from qgjet.client.tracker import JobTracker
from qgjet.domain.events import Slot
from qgjet_cli.tracking.progress import Pulse, View, summary

TICK_S = 0.5


async def watch(client: Client, tracker: JobTracker, view: View, *, max_failures: int = 0) -> None:
    """Return when no job of the tracker is live; tell each change once. Raises CannotReach when the server stays away.

    With `max_failures`, what is live is cancelled once so many jobs have failed; not what the tracker was attached to.
    """
    pulse = Pulse()
    if not tracker.live:
        return
    async with contextlib.aclosing(_ticking(client.follow(tracker))) as source:
        async for events in source:
            client.check()
            for seq, event in events:
                for change in tracker.apply(seq, event):  # told before the next one moves the job on
                    view.changed(change)
                    pulse.beat()
            view.tick()
            if max_failures and tracker.failures >= max_failures:
                view.say(f"{tracker.failures} failed: cancelling the rest")
                max_failures = 0
                await client.cancel([track for track in tracker.live if not track.attached], "too many failures", tracker.suite_id)
            if not tracker.live:
                return
            if pulse.due:
                pulse.beat()
                view.say(f"waiting: {summary(tracker)}")
                for warning in await unserved(client, (track.slot for track in tracker.live)):
                    view.say(f"Warning: {warning}")


async def unserved(client: Client, slots: Iterable[Slot]) -> list[str]:
    """A sentence for each target and app version that no agent serves now, if that can be known."""
    served = await client.served()
    if served is None:
        return []
    wanted = dict.fromkeys((slot.target, slot.app_version_id) for slot in slots)
    names = ", ".join(sorted({target for target, _ in served})) or "none"
    return [
        f"no agent serves target {target} for app version {version} now: its jobs wait until one comes (targets served: {names})"
        for target, version in wanted
        if not {(target, version), (target, ALL)} & served
    ]


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
