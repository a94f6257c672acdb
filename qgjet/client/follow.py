"""Follows jobs over the API: server-sent events that resume by sequence, and polling where they do
not work.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator
from http import HTTPStatus
from urllib.parse import quote

import msgspec
from msgspec import Struct

from qgjet.client.base import Events, Notice
from qgjet.client.sse import Message, Parser
from qgjet.client.tracker import JobTracker, TrackedJob
from qgjet.client.transport import PAUSE_S, Busy, Http, Json, NoStream
from qgjet.domain import codec
from qgjet.domain.events import Event
from qgjet.errors import CannotReach, UndecodableEvent

POLL_S = 2.0
POLL_WINDOW = 8
_SEQUENCE = re.compile(r"[0-9]{1,19}")


class StoredEvent(Struct, frozen=True):
    seq: int
    event: msgspec.Raw


class EventPage(Struct, frozen=True):
    events: list[StoredEvent]


async def follow(http: Http, tracker: JobTracker, notice: Notice) -> AsyncGenerator[Events, None]:
    """Events that may concern the tracker's jobs, for ever. Raises CannotReach when the server has
    been silent for longer than the patience.
    """
    after = tracker.next_seq - 1
    streams, outage = True, Outage(http, notice)
    while True:
        moved = crowded = False
        try:
            if streams:
                async with contextlib.aclosing(_messages(http, tracker, after)) as stream:
                    async for messages in stream:
                        outage.over()
                        after, moved = (
                            max([after, *(int(message.id) for message in messages)]),
                            moved or bool(messages),
                        )
                        yield [
                            (int(message.id), event)
                            for message in messages
                            if (event := _event(message.data)) is not None
                        ]
        except NoStream:
            streams = False
        except CannotReach as error:
            crowded = (
                isinstance(error, Busy) and error.status == HTTPStatus.TOO_MANY_REQUESTS
            )  # the token has all its streams open: poll meanwhile
            if not crowded:
                outage.begins(error)
        if not moved:  # where streams break before they bring anything, this does
            try:
                yield await _poll(http, tracker)
                outage.over()
            except Busy as error:
                outage.begins(error)
        await asyncio.sleep(outage.pause_s or (PAUSE_S if streams and not crowded else POLL_S))


async def _messages(
    http: Http, tracker: JobTracker, after: int
) -> AsyncGenerator[list[Message], None]:
    parser = Parser()
    async with contextlib.aclosing(
        http.stream("/events", {**_narrowest(tracker), "after": after})
    ) as pieces:
        async for piece in pieces:
            yield [
                message for message in parser.feed(piece) if _SEQUENCE.fullmatch(message.id)
            ]  # a proxy may add some of its own


def _narrowest(tracker: JobTracker) -> Json:
    """The one filter that lets through the events of all jobs on the tracker."""
    live = tracker.live
    if len(live) == 1 and not tracker.suite_id:
        return {"job_id": live[0].job_id}
    if tracker.suite_id and not any(track.attached for track in live):
        return {"suite_id": tracker.suite_id}
    orgs = {track.slot.org_id for track in live}
    return {"org_id": orgs.pop()} if len(orgs) == 1 else {}


async def _poll(http: Http, tracker: JobTracker) -> Events:
    """Events of the live jobs that are not known yet, oldest first."""
    gate = asyncio.Semaphore(POLL_WINDOW)

    async def one(track: TrackedJob) -> EventPage:
        async with gate:
            return await http.once(
                "GET",
                f"/jobs/{quote(track.job_id, safe='')}/events",
                EventPage,
                params={"after": track.seq},
            )

    pages = await asyncio.gather(*(one(track) for track in tracker.live))
    found = [
        (stored.seq, event)
        for page in pages
        for stored in page.events
        if (event := _event(bytes(stored.event))) is not None
    ]
    return sorted(found, key=lambda pair: pair[0])


def _event(data: bytes) -> Event | None:
    """None for an event of a newer version."""
    try:
        return codec.decode(data)
    except UndecodableEvent:
        return None


class Outage:
    """How long the server has been silent: says so once, counts the pauses, and gives up."""

    def __init__(self, http: Http, notice: Notice) -> None:
        self._http = http
        self._notice = notice
        self._since: float | None = None
        self.pause_s = 0.0

    def begins(self, error: CannotReach) -> None:
        """Raises CannotReach when it has lasted too long."""
        now = asyncio.get_running_loop().time()
        if self._since is None:
            self._since = now
            self._notice(f"{error}; trying again for {self._http.patience_s:.0f} s")
        elif now - self._since >= self._http.patience_s:
            raise CannotReach(
                f"{self._http.where} has been away for {self._http.patience_s:.0f} s"
            ) from error
        asked_s = error.pause_s if isinstance(error, Busy) else 0.0
        self.pause_s = max(asked_s, min(self.pause_s * 2 or PAUSE_S, POLL_S))

    def over(self) -> None:
        if self._since is not None:
            self._notice(f"{self._http.where} answers again")
        self._since, self.pause_s = None, 0.0
