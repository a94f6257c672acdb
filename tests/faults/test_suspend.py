"""The lease of an agent whose host was suspended: its timers have stood still, the visibility
timeout has not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from agents import FAST, agree, running_agent, submit
from factories import spec
from faults.watched import Ledger, ended, watched
from patience import patience
from qgjet.agent.lease import Lease
from qgjet.agent.visibility import VisibilityTimeout
from qgjet.config.settings import QueueSettings
from qgjet.domain.deployment import Deployment
from qgjet.domain.events import Started, Verdict
from qgjet.domain.subjects import Lane
from qgjet.jetstream.connection import connect
from qgjet.jetstream.server import NatsServer
from qgjet.process.stop_control import StopReason
from qgjet.store import streams
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue

Suspend = Callable[[float], None]

LONG = QueueSettings(visibility_timeout_s=600.0)
SOON_S = 10.0
"""Far below the first heartbeat, which comes after 200 s."""


@pytest.fixture
async def log(server: NatsServer) -> AsyncIterator[EventLog]:
    async with connect(server.url, name="test") as connection:
        await streams.ensure(connection, Deployment(visibility_timeout_s=LONG.visibility_timeout_s))
        yield EventLog(connection)


@pytest.fixture
def suspend(monkeypatch: pytest.MonkeyPatch) -> Suspend:
    """Moves the clock of leases ahead. The event loop's does not follow."""
    real = time.clock_gettime

    def suspend(seconds: float) -> None:
        monkeypatch.setattr(time, "clock_gettime", lambda clock: real(clock) + seconds)

    return suspend


async def held(log: EventLog) -> Lease:
    job = spec()
    await log.submit(job)
    delivery = await Queue(log.connection, LONG).take(Lane(job.partition, job.rank), 1.0)
    assert delivery is not None
    return Lease(log, delivery, "agent", VisibilityTimeout(log.connection, LONG))


async def test_a_lease_that_ran_out_during_a_suspend_is_not_extended(
    log: EventLog, suspend: Suspend
) -> None:
    async with await held(log) as lease:
        until = lease.stop_control.kill_at
        suspend(LONG.visibility_timeout_s)
        assert lease.is_over
        async with asyncio.timeout(patience(SOON_S)):
            assert await lease.stop_control.stopped() is StopReason.LEASE_LOST
        assert lease.stop_control.kill_at == until


async def test_a_lease_is_confirmed_at_once_after_a_short_suspend(
    log: EventLog, suspend: Suspend
) -> None:
    async with await held(log) as lease:
        until, extended = lease.stop_control.kill_at, asyncio.Event()
        lease.stop_control.follow(lambda kill_at: extended.set() if kill_at > until else None)
        suspend(LONG.visibility_timeout_s / 2)
        async with asyncio.timeout(patience(SOON_S)):
            await extended.wait()
        assert lease.stop_control.reason is None


async def test_a_job_whose_agent_stood_still_after_it_had_claimed_it_is_not_run_there(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other agent has it by then: its second attempt would run beside the first one, which has
    not begun yet.
    """
    job, ledger = spec(), Ledger()
    async with connect(server.url, name="one") as one, connect(server.url, name="two") as two:
        await streams.ensure(one)
        await agree(one, FAST.deployment)
        log, append = EventLog(one), EventLog.append

        async def standing_still(self: EventLog, *given: Any, **more: Any) -> int:
            seq = await append(self, *given, **more)
            if self is log and isinstance(given[1], Started):
                monkeypatch.setattr(EventLog, "append", append)
                time.sleep(FAST.visibility_timeout_s)  # noqa: ASYNC251 - with everything else in this process
            return seq

        await submit(log, job)
        monkeypatch.setattr(EventLog, "append", standing_still)
        async with (
            running_agent(log, tmp_path / "one", runners=watched(ledger, "one")),
            running_agent(
                EventLog(two), tmp_path / "two", runners=watched(ledger, "two"), poll_s=0.05
            ),
        ):
            final = await ended(log, job.slot)
    assert (final.verdict, final.attempt) == (Verdict.PASSED, 2)
    assert [run.number for run in ledger.runs] == [2]
