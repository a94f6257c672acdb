"""Following jobs to their end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from qgjet.client.base import ALL, Client
from qgjet.client.tracker import JobTracker
from qgjet.client.updates import updates
from qgjet.domain.events import Slot
from qgjet_cli.tracking.progress import Pulse, View, summary


async def watch(client: Client, tracker: JobTracker, view: View, *, max_failures: int = 0) -> None:
    """Return when no job of the tracker is live; tell each change once. Raises CannotReach when the
    server stays away.

    With `max_failures`, what is live is cancelled once so many jobs have failed; not what the
    tracker was attached to.
    """
    pulse = Pulse()
    async with contextlib.aclosing(updates(client, tracker)) as changes:
        async for change in changes:
            if change is not None:
                view.changed(change)
                pulse.beat()
                continue
            view.tick()
            if max_failures and tracker.failures >= max_failures:
                view.say(f"{tracker.failures} failed: cancelling the rest")
                max_failures = 0
                await client.cancel(
                    [track for track in tracker.live if not track.attached],
                    "too many failures",
                    tracker.suite_id,
                )
            if tracker.live and pulse.due:
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
