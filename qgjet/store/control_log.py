"""Control events on the log: append them, read them, follow them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

from qgjet.domain.control import ALL_CONTROLS, Control, Pauses, decode, encode, is_about, subject_of
from qgjet.domain.subjects import STREAM
from qgjet.errors import NatsUnavailable, UndecodableEvent
from qgjet.jetstream.connection import Connection, Msg, read_ack, refusal
from qgjet.jetstream.direct_get import Stored, messages
from qgjet.support.clock import within
from qgjet.support.log_limiter import LogLimiter
from qgjet.support.text import check_short

log = logging.getLogger(__name__)

_BATCH = 500
_BATCH_BYTES = 4 * 1024 * 1024
_LOOKS = 40
_LOOK_AGAIN_S = 0.05
_TROUBLE_S = 1.0


async def append(connection: Connection, event: Control) -> int:
    """Write a decision; gives its sequence. To write it again does no harm.

    Raises InvalidInput for a reason that is too long, NatsUnavailable (StoreFull, Overloaded).
    """
    check_short("reason", event.reason)
    subject = subject_of(event)
    ack = read_ack(await connection.request(subject, encode(event)))
    if ack.error is not None:
        raise refusal("the event log", ack.error)
    if not ack.seq:
        raise NatsUnavailable("the event log does not accept control events: no stream")
    return ack.seq


class ControlReader:
    """Reads each control event once, first to last."""

    def __init__(self, connection: Connection, complaints: LogLimiter | None = None) -> None:
        self._connection = connection
        self._after = 0
        self._complaints = complaints or LogLimiter(log)

    async def new(self) -> list[Control]:
        """What was written since the last call. Raises NatsUnavailable; the next call then begins
        where this one did.

        A follower of a cluster may answer and be behind: what it does not know yet comes with a
        later call.
        """
        found: list[Control] = []
        after = self._after
        while batch := await messages(
            self._connection, STREAM, ALL_CONTROLS, after, batch=_BATCH, max_bytes=_BATCH_BYTES
        ):
            found += [event for one in batch if (event := self._decision(one)) is not None]
            after = batch[-1].seq
        self._after = after
        return found

    def _decision(self, one: Stored) -> Control | None:
        """None for what this version cannot read, and for what stands where another decision would:
        the read model counts neither.
        """
        try:
            event = decode(one.data)
        except UndecodableEvent as error:
            self._complaints.warn(f"control event {one.seq} is skipped: {error}")
            return None
        if is_about(event, one.subject):
            return event
        self._complaints.warn(
            f"control event {one.seq} is skipped: {one.subject} is not its subject"
        )
        return None


async def follow(
    connection: Connection, *, poll_s: float
) -> AsyncGenerator[tuple[Pauses, list[Control]], None]:
    """The pauses in force with the events that led to them: once all that there is, then whatever
    is new. Ends only when it is closed.

    After a reconnect everything comes again: the server may be another one. What is written is
    heard of at once, and looked for every `poll_s`.
    """
    written = asyncio.Event()

    async def hear(_: Msg) -> None:
        written.set()

    subscription = await connection.subscribe(ALL_CONTROLS, hear)
    skipped = LogLimiter(log)  # after each reconnect, all is read again
    reader, pauses, reconnects, known = (
        ControlReader(connection, skipped),
        Pauses(),
        connection.reconnects,
        False,
    )
    complaints = LogLimiter(log)
    try:
        while True:
            heard = written.is_set()
            written.clear()
            if connection.reconnects != reconnects:
                reader, pauses, reconnects, known = (
                    ControlReader(connection, skipped),
                    Pauses(),
                    connection.reconnects,
                    False,
                )
            try:
                events = await _stored(reader) if heard else await reader.new()
            except NatsUnavailable as error:
                complaints.warn(f"control events cannot be read: {error}")
                await asyncio.sleep(_TROUBLE_S)
                continue
            complaints.over()
            for event in events:
                pauses.apply(event)
            if events or not known:
                known = True
                yield pauses, events
            await within(poll_s, written)
    finally:
        await connection.stop_listening(subscription)


async def _stored(reader: ControlReader) -> list[Control]:
    """What was heard of: the word of it comes before it is stored."""
    for _ in range(_LOOKS):
        if events := await reader.new():
            return events
        await asyncio.sleep(_LOOK_AGAIN_S)
    return []
