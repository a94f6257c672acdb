"""Retention: the log forgets jobs that ended before the horizon, and every read model forgets what
the log has forgotten.

What is purged is always a beginning of a slot's history, up to the end of one of its jobs, and
never an event of a live job: the read model says where, the log has the last word, and the cut is a
sequence, so that whatever is appended meanwhile stays. A job that was replaced stays as long as the
one in its place, which would not be legal without it. Any number of processes may purge: a second
purge finds nothing.

How old a job is goes by the server that stored its end, and by the clock of the agent or client
that wrote it if that one is later; the present time is the server's. Nothing is purged while it
differs from this host's by more than an hour.

A read model does not go by the clock but by the log, so it is what a rebuild would give at any
time, whoever purges.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from msgspec import Struct

from qgjet.domain.events import TERMINAL, Submitted
from qgjet.domain.subjects import STREAM
from qgjet.domain.suite import suite_prefix
from qgjet.errors import NatsUnavailable
from qgjet.jetstream.connection import STOP_TIMEOUT_S
from qgjet.store import streams
from qgjet.store.event_log import EventLog
from qgjet.support.clock import end
from qgjet.support.log_limiter import LogLimiter
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.readmodel.projector import Projector
from qgjet_projections.readmodel.views import EndedSuite, SlotHistory

log = logging.getLogger(__name__)

EVERY_S = 600.0
FIRST_AFTER_S = 5.0
MAX_CLOCK_DIFFERENCE = timedelta(hours=1)
"""One of both is wrong then, and purging by the wrong one cannot be undone."""
PAGE = 1_000
"""Submissions that are looked through at a time."""
PACE_S = 0.005
"""Between two purges: each one holds the log for a moment, and nobody waits for the next."""


class Purged(Struct, frozen=True):
    """What one look through the log came to."""

    slots: int = 0
    suites: int = 0
    events: int = 0


class Retention:
    """`async with Retention(...)`: prunes the read model now and then, and purges the log before it
    when `purges`.
    """

    def __init__(
        self, event_log: EventLog, read_model: ReadModel, projector: Projector, *, purges: bool
    ) -> None:
        self._log = event_log
        self._read_model = read_model
        self._projector = projector
        self._purges = purges
        self._complaints = LogLimiter(log)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="retention")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            await end(self._task, within_s=STOP_TIMEOUT_S)

    async def _run(self) -> None:
        await asyncio.sleep(FIRST_AFTER_S)
        while True:
            try:
                await self.round()
            except NatsUnavailable as error:
                self._complaints.warn(f"retention waits for the server: {error}")
            except Exception as error:  # the next round starts again from the log
                self._complaints.warn(
                    f"retention could not finish its round: {error}", exc_info=True
                )
            await asyncio.sleep(
                EVERY_S * random.uniform(0.8, 1.2)
            )  # several processes need not do it at one time

    async def round(self) -> Purged:
        """Forget what ended before the horizon in force. Harmless at any time and any number of
        times; ends early without harm.
        """
        config = await streams.stream_config(self._log.connection, STREAM)
        retention_s = streams.deployment_of(config).retention_s if config is not None else 0.0
        if not retention_s:
            return Purged()
        now = (await self._log.state()).now
        if abs(now - self._log.clock()) > MAX_CLOCK_DIFFERENCE:
            self._complaints.warn(
                f"retention: nothing is purged, as the clocks of this host ({self._log.clock():%F %T}) and of NATS ({now:%F %T}) disagree"
            )
            return Purged()
        self._complaints.over()
        before = now - timedelta(seconds=retention_s)
        purged = await purge(self._log, self._read_model, before) if self._purges else Purged()
        pruned = await self._projector.prune(before)
        if purged.events or pruned:
            log.info(
                "retention: %d events of %d slots and %d suites left the log, %d jobs the read model",
                purged.events,
                purged.slots,
                purged.suites,
                pruned,
            )
        return purged


async def purge(event_log: EventLog, read_model: ReadModel, before: datetime) -> Purged:
    """Remove from the log what belongs to jobs that ended before, and suites that have no job left."""
    slots = suites = events = 0
    async for found in _histories(read_model, before):
        if await _may_go(event_log, found):
            events += await event_log.forget(found.prefix, found.cut)
            slots += 1
            await asyncio.sleep(PACE_S)
    for suite in await asyncio.to_thread(read_model.ended_suites, before):
        if await _is_over(event_log, suite):
            events += await event_log.forget(
                suite_prefix(suite.org_id, suite.suite_id), suite.last_seq + 1
            )
            suites += 1
            await asyncio.sleep(PACE_S)
    return Purged(slots, suites, events)


async def _histories(read_model: ReadModel, before: datetime) -> AsyncIterator[SlotHistory]:
    after_seq: int | None = 0
    while after_seq is not None:
        found, after_seq = await asyncio.to_thread(
            read_model.ended_histories, before, after_seq, PAGE
        )
        for one in found:
            yield one


async def _may_go(event_log: EventLog, found: SlotHistory) -> bool:
    """Whether the log agrees that nothing below the cut belongs to a live job: there its slot's
    history ends, or a job begins that replaces none.
    """
    if found.next_seq:
        following = await event_log.get(found.next_seq)
        if following is None or not following.subject.startswith(found.prefix + "."):
            return False
        return isinstance(following.event, Submitted) and not following.event.replaces
    last = await event_log.last_of(found.prefix + ".>")
    if last is None or last.event is None or last.seq != found.last_seq:
        return False
    return last.event.job_id == found.job_id and last.event.status in TERMINAL


async def _is_over(event_log: EventLog, suite: EndedSuite) -> bool:
    """Whether the suite has not been opened again since."""
    last = await event_log.last_of(f"{suite_prefix(suite.org_id, suite.suite_id)}.>")
    return last is not None and last.seq <= suite.last_seq
