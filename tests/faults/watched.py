"""Who ran what and when, kept outside the event log: the log's own story is held against it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from agents import eventually
from patience import patience
from qgjet.domain.events import (
    Event,
    Finished,
    JobSpec,
    Outcome,
    Partition,
    Slot,
    Started,
    Verdict,
    event_type,
)
from qgjet.domain.job import Job, broken_rule, evolve
from qgjet.errors import NatsUnavailable
from qgjet.process.stop_control import StopControl, StopReason
from qgjet.runners.base import Attempt, Runner, Session
from qgjet.runners.redaction import Redactor
from qgjet.runners.scripted import ScriptedRunner
from qgjet.store.event_log import EventLog
from qgjet.support.clock import lease_time

T = TypeVar("T")


class Run(Struct):
    """One execution of a job, as its runner saw it."""

    job_id: str
    slot: Slot
    number: int
    by: str
    began: float
    """time.monotonic()"""
    stop_control: StopControl
    ended: float | None = None

    async def heartbeat(self, *, within_s: float = 10.0) -> float:
        """Wait for the next confirmed heartbeat of the lease; gives the hard end that it has moved
        to.
        """
        before, confirmed = self.stop_control.kill_at, asyncio.Event()
        unfollow = self.stop_control.follow(
            lambda kill_at: confirmed.set() if kill_at > before else None
        )
        try:
            async with asyncio.timeout(patience(within_s)):
                await confirmed.wait()
        finally:
            unfollow()
        return self.stop_control.kill_at


class Ledger:
    """Filled by all watched runners of a test."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.overlaps: list[str] = []
        """Executions that began while another one of their slot was under way."""
        self._news = asyncio.Event()

    @contextlib.contextmanager
    def running(self, attempt: Attempt, by: str) -> Iterator[Run]:
        slot, now = attempt.spec.slot, time.monotonic()
        for other in self.of(slot):
            if other.ended is None:
                self.overlaps.append(
                    f"{slot.test}: attempt {attempt.number} on {by} beside attempt {other.number} on {other.by}, {now - other.began:.2f} s old"
                )
        run = Run(attempt.spec.job_id, slot, attempt.number, by, now, attempt.stop_control)
        self.runs.append(run)
        self._tell()
        try:
            yield run
        finally:
            run.ended = time.monotonic()
            self._tell()

    def of(self, slot: Slot) -> list[Run]:
        return [run for run in self.runs if run.slot == slot]

    def under_way(self) -> list[Run]:
        return [run for run in self.runs if run.ended is None]

    async def until(
        self, holds: Callable[[], object], *, what: str, within_s: float = 10.0
    ) -> None:
        """Wait until something holds of the runs; looked at whenever one begins or ends."""
        try:
            async with asyncio.timeout(patience(within_s)):
                while not holds():
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"not within {within_s} s: {what}; {self.runs}") from None

    async def started(self, slot: Slot, number: int = 1) -> Run:
        """The `number`th execution of a slot, once it has begun."""
        await self.until(
            lambda: len(self.of(slot)) >= number, what=f"execution {number} of {slot.test}"
        )
        return self.of(slot)[number - 1]

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


class WatchedRunner:
    """A scripted runner that enters every execution into a ledger.

    A job takes `takes_s(spec)` seconds, or until `gate` is set; its stop_control ends it before
    that, as it would end a process.
    """

    def __init__(
        self,
        ledger: Ledger,
        by: str = "",
        *,
        outcomes: Mapping[str, tuple[str, ...]] | None = None,
        gate: asyncio.Event | None = None,
        takes_s: Callable[[JobSpec], float] = lambda _: 0.0,
    ) -> None:
        self._ledger, self._by, self._outcomes, self._gate, self._takes_s = (
            ledger,
            by,
            outcomes or {},
            gate,
            takes_s,
        )

    async def prepare(self, partition: Partition, directory: Path) -> Session:
        return WatchedSession(self)

    async def run(self, attempt: Attempt) -> Outcome:
        gate = self._gate
        with self._ledger.running(attempt, self._by):
            if gate is None:
                gate = asyncio.Event()
                asyncio.get_running_loop().call_later(self._takes_s(attempt.spec), gate.set)
            session = await ScriptedRunner(self._outcomes, gate=gate).prepare(
                attempt.spec.partition, attempt.directory
            )
            return await session.run(attempt)


class StubbornRunner(WatchedRunner):
    """Its jobs hear no stop. They end when they are killed: when their hold is over."""

    async def run(self, attempt: Attempt) -> Outcome:
        with self._ledger.running(attempt, self._by):
            while (left_s := attempt.stop_control.kill_at - lease_time()) > 0:  # noqa: ASYNC110 - what is killed hears of nothing
                await asyncio.sleep(left_s)
        return Outcome(verdict=Verdict.INFRA_ERROR, reason=StopReason.LEASE_LOST)


class WatchedSession:
    device = "watched"
    redactor = Redactor()

    def __init__(self, runner: WatchedRunner) -> None:
        self._runner = runner

    async def healthy(self) -> bool:
        return True

    async def run(self, attempt: Attempt) -> Outcome:
        return await self._runner.run(attempt)

    async def release(self) -> None:
        return


def watched(ledger: Ledger, by: str = "", **options: object) -> dict[str, Runner]:
    return {"emulator": WatchedRunner(ledger, by, **options)}  # type: ignore[arg-type]


async def ended(log: EventLog, slot: Slot, *, within_s: float = 15.0) -> Job:
    """The slot's job once it is not live any more, with patience for a server that is away."""

    async def ask() -> Job | None:
        with contextlib.suppress(NatsUnavailable):
            job = await log.load(slot)
            return job if job is not None and not job.live else None
        return None

    job = await eventually(ask, within_s=within_s, what=f"end of {slot}")
    assert job is not None
    return job


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again while the server is away, for a minute at most."""
    deadline = time.monotonic() + patience(60.0)
    while True:
        try:
            return await ask()
        except NatsUnavailable:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)


async def legal_history(log: EventLog, slot: Slot) -> list[Event]:
    """The slot's known events, oldest first, after a look that every one was allowed where it
    stands.
    """
    job: Job | None = None
    events = []
    for one in await log.history(slot):
        if one.event is not None:
            assert broken_rule(job, one.event) is None, (one, job)
            job = evolve(job, one.event, one.seq)
            events.append(one.event)
    assert job == await log.load(slot)
    return events


async def all_executed_once_at_a_time(
    log: EventLog, specs: Sequence[JobSpec], ledger: Ledger, *, within_s: float = 30.0
) -> Counter[str]:
    """Wait until all jobs have ended, and look that each one was executed to a green end, none
    twice at a time. Gives the counts of all events.
    """
    told: Counter[str] = Counter()
    async with asyncio.timeout(patience(within_s)):
        for spec in specs:
            final = await ended(log, spec.slot, within_s=within_s)
            events = await patiently(lambda slot=spec.slot: legal_history(log, slot))  # type: ignore[misc]
            told.update(map(event_type, events))
            runs = ledger.of(spec.slot)
            assert final.verdict in ("passed", "flaky"), events
            assert sum(isinstance(event, Finished) for event in events) == 1
            assert 1 <= len(runs) <= sum(isinstance(event, Started) for event in events), (
                runs,
                events,
            )
    assert not ledger.overlaps, "\n".join(ledger.overlaps)
    assert not ledger.under_way(), ledger.under_way()
    return told
