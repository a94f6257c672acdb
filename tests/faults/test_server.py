"""The server dies, stays away, or forgets its consumers."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from agents import FAST, eventually, running_agent, story, submit
from factories import spec
from faults.proxy import Proxy
from faults.storm import Storm, drop_consumers, rage
from faults.watched import Ledger, StubbornRunner, ended, watched
from qgjet.agent.lease import HOLD
from qgjet.config.settings import QueueSettings
from qgjet.domain.events import Verdict
from qgjet.domain.subjects import Lane, lane_consumer
from qgjet.errors import NatsUnavailable
from qgjet.jetstream.connection import Connection, connect
from qgjet.jetstream.server import NatsServer
from qgjet.store import agent_registry
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue
from qgjet.support.clock import lease_time, utc_now

VISIBILITY_S = FAST.visibility_timeout_s
BRIEF = QueueSettings(visibility_timeout_s=1.0)
LONGER = QueueSettings(visibility_timeout_s=3.0)
"""A restart, and the reconnecting after it, take a second on a busy machine."""


async def test_a_server_that_is_killed_under_load_loses_nothing_and_runs_nothing_twice_at_a_time(
    server: NatsServer, connection: Connection, tmp_path: Path
) -> None:
    async def kill(_: EventLog) -> None:
        server.kill()
        await server.start()

    storm = Storm(server.url, tmp_path)
    told = await rage(storm, kill, times=3)
    assert told["finished"] == len(storm.accepted) >= 3 * 40


async def test_consumers_that_are_deleted_under_load_lose_nothing_and_run_nothing_twice_at_a_time(
    server: NatsServer, connection: Connection, tmp_path: Path
) -> None:
    storm = Storm(server.url, tmp_path)
    told = await rage(storm, lambda log: drop_consumers(log, storm), times=4)
    assert told["finished"] == told["started"] == len(storm.accepted), "no lease was lost by it"


# -- the lease -----------------------------------------------------------------------------------------------------------------


async def test_a_job_that_ends_while_the_server_is_away_keeps_its_verdict(
    server: NatsServer, log: EventLog, tmp_path: Path, ledger: Ledger
) -> None:
    job = spec(max_retries=0, infra_retries=0)
    gate = asyncio.Event()
    await submit(log, job)
    async with running_agent(log, tmp_path, runners=watched(ledger, gate=gate)):
        run = await ledger.started(job.slot)
        server.kill()
        gate.set()
        await ledger.until(lambda: run.ended is not None, what="end of the test")
        await server.start()
        final = await ended(log, job.slot)
    assert (final.verdict, final.attempt) == (Verdict.PASSED, 1)
    assert await story(log, job.slot) == ["submitted", "started", "finished"]


async def test_a_server_away_for_less_than_the_lease_costs_a_running_job_nothing(
    server: NatsServer, log: EventLog, tmp_path: Path, ledger: Ledger
) -> None:
    job = spec(max_retries=0, infra_retries=0)
    gate = asyncio.Event()
    await Queue(log.connection, LONGER).ensure(Lane(job.partition, job.rank))
    await log.submit(job)
    async with running_agent(log, tmp_path, runners=watched(ledger, gate=gate), queue=LONGER):
        run = await ledger.started(job.slot)
        await run.heartbeat()
        server.kill()
        await eventually(lambda: is_away(log.connection))
        await server.start()
        await run.heartbeat()
        gate.set()
        final = await ended(log, job.slot)
    assert (final.verdict, final.attempt) == (Verdict.PASSED, 1)
    assert await story(log, job.slot) == ["submitted", "started", "finished"]


async def is_away(connection: Connection) -> bool:
    return not connection.is_connected


async def killed(server: NatsServer) -> None:
    server.kill()


async def frozen(server: NatsServer) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)


async def back(server: NatsServer) -> None:
    if server.process is None:
        await server.start()
    else:
        server.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("away", [killed, frozen])
async def test_a_server_away_for_longer_than_the_lease_stops_the_job_before_it_may_be_handed_on(
    server: NatsServer,
    log: EventLog,
    tmp_path: Path,
    ledger: Ledger,
    away: Callable[[NatsServer], Awaitable[None]],
) -> None:
    job = spec(max_retries=0, infra_retries=1)
    await submit(log, job)
    async with running_agent(
        log, tmp_path, runners=watched(ledger, takes_s=lambda _: 0.0 if ledger.runs[1:] else 60.0)
    ):
        run = await ledger.started(job.slot)
        await run.heartbeat()
        await away(server)
        since = time.monotonic()
        await ledger.until(lambda: run.ended is not None, what="end of the test")
        await back(server)
        assert run.ended is not None
        assert run.ended - since < VISIBILITY_S
        final = await ended(log, job.slot)
    assert (final.verdict, final.attempt, final.infra_retries_left) == (Verdict.PASSED, 2, 0)
    assert await story(log, job.slot) == [
        "submitted",
        "started",
        "attempt_ended",
        "started",
        "finished",
    ]


async def test_an_agent_that_is_cut_off_stops_its_job_before_another_one_gets_it_and_is_heard_no_more(
    log: EventLog, relay: Proxy, tmp_path: Path, ledger: Ledger
) -> None:
    """What it says when it is back, heartbeats, a result and an answer to the message, comes too
    late.
    """
    job = spec(max_retries=0)
    await submit(log, job)
    async with (
        connect(relay.url, name="cut off") as connection,
        running_agent(
            EventLog(connection), tmp_path, runners=watched(ledger, "one", takes_s=lambda _: 60.0)
        ),
    ):
        run = await ledger.started(job.slot)
        await run.heartbeat()
        relay.hold()
        async with running_agent(log, tmp_path, runners=watched(ledger, "two"), poll_s=0.1):
            final = await ended(log, job.slot)
            history = await log.history(job.slot)
            relay.let_go()
            await connection.request("$JS.API.INFO")
    assert await log.history(job.slot) == history
    assert await story(log, job.slot) == [
        "submitted",
        "started",
        "attempt_lost",
        "started",
        "finished",
    ]
    assert (final.verdict, final.attempt, final.infra_retries_left) == (
        Verdict.PASSED,
        2,
        job.infra_retries - 1,
    )
    assert ledger.overlaps == []


async def test_a_restart_of_the_server_does_not_hand_a_job_on_while_it_runs(
    server: NatsServer, log: EventLog, relay: Proxy, tmp_path: Path, ledger: Ledger
) -> None:
    """The server remembers the time of a delivery in whole seconds: after a restart it hands jobs
    on up to a second too early.
    """
    job, visibility_s = spec(), 2.0
    queue = QueueSettings(visibility_timeout_s=visibility_s)
    await Queue(log.connection, queue).ensure(Lane(job.partition, job.rank))
    await log.submit(job)
    stubborn = {"emulator": StubbornRunner(ledger, "one")}
    async with (
        connect(relay.url, name="cut off") as connection,
        running_agent(EventLog(connection), tmp_path, runners=stubborn, queue=queue),
    ):
        run = await ledger.started(job.slot)
        while not (
            0.6 < sent_at(await run.heartbeat(), visibility_s) % 1 < 0.95
            and time.monotonic() - run.began > visibility_s
        ):
            pass  # it is one of three in a row, which are two thirds of a second apart
        relay.refuse()
        async with running_agent(
            log, tmp_path, runners=watched(ledger, "two"), queue=queue, poll_s=0.05
        ):
            server.kill()
            await server.start()
            await ended(log, job.slot)
        await relay.accept()
    assert not ledger.overlaps, ledger.overlaps


@pytest.mark.parametrize("ahead", [timedelta(0), timedelta(hours=1)])
async def test_a_restart_of_the_server_does_not_hand_on_what_was_started_a_moment_ago(
    server: NatsServer, log: EventLog, tmp_path: Path, ledger: Ledger, ahead: timedelta
) -> None:
    """On disk the server takes the time of the message for that of its delivery, until the first
    heartbeat: what had waited long is due at once.

    By the clock of the agent that gets it, the job may have been started an hour ago.
    """
    job = spec()
    lane = Lane(job.partition, job.rank)
    await Queue(log.connection, BRIEF).ensure(lane)
    await log.submit(job)
    await eventually(lambda: is_overdue(log, lane))
    async with (
        connect(server.url, name="one") as one,
        running_agent(
            EventLog(one),
            tmp_path,
            runners=watched(ledger, "one", takes_s=lambda _: 1.5),
            queue=BRIEF,
        ),
    ):
        await ledger.started(job.slot)
        two = EventLog(log.connection, lambda: utc_now() + ahead)
        async with running_agent(
            two,
            tmp_path,
            runners=watched(ledger, "two", takes_s=lambda _: 1.5),
            queue=BRIEF,
            poll_s=0.05,
        ):
            server.kill()
            await server.start()
            final = await ended(log, job.slot)
    assert not ledger.overlaps, ledger.overlaps
    assert (final.verdict, final.attempt) == (Verdict.PASSED, 1)


async def is_overdue(log: EventLog, lane: Lane) -> bool:
    """Whether the last event is older than the lane's messages may be without an answer, by the
    server's clock.
    """
    consumer = await log.connection.api(f"CONSUMER.INFO.QG_EVENTS.{lane_consumer(lane)}")
    stream = await log.connection.api("STREAM.INFO.QG_EVENTS")
    stored, now = (
        msgspec.convert(text, datetime) for text in (stream["state"]["last_ts"], stream["ts"])
    )
    return (now - stored).total_seconds() > consumer["config"]["ack_wait"] / 1e9


async def test_agents_are_known_again_after_a_restart_of_the_server(
    server: NatsServer, log: EventLog, tmp_path: Path
) -> None:
    """A stream in memory does not outlive a single server. Whoever is not known is taken for gone,
    with all that runs there.
    """
    async with running_agent(log, tmp_path) as agent:
        await eventually(lambda: is_known(log, agent.instance))
        server.stop()
        await server.start()
        await log.connection.wait_connected(10)
        await eventually(lambda: is_known(log, agent.instance), what="the agent is known again")


async def is_known(log: EventLog, instance: str) -> bool:
    with contextlib.suppress(NatsUnavailable):
        return instance in {info.instance for info in await agent_registry.agents(log.connection)}
    return False


def sent_at(kill_at: float, visibility_s: float) -> float:
    """When the heartbeat was sent that moved the hard end there, by the wall clock."""
    return time.time() + kill_at - HOLD * visibility_s - lease_time()
