"""The projector: follows the event log and keeps the read model equal to it.

It starts after what the file has applied, once it is sure that the file belongs to this log: a
stream that was made anew, rolled back or restored from a backup is noticed by its time of creation,
its end, or the message at the applied sequence, and the read model starts from nothing. Batches are
applied as they arrive, in one thread of their own; losing the server only makes it wait. A crash
ends it, keeps the file as it was after the last batch, and is in `failure`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from time import monotonic
from typing import Self, TypeVar

from msgspec import Struct

from qgjet.domain.deployment import DEFAULT_EVENT_RETENTION_S
from qgjet.domain.subjects import ALL_EVENTS
from qgjet.errors import NatsUnavailable, PermissionDenied
from qgjet.jetstream.connection import STOP_TIMEOUT_S
from qgjet.store.event_log import EventLog, Recorded, StreamState
from qgjet.support.clock import end
from qgjet.support.log_limiter import LogLimiter
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.readmodel.writer import Position, Writer, fingerprint

log = logging.getLogger(__name__)

T = TypeVar("T")
BATCH = 4000
LOOK_S = 1.0
"""How often the end of the log is looked up, for `lag` and to notice that it is another log."""
CROWD = 8
PACE_S = 0.01
"""A batch of this many events shows that more are coming: waiting for them costs nobody much, and a
transaction costs as much as ten events.
"""
CLOCK_SLACK = timedelta(hours=1)
"""By how much the clocks of NATS servers may differ, of which each may have stored events."""
PRUNE_LOOKS = 5_000
"""A second or two."""


class Lag(Struct, frozen=True, kw_only=True):
    events: int
    """Messages of the log that are not applied yet, as of the last look."""
    seconds: float
    """How long it has been behind without applying anything; 0 when it is not behind."""


class Projector:
    """`async with Projector(log, read_model) as projector`: works in the background until the end
    of the block.
    """

    def __init__(
        self,
        log: EventLog,
        read_model: ReadModel,
        *,
        retention_s: float = DEFAULT_EVENT_RETENTION_S,
        complaints: LogLimiter | None = None,
    ) -> None:
        """`retention_s`: what ended longer ago may have been purged from the log; 0: nothing.
        `complaints`: of whoever makes one projector after another.
        """
        self._complaints = complaints or LogLimiter(logging.getLogger(__name__))
        self.failure: BaseException | None = None
        """Why it stopped; None while it works."""
        self._log = log
        self._writer = Writer(read_model.path)
        self._retention_s = retention_s
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="projector")
        self._position = self._writer.position()
        self.log_state: StreamState | None = None
        """The log as of the last look, at most a second ago while the server answers."""
        self._progress_at = 0.0
        self._current_at: float | None = None
        self._moved = asyncio.Event()
        self._strangers: set[str] = set()
        self._pruned_to = 0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._progress_at = monotonic()
        self._task = asyncio.create_task(self._run(), name="projector")
        self._task.add_done_callback(lambda _: self._tell())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            await end(
                self._task, within_s=2 * STOP_TIMEOUT_S, again_s=STOP_TIMEOUT_S
            )  # its reader deletes its consumer
        await asyncio.to_thread(self._thread.shutdown)
        self._writer.close()

    @property
    def applied_seq(self) -> int:
        return self._position.applied_seq

    @property
    def lag(self) -> Lag | None:
        """None: the log was not reached yet. For any thread."""
        if self.log_state is None:
            return None
        events = max(self.log_state.last_seq - self.applied_seq, 0)
        return Lag(events=events, seconds=monotonic() - self._progress_at if events else 0.0)

    @property
    def lag_s(self) -> float | None:
        """Seconds since the read model last held all of the log for certain, also while NATS is
        silent; None: it never did. For any thread.
        """
        return None if self._current_at is None else monotonic() - self._current_at

    async def wait_for(self, seq: int, timeout_s: float) -> bool:
        """Wait until the log is applied up to `seq`; False when that does not happen in time, or
        the projector has stopped.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self.applied_seq < seq and self._working:
                    await self._moved.wait()
        except TimeoutError:
            pass
        return self.applied_seq >= seq

    async def subscribe(self) -> AsyncIterator[int]:
        """The applied sequence now, and again whenever it has moved: what was missed in between is
        in the last one. Ends with the projector.

        It goes back to 0 when the log was replaced.
        """
        told = None
        while told != self.applied_seq or self._working:
            moved = self._moved
            if told != self.applied_seq:
                told = self.applied_seq
                yield told
            else:
                await moved.wait()

    async def prune(self, before: datetime) -> int:
        """Delete what finished or was written before and is not in the log any more; gives the
        number of jobs. A second call is harmless.

        The log decides, not the clock: so the read model is always what a rebuild would give,
        whoever purges, and when. Where nobody purges all that is old would be asked for each time:
        after PRUNE_LOOKS questions in vain it stops, and the next call goes on there.
        """
        position = self._position
        first_seq = (await self._log.state()).first_seq
        deleted = looks = 0
        while looks < PRUNE_LOOKS:
            jobs, others, next_seq = await self._in_thread(
                partial(self._writer.old, before, self._pruned_to)
            )
            gone = await self._gone([*jobs, *others], first_seq)
            if gone:
                forgotten = (
                    [seq for seq in jobs if seq in gone],
                    [seq for seq in others if seq in gone],
                )
                await self._in_thread(
                    partial(self._writer.forget, *forgotten, position.stream_created)
                )
                deleted += len(forgotten[0])
            looks += len(jobs) + len(others) - len(gone)
            self._pruned_to = next_seq or 0
            if next_seq is None:
                break
        return deleted

    async def _gone(self, seqs: list[int], first_seq: int) -> set[int]:
        gone = set()
        for seq in seqs:
            if seq < first_seq or await self._log.get(seq) is None:
                gone.add(seq)
        return gone

    # -- following ---------------------------------------------------------------------------------------------------

    @property
    def _working(self) -> bool:
        return self._task is not None and not self._task.done() and self.failure is None

    async def _run(self) -> None:
        try:
            while True:
                reconnects = self._log.connection.reconnects
                await self._align()
                await self._follow(reconnects)
        except Exception as error:
            self.failure = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
            self._complaints.warn(
                f"the projector stopped at {self.applied_seq}: {self.failure}",
                exc_info=not isinstance(self.failure, PermissionDenied),
            )

    async def _align(self) -> None:
        """Make sure that the read model is the beginning of this log: keep it if it is, else empty
        it.
        """
        self._position = position = await self._in_thread(self._writer.position)
        state, last = await self._look_at(position)
        reason = mismatch(position, state, last) or self._outdated(position, state)
        if reason is not None:
            if position.applied_seq:
                log.warning("the read model starts from nothing: %s", reason)
            self._position = await self._in_thread(partial(self._writer.reset, state.created))
            self._tell()
        self.log_state = state

    def _outdated(self, position: Position, state: StreamState) -> str | None:
        if not self._retention_s:
            return None
        return outdated(
            position, state, state.now - timedelta(seconds=self._retention_s) + CLOCK_SLACK
        )

    async def _look_at(self, position: Position) -> tuple[StreamState, Recorded | None]:
        """The log's state and its message at `position`; waits for the server as long as it takes."""
        while True:
            try:
                last = await self._log.get(position.applied_seq) if position.applied_seq else None
                return await self._log.state(), last
            except NatsUnavailable as error:
                self._complaints.warn(f"the projector waits for the log: {error}")
                await asyncio.sleep(LOOK_S / 4)

    async def _follow(self, reconnects: int) -> None:
        """Apply the log until it may be another one: after every reconnect, among others."""
        async with asyncio.TaskGroup() as group:
            tasks = (
                group.create_task(self._apply_batches(reconnects)),
                group.create_task(self._watch()),
            )
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()

    async def _apply_batches(self, reconnects: int) -> None:
        read = self.applied_seq
        # suites and control events too: a submission may be answered with the sequence of any
        # message, and `lag` counts them all
        async with self._log.tail(read + 1, (ALL_EVENTS,), batch=BATCH) as batches:
            async for batch in batches:
                if batch[0].seq <= read or self._log.connection.reconnects != reconnects:
                    return
                read = batch[-1].seq
                if not await self._apply(batch):
                    return
                if CROWD <= len(batch) < BATCH:
                    await asyncio.sleep(PACE_S)

    async def _apply(self, batch: list[Recorded]) -> bool:
        """False: another process has emptied the file since."""
        follows = self._position
        self._position, strangers = await self._in_thread(
            partial(self._writer.apply, batch, follows)
        )
        for name in sorted(strangers - self._strangers):
            log.warning(
                "events of type %r are not known to this version: they stand in the history and change nothing",
                name,
            )
        self._strangers |= strangers
        self._progress_at = monotonic()
        self._tell()
        return (
            self._position.stream_created == follows.stream_created
            and self.applied_seq >= batch[-1].seq
        )

    async def _watch(self) -> None:
        """Look at the log's end now and then. Ends when it is not the log that is being applied."""
        while True:
            await asyncio.sleep(LOOK_S)
            position = self._position
            try:
                state = await self._log.state()
                if mismatch(position, state, None) is not None:
                    return
                if state.last_seq > position.applied_seq == self.applied_seq:
                    await self._skip_purged(position, state)
            except NatsUnavailable:
                continue  # the tail says it
            self.log_state = state
            if self.applied_seq >= state.last_seq:
                self._progress_at = self._current_at = monotonic()

    async def _skip_purged(self, position: Position, state: StreamState) -> None:
        if await self._log.next_of(ALL_EVENTS, position.applied_seq + 1) is None:
            self._position = await self._in_thread(
                partial(self._writer.skip_to, state.last_seq, position)
            )
            self._tell()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _tell(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()


def mismatch(position: Position, state: StreamState, last: Recorded | None) -> str | None:
    """Why a read model at `position` is not the beginning of the log; None when it is. `last`: the
    log's message there, if it was looked up.
    """
    applied = position.applied_seq
    if position.stream_created != state.created:
        return f"it belongs to the log made at {position.stream_created}, this one was made at {state.created}"
    if state.last_seq < applied:
        return f"the log ends at {state.last_seq}, {applied} was applied: it was rolled back"
    if 0 < applied < state.first_seq - 1:
        return f"{applied} was applied, the log begins at {state.first_seq}: what is between was purged"
    if last is not None and position.fingerprint not in (b"", fingerprint(last)):
        return f"message {applied} is not the one that was applied: the log was rolled back"
    return None


def outdated(position: Position, state: StreamState, horizon: datetime) -> str | None:
    """Why events that follow `position` may have been purged before they were applied; None when
    they cannot have been.
    """
    if (
        position.applied_at is not None
        and position.applied_at < horizon
        and state.last_seq > position.applied_seq
    ):
        return f"the last applied event is of {position.applied_at:%Y-%m-%d}: later ones may have been purged since"
    return None
