"""A real agent in a process of its own, whose runner writes down what it executes: `python -m
chaos.worker <settings as JSON>`.

The record is this process's own file, a line per write, so that a `kill -9` loses nothing that has
happened: `start <job> <attempt> <agent> <time> <hold>`, `hold <job> <attempt> <time>` when the hold
on the job is extended, `end <job> <attempt> <time> <verdict>`. Times are CLOCK_MONOTONIC. What a
job does is the last part of its test's name. SIGTERM drains, once more halts. SIGUSR1 takes the
process's timers back to where a suspended host would have left them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from msgspec import Struct

from faults.watched import WatchedSession
from qgjet.agent.agent import Agent
from qgjet.config.settings import AgentSettings, QueueSettings
from qgjet.domain.events import Outcome, Partition, Verdict
from qgjet.errors import NatsUnavailable, PrepareFailed
from qgjet.jetstream.connection import connect
from qgjet.runners.base import Attempt, Session
from qgjet.runners.scripted import ScriptedRunner
from qgjet.store.event_log import EventLog
from qgjet.support.clock import Clock, lease_time, utc_now

WORDS = {
    "pass": ("passed",),
    "slow": ("passed",),
    "fail": ("failed",),
    "flaky": ("failed", "passed"),
    "hang": ("hang",),
    "crash": ("crash", "passed"),
}
PREPARE_FAILS = 0.005
LOOK_S = 0.05
MOST_TAKE_S = 0.6
true_monotonic = time.monotonic
"""The clock of histories, whatever is done to this process's own."""


class WorkerSettings(Struct, frozen=True, kw_only=True):
    name: str
    url: str
    target: str
    slots: int
    directory: str
    """For this process alone."""
    queue: QueueSettings
    seed: int

    @property
    def path(self) -> Path:
        return Path(self.directory)

    @property
    def ledger(self) -> Path:
        """There once the process can be suspended."""
        return self.path / "ledger"


class Entry(Struct):
    verdict: str = ""


class FileLedger:
    """The process's record."""

    def __init__(self, path: Path) -> None:
        self.agent = ""
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @contextlib.contextmanager
    def running(self, attempt: Attempt) -> Iterator[Entry]:
        what = f"{attempt.spec.job_id} {attempt.number}"
        self._note(
            f"start {what} {self.agent} {true_monotonic()} {_monotonic(attempt.stop_control.kill_at)}"
        )
        first, entry = attempt.stop_control.kill_at, Entry()
        unfollow = attempt.stop_control.follow(
            lambda until: self._note(f"hold {what} {_monotonic(until)}") if until != first else None
        )
        try:
            yield entry
        finally:
            unfollow()
            self._note(f"end {what} {true_monotonic()} {entry.verdict or '-'}")

    def _note(self, line: str) -> None:
        os.write(self._file, f"{line}\n".encode())


def _monotonic(at: float) -> float:
    """A reading of the clock of leases on the clock of histories."""
    return at - lease_time() + true_monotonic()


class RecordingRunner:
    """Takes a moment for most jobs, longer than a visibility timeout for slow ones. Ends with the
    stop control, as a process under its guardian would.
    """

    def __init__(self, ledger: FileLedger, visibility_s: float, rng: random.Random) -> None:
        self._ledger, self._visibility_s, self._random = ledger, visibility_s, rng

    async def prepare(self, partition: Partition, directory: Path) -> Session:
        if self._random.random() < PREPARE_FAILS:
            raise PrepareFailed("the device is not there, now and then")
        return WatchedSession(self)  # type: ignore[arg-type]

    async def run(self, attempt: Attempt) -> Outcome:
        word = attempt.spec.test.rsplit("/", 1)[-1].partition(".")[0]
        gate = asyncio.Event()
        takes_s = (
            self._random.uniform(0.8, 1.6) * self._visibility_s
            if word == "slow"
            else self._random.uniform(0.0, MOST_TAKE_S)
        )
        asyncio.get_running_loop().call_later(takes_s, gate.set)
        with self._ledger.running(attempt) as entry:
            session = await ScriptedRunner({attempt.spec.test: WORDS[word]}, gate=gate).prepare(
                attempt.spec.partition, attempt.directory
            )
            outcome = await session.run(attempt)
            if (
                lease_time() > attempt.stop_control.kill_at
            ):  # it was frozen: the guardian would have killed it before this line
                outcome = Outcome(verdict=Verdict.INFRA_ERROR, reason="lease_lost")
            entry.verdict = outcome.verdict
            return outcome


def clock_of(path: Path) -> Clock:
    """The wall clock, as wrong as the file says, in seconds."""

    def now() -> datetime:
        return utc_now() + timedelta(seconds=_number(path))

    return now


def _number(path: Path) -> float:
    try:
        return float(path.read_text() or 0)
    except OSError:
        return 0.0


def stand_still(path: Path) -> None:
    """On SIGUSR1, let the monotonic clock, and with it every timer, be behind by what the file
    says, in seconds; the clock of leases goes on.
    """
    behind_s = 0.0

    def resume(*_: object) -> None:
        nonlocal behind_s
        behind_s = _number(path)

    signal.signal(signal.SIGUSR1, resume)
    time.monotonic = lambda: true_monotonic() - behind_s


async def stall(path: Path) -> None:
    """Be as slow as the file says: nothing else in this process gets a turn for so many seconds at
    a time. Ends the process when its parent is gone.
    """
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(_number(path))  # noqa: ASYNC251 - that is the fault
        await asyncio.sleep(LOOK_S)
    os._exit(1)


async def work(settings: WorkerSettings) -> None:
    stand_still(settings.path / "suspended")
    ledger = FileLedger(settings.ledger)
    async with contextlib.AsyncExitStack() as stack:
        while True:
            try:
                connection = await stack.enter_async_context(
                    connect(settings.url, name=settings.name)
                )
                break
            except NatsUnavailable:
                await asyncio.sleep(0.2)
        runner = RecordingRunner(
            ledger, settings.queue.visibility_timeout_s, random.Random(settings.seed)
        )
        log = EventLog(connection, clock_of(settings.path / "clock"))
        wanted = AgentSettings(name=settings.name, poll_s=1.0)
        agent = Agent(
            log,
            {settings.target: runner},
            {settings.target: settings.slots},
            settings.path / "work",
            wanted,
            settings.queue,
        )
        ledger.agent = agent.instance
        stalling = asyncio.create_task(stall(settings.path / "slow"))
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGTERM, lambda: agent.halt() if agent.draining else agent.drain()
        )
        print(f"{agent.instance} serves", flush=True)
        try:
            await agent.run()
        finally:
            stalling.cancel()


if __name__ == "__main__":
    asyncio.run(work(msgspec.json.decode(sys.argv[1], type=WorkerSettings)))
