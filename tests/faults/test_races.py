"""Moments at which two things happen at once, one by one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path

import pytest

from agents import FAST, eventually, running_agent, scripted, story, submit
from factories import spec
from faults.proxy import Proxy
from faults.watched import Ledger, Run, WatchedRunner, WatchedSession, ended, watched
from patience import patience
from qgjet.agent import executor
from qgjet.agent.agent import Agent
from qgjet.agent.executor import Executor
from qgjet.agent.slot import AgentSlot
from qgjet.config.settings import AgentSettings, QueueSettings
from qgjet.domain.decide import Cancel, Lose, OnDuplicate
from qgjet.domain.events import JobSpec, Outcome, Partition, Slot, Status, Verdict
from qgjet.domain.job import Job
from qgjet.domain.subjects import Lane, lane_consumer
from qgjet.errors import NatsUnavailable, Overloaded, VersionConflict
from qgjet.jetstream.connection import connect
from qgjet.jetstream.server import NatsServer
from qgjet.runners.base import Attempt, Session
from qgjet.store import agent_registry, suite_log
from qgjet.store import event_log as event_logs
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Delivery, Queue
from qgjet.store.suite_log import Submission
from qgjet.support.clock import bounded

VISIBILITY_S = FAST.visibility_timeout_s
BRIEF = QueueSettings(visibility_timeout_s=1.5)
FOR_EVER = 60.0


async def delivered(log: EventLog, job: JobSpec) -> Delivery:
    delivery = await Queue(log.connection, FAST).take(Lane(job.partition, job.rank), 1.0)
    assert delivery is not None
    return delivery


async def is_due_again(log: EventLog, job: JobSpec) -> None:
    """Wait until the server has counted the lease of the job's message as over: it is then the next
    to be delivered.
    """
    info = await log.connection.api(
        f"CONSUMER.INFO.QG_EVENTS.{lane_consumer(Lane(job.partition, job.rank))}"
    )
    over = asyncio.get_running_loop().time() + 1.1 * info["config"]["ack_wait"] / 1e9
    await eventually(lambda: later_than(over))


async def later_than(moment: float) -> bool:
    return asyncio.get_running_loop().time() > moment


# -- leases ---------------------------------------------------------------------------------------------------------------------------


async def test_an_agent_that_froze_between_delivery_and_claim_does_not_run_the_job_beside_another_one(
    log: EventLog, tmp_path: Path, ledger: Ledger
) -> None:
    """A lease counts from the delivery, not from the moment an agent comes round to looking at it."""
    job = spec()
    await submit(log, job)
    stale = await delivered(log, job)
    await is_due_again(log, job)
    executor = Executor(log, "frozen", AgentSettings(), FAST, tmp_path)
    slot = AgentSlot("emulator", WatchedRunner(ledger, "frozen", takes_s=lambda _: 1.0), tmp_path)
    late = asyncio.create_task(executor.execute(stale, slot))
    async with running_agent(
        log, tmp_path, runners=watched(ledger, "prompt", takes_s=lambda _: 1.0), poll_s=0.05
    ):
        await ended(log, job.slot)
    await late
    await slot.release()
    assert ledger.overlaps == []


async def test_a_message_that_is_given_back_unseen_does_not_cost_a_running_job_its_lease(
    log: EventLog, tmp_path: Path, ledger: Ledger
) -> None:
    """A new consumer delivers the running job for the first time to an agent that drains, and for
    the second time to one that does not.
    """
    job = spec()
    gate = asyncio.Event()
    await submit(log, job)
    lane = Lane(job.partition, job.rank)
    async with running_agent(log, tmp_path, runners=watched(ledger, "one", gate=gate)):
        run = await ledger.started(job.slot)
        queue = GivesBack(log.connection, FAST)
        await queue.drop(lane)
        await queue.ensure(lane)
        draining = Agent(
            log, watched(ledger, "two"), {"emulator": 1}, tmp_path, AgentSettings(), FAST
        )
        draining._queue = queue
        queue.on_take = draining.drain
        await draining.run()
        async with running_agent(log, tmp_path, runners=watched(ledger, "three"), poll_s=0.1):
            await goes_on(run)
            gate.set()
            await ended(log, job.slot)
    assert await story(log, job.slot) == ["submitted", "started", "finished"]
    assert ledger.overlaps == []


async def goes_on(run: Run, heartbeats: int = 4) -> None:
    for _ in range(heartbeats):
        await run.heartbeat(within_s=3.0)


async def test_a_message_that_arrives_too_late_is_not_given_back(
    log: EventLog, relay: Proxy, tmp_path: Path, ledger: Ledger
) -> None:
    """The agent was frozen, or the network; its message is somebody else's lease by now, which
    giving it back would end.
    """
    job = spec()
    gate = asyncio.Event()
    await Queue(log.connection, BRIEF).ensure(Lane(job.partition, job.rank))
    relay.hold_at(b"$JS.ACK.QG_EVENTS.")
    async with (
        connect(relay.url, name="late") as connection,
        running_agent(
            EventLog(connection), tmp_path, runners=watched(ledger, "late"), queue=BRIEF, poll_s=0.1
        ),
    ):
        await log.submit(job)
        await relay.reached(b"$JS.ACK.QG_EVENTS.")
        async with running_agent(
            log, tmp_path, runners=watched(ledger, "prompt", gate=gate), queue=BRIEF, poll_s=0.1
        ):
            run = await ledger.started(job.slot)
            relay.let_go()
            await goes_on(run)
            gate.set()
            await ended(log, job.slot)
    assert await story(log, job.slot) == ["submitted", "started", "finished"]
    assert ledger.overlaps == []


async def test_an_agent_that_was_cut_off_while_it_prepared_does_not_give_back_what_is_another_ones(
    log: EventLog, relay: Proxy, tmp_path: Path, ledger: Ledger
) -> None:
    job = spec()
    gate = asyncio.Event()
    slow = SlowToPrepare(ledger, "slow")
    await Queue(log.connection, BRIEF).ensure(Lane(job.partition, job.rank))
    await log.submit(job)
    async with (
        connect(relay.url, name="slow") as connection,
        running_agent(
            EventLog(connection), tmp_path, runners={"emulator": slow}, queue=BRIEF, poll_s=0.1
        ),
    ):
        await slow.preparing.wait()
        relay.hold()
        async with running_agent(
            log, tmp_path, runners=watched(ledger, "prompt", gate=gate), queue=BRIEF, poll_s=0.1
        ):
            run = await ledger.started(job.slot)
            relay.let_go()
            await goes_on(run)
            gate.set()
            await ended(log, job.slot)
    assert await story(log, job.slot) == ["submitted", "started", "finished"]
    assert ledger.overlaps == []


class SlowToPrepare(WatchedRunner):
    """Does not get ready before it is told to stop."""

    def __init__(self, ledger: Ledger, by: str) -> None:
        super().__init__(ledger, by)
        self.preparing = asyncio.Event()

    async def prepare(self, partition: Partition, directory: Path) -> Session:
        self.preparing.set()
        await asyncio.Event().wait()
        raise AssertionError


class GivesBack(Queue):
    """Its agent is told to drain while it takes a message."""

    def on_take(self) -> None: ...

    async def take(self, lane: Lane, wait_s: float = 0.0) -> Delivery | None:
        delivery = await super().take(lane, wait_s)
        self.on_take()
        return delivery


async def test_a_job_whose_result_could_not_be_written_is_run_again_by_the_same_agent(
    server: NatsServer,
    log: EventLog,
    tmp_path: Path,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There may be no other agent. Its own name on the job is no proof that it still runs it."""
    monkeypatch.setattr(executor, "RESULT_TIMEOUT_S", 0.3)
    job = spec()
    gate = asyncio.Event()
    await submit(log, job)
    async with running_agent(
        log, tmp_path, runners=watched(ledger, gate=gate), poll_s=0.2
    ) as agent:
        await ledger.started(job.slot)
        server.kill()
        gate.set()
        await eventually(lambda: has_given_up(agent))
        await server.start()
        final = await ended(log, job.slot, within_s=4 * VISIBILITY_S + 2)
    assert (final.verdict, final.attempt) == (Verdict.PASSED, 2)
    assert ledger.overlaps == []


async def has_given_up(agent: Agent) -> bool:
    return not agent.info().running


async def test_a_longer_visibility_timeout_holds_for_lanes_that_exist_already(
    log: EventLog, tmp_path: Path, ledger: Ledger
) -> None:
    """Heartbeats that are timed for the new one come too late for a consumer that was made with the
    old one.
    """
    job = spec()
    await Queue(log.connection, QueueSettings(visibility_timeout_s=0.5)).ensure(
        Lane(job.partition, job.rank)
    )
    await log.submit(job)
    longer = QueueSettings(visibility_timeout_s=6.0)
    async with (
        running_agent(
            log,
            tmp_path,
            runners=watched(ledger, "one", takes_s=lambda _: 1.5),
            queue=longer,
            poll_s=0.1,
        ),
        running_agent(
            log,
            tmp_path,
            runners=watched(ledger, "two", takes_s=lambda _: 1.5),
            queue=longer,
            poll_s=0.1,
        ),
    ):
        await ended(log, job.slot)
    assert await story(log, job.slot) == ["submitted", "started", "finished"]
    assert ledger.overlaps == []


async def test_deliveries_do_not_run_out_before_the_retries_do(
    log: EventLog, tmp_path: Path
) -> None:
    """`max_deliver` bounds what goes wrong, not what was asked for: ten retries of each kind are
    allowed, and draining is free.
    """
    job = spec(max_retries=10, infra_retries=10)
    few = QueueSettings(
        visibility_timeout_s=1.0, retry_base_s=0.01, retry_cap_s=0.02, max_deliver=5
    )
    await Queue(log.connection, few).ensure(Lane(job.partition, job.rank))
    await log.submit(job)
    outcomes = {"*": (*["infra_error", "failed"] * 4, "passed")}
    async with running_agent(log, tmp_path, runners=scripted(outcomes), queue=few, poll_s=0.1):
        final = await ended(log, job.slot)
    assert (final.verdict, final.attempt) == (Verdict.FLAKY, 9)


# -- stopping -------------------------------------------------------------------------------------------------------------------------


class SlowToRead(EventLog):
    """Reads wait at a gate."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(log.connection)
        self.gate = asyncio.Event()
        self.waiting = asyncio.Event()

    async def load(self, slot: Slot) -> Job | None:
        self.waiting.set()
        await self.gate.wait()
        return await super().load(slot)


async def test_a_job_that_was_taken_at_the_moment_of_a_halt_is_given_back(
    log: EventLog, tmp_path: Path, ledger: Ledger
) -> None:
    job = spec()
    await submit(log, job)
    slow = SlowToRead(log)
    async with running_agent(
        slow, tmp_path, runners=watched(ledger, takes_s=lambda _: FOR_EVER)
    ) as agent:
        await slow.waiting.wait()
        agent.halt()
        slow.gate.set()
    left = await log.load(job.slot)
    assert left is not None
    assert (left.status, left.retries_left, left.infra_retries_left) == (
        Status.QUEUED,
        job.max_retries,
        job.infra_retries,
    )
    assert all(run.ended is not None for run in ledger.runs)


async def test_an_agent_that_is_cancelled_ends_as_cancelled_and_leaves_nothing_running(
    log: EventLog, tmp_path: Path, ledger: Ledger
) -> None:
    """With more waiting than it can run: what comes free at its end is not given away again."""
    jobs = [spec(test=f"tests/{number}.spec.js") for number in range(10)]
    for job in jobs:
        await submit(log, job)
    agent = Agent(
        log,
        watched(ledger, takes_s=lambda _: FOR_EVER),
        {"emulator": 2},
        tmp_path,
        AgentSettings(batch=1),
        FAST,
    )
    task = asyncio.create_task(agent.run())
    await ledger.until(lambda: len(ledger.under_way()) == 2, what="two jobs")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ledger.under_way() == []
    assert len(ledger.runs) == 2


async def test_a_halt_reaches_a_job_that_was_delivered_to_its_agent_twice(
    log: EventLog, tmp_path: Path, ledger: Ledger
) -> None:
    """Two slots prepare for the same job, because its consumer was made anew. One of them starts
    it, the other one leaves nothing behind.
    """
    job = spec()
    runner = GatedPrepare(ledger)
    await submit(log, job)
    async with running_agent(
        log, tmp_path, runners={"emulator": runner}, slots=2, poll_s=0.05
    ) as agent:
        await eventually(lambda: runner.is_preparing(1))
        await Queue(log.connection, FAST).drop(Lane(job.partition, job.rank))
        await Queue(log.connection, FAST).ensure(Lane(job.partition, job.rank))
        await eventually(lambda: runner.is_preparing(2))
        runner.gate.set()
        run = await ledger.started(job.slot)
        await eventually(lambda: knows_one(agent, job))
        agent.halt()
        await ledger.until(lambda: run.ended is not None, what="end of the run", within_s=2.0)
    assert await story(log, job.slot) == ["submitted", "started", "released"]


class GatedPrepare(WatchedRunner):
    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger, takes_s=lambda _: FOR_EVER)
        self.gate = asyncio.Event()
        self._preparing = 0

    async def is_preparing(self, number: int) -> bool:
        return self._preparing >= number

    async def prepare(self, partition: Partition, directory: Path) -> Session:
        self._preparing += 1
        await self.gate.wait()
        return await super().prepare(partition, directory)


async def knows_one(agent: Agent, job: JobSpec) -> bool:
    """Whether one slot runs the job and the other one has put it down."""
    (target,) = agent.info().targets
    return target.running == 1


async def test_a_release_that_is_under_way_at_a_drain_is_finished(
    log: EventLog, tmp_path: Path
) -> None:
    """It gives a device back; half of it leaves the device where nobody finds it."""
    job, runner = spec(), SlowToRelease()
    await submit(log, job)
    async with running_agent(log, tmp_path, runners={"emulator": runner}, keep_warm_s=0.1) as agent:
        await ended(log, job.slot)
        await runner.releasing.wait()
        agent.drain()
    assert runner.released == 1


async def test_a_release_for_the_next_partition_is_finished_at_a_halt(
    log: EventLog, tmp_path: Path
) -> None:
    job, following, runner = spec(), spec(app_version_id="2.0.0"), SlowToRelease()
    await submit(log, job)
    async with running_agent(log, tmp_path, runners={"emulator": runner}) as agent:
        await ended(log, job.slot)
        await submit(log, following)
        await runner.releasing.wait()
        agent.halt()
    assert runner.released == 1


class SlowToRelease(WatchedRunner):
    """Its sessions take half a second to give their device back."""

    def __init__(self) -> None:
        super().__init__(Ledger())
        self.releasing = asyncio.Event()
        self.released = 0

    async def prepare(self, partition: Partition, directory: Path) -> Session:
        return SlowSession(self)


class SlowSession(WatchedSession):
    def __init__(self, runner: SlowToRelease) -> None:
        super().__init__(runner)
        self._slow = runner

    async def release(self) -> None:
        self._slow.releasing.set()
        await asyncio.sleep(0.5)
        self._slow.released += 1


# -- finding work ---------------------------------------------------------------------------------------------------------------------


async def test_bells_of_two_lanes_wake_two_agents(
    log: EventLog, tmp_path: Path, ledger: Ledger
) -> None:
    """Both bells may reach the same agent, which has one slot: the other agent has to hear of the
    second lane from it.
    """
    pairs = [
        (spec(app_version_id=f"{number}.0"), spec(app_version_id=f"{number}.1"))
        for number in range(8)
    ]
    gates = [asyncio.Event() for _ in pairs]
    by_version = {
        job.app_version_id: gate for pair, gate in zip(pairs, gates, strict=True) for job in pair
    }
    async with (
        running_agent(
            log, tmp_path, runners={"emulator": Gated(ledger, by_version)}, poll_s=FOR_EVER
        ) as one,
        running_agent(
            log, tmp_path, runners={"emulator": Gated(ledger, by_version)}, poll_s=FOR_EVER
        ) as two,
    ):
        for pair, gate in zip(pairs, gates, strict=True):
            await eventually(lambda: listening(one, two))
            await asyncio.gather(*map(log.submit, pair))
            async with asyncio.timeout(patience(3)):
                for job in pair:
                    await ledger.started(job.slot)
            gate.set()
            for job in pair:
                await ended(log, job.slot)


class Gated(WatchedRunner):
    """A gate for each app version."""

    def __init__(self, ledger: Ledger, gates: dict[str, asyncio.Event]) -> None:
        super().__init__(ledger)
        self._gates = gates

    async def prepare(self, partition: Partition, directory: Path) -> Session:
        runner = WatchedRunner(self._ledger, gate=self._gates[partition.app_version_id])
        return await runner.prepare(partition, directory)


async def listening(*agents: Agent) -> bool:
    """Whether the agents hear the doorbell; the connection is the test's own, so what it sends
    afterwards comes after their subscriptions.
    """
    return all("emulator" in agent._deaf for agent in agents)


async def test_a_bell_under_way_is_heard_by_one_who_stops_listening(log: EventLog) -> None:
    """The server chose this listener for it: nobody else hears of the job."""
    heard: list[Lane] = []
    busy, go_on = asyncio.Event(), asyncio.Event()

    async def hear(lane: Lane) -> None:
        heard.append(lane)
        busy.set()
        await go_on.wait()

    queue = Queue(log.connection, FAST)
    stop = await queue.listen("emulator", hear)
    lanes = [Lane(spec(app_version_id=f"{number}").partition, 5) for number in range(3)]
    await queue.ring(lanes[0])
    await busy.wait()
    await queue.ring(lanes[1])
    stopping = asyncio.create_task(stop())
    await log.connection.client.flush()
    await queue.ring(lanes[2])
    go_on.set()
    await stopping
    await log.connection.client.flush()
    assert heard == lanes[:2]


async def test_a_lost_server_is_not_asked_once_for_every_job_that_waits(
    server: NatsServer,
    log: EventLog,
    tmp_path: Path,
    ledger: Ledger,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A loop that fails waits before it turns again."""
    monkeypatch.setattr(executor, "RESULT_TIMEOUT_S", 0.2)
    jobs = [spec(test=f"tests/{number}.spec.js") for number in range(500)]
    gate = asyncio.Event()
    await Queue(log.connection, FAST).ensure(Lane(jobs[0].partition, 5))
    await log.submit_many(jobs)
    with caplog.at_level(logging.WARNING, "qgjet"):
        async with running_agent(log, tmp_path, runners=watched(ledger, gate=gate), slots=2):
            await ledger.until(lambda: len(ledger.under_way()) == 2, what="two jobs")
            server.kill()
            gate.set()
            asked = asyncio.get_running_loop().time()
            await eventually(lambda: later_than(asked + 1.0))
            before = len(ledger.runs)
            await server.start()
            await ledger.until(lambda: len(ledger.runs) > before + 10, what="it goes on")
    said = [record.getMessage() for record in caplog.records if record.name == "qgjet.agent.agent"]
    assert len(said) < 50, f"{len(said)} warnings, such as {said[10]}"


async def test_agents_that_cannot_all_be_listed_are_not_taken_for_gone(log: EventLog) -> None:
    """JetStream answers for 1024 keys at most. An empty answer would cost every running job its
    agent.
    """
    names = [f"agent-{number}" for number in range(1100)]
    info = Agent(log, scripted(), {"emulator": 1}, Path(), AgentSettings(), FAST).info()
    for start in range(0, len(names), 100):
        await asyncio.gather(
            *(
                agent_registry.announce(log.connection, replaced(info, name))
                for name in names[start : start + 100]
            )
        )
    found = set(names)
    with contextlib.suppress(NatsUnavailable):
        found = {one.instance for one in await agent_registry.agents(log.connection)}
    assert found == set(names)


def replaced(info: agent_registry.AgentInfo, instance: str) -> agent_registry.AgentInfo:
    return agent_registry.AgentInfo(
        **{name: getattr(info, name) for name in info.__struct_fields__} | {"instance": instance}
    )


# -- directories ----------------------------------------------------------------------------------------------------------------------


class Writes(WatchedRunner):
    """Attempts that keep a file in their directory, as a test keeps its report. Without it they
    come to nothing.
    """

    async def run(self, attempt: Attempt) -> Outcome:
        attempt.directory.mkdir(parents=True)
        report = attempt.directory / "report"
        report.touch()
        outcome = await super().run(attempt)
        return outcome if report.exists() else Outcome(verdict=Verdict.CONFIG_ERROR)


async def test_an_attempt_that_is_over_does_not_clear_away_the_one_that_runs(
    log: EventLog, tmp_path: Path, ledger: Ledger
) -> None:
    """Agents of one host may share a work directory, and a zombie clears up after its job was given
    to another one.
    """
    job = spec()
    await submit(log, job)
    late = await delivered(log, job)
    gate = asyncio.Event()
    executor = Executor(log, "zombie", AgentSettings(), FAST, tmp_path)
    slot = AgentSlot("emulator", Writes(ledger, "zombie", takes_s=lambda _: FOR_EVER), tmp_path)
    zombie = asyncio.create_task(executor.execute(late, slot))
    await ledger.started(job.slot)
    await log.execute(
        job.slot, Lose(agent="zombie", attempt=1, by="test"), await log.load(job.slot)
    )
    await late.nak()
    async with running_agent(
        log, tmp_path, runners={"emulator": Writes(ledger, "heir", gate=gate)}, poll_s=0.1
    ):
        await ledger.started(job.slot, 2)
        await zombie
        gate.set()
        final = await ended(log, job.slot)
    await slot.release()
    assert (final.verdict, final.attempt) == (Verdict.PASSED, 2), (
        "the report of the second attempt was deleted by the first"
    )


@pytest.mark.parametrize("use", ["submit", "cancel", "execute", "suite"])
async def test_who_loses_every_race_gives_up_with_an_error(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    """Another writer that is first each time."""
    job = spec()
    await log.submit(job)
    monkeypatch.setattr(event_logs, "APPEND_TIMEOUT_S", 0.2)

    async def late(*_: object, **__: object) -> int:
        raise VersionConflict("the slot has moved on from 1")

    monkeypatch.setattr(log, "append", late)
    monkeypatch.setattr(suite_log, "_write", late)
    other, in_time = spec(test="other"), asyncio.get_running_loop().time() + 0.2
    torn = Submission(suite_id="s", id="one", specs=[other], modes=[OnDuplicate.ATTACH])
    uses: dict[str, Coroutine[object, object, object]] = {
        "submit": log.submit(other),
        "cancel": log.cancel(job.slot, job.job_id, by="test"),
        "execute": log.execute(
            job.slot, Cancel("test", ""), await log.load(job.slot), timeout_s=0.2
        ),
        "suite": suite_log._submit(log, torn, [0], Counter({other.org_id: 1}), in_time),
    }
    chosen = uses.pop(use)
    for other_use in uses.values():
        other_use.close()
    with pytest.raises(Overloaded, match="another writer was first"):
        await bounded(chosen, patience(10))
