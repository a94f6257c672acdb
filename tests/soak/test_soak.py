"""What tests/faults looks at for seconds, for minutes."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from agents import agree, ended, eventually
from factories import spec
from faults.crew import SOON, Crew, Yard, crew
from faults.storm import Storm, drop_consumers, rage
from faults.watched import legal_history, patiently
from qgjet.config.settings import QueueSettings
from qgjet.domain.decide import OnDuplicate
from qgjet.domain.events import JobSpec, Verdict
from qgjet.domain.subjects import Lane
from qgjet.domain.suite import SuiteOpened
from qgjet.jetstream.connection import Connection, connect
from qgjet.jetstream.server import NatsServer
from qgjet.store.event_log import Accepted, EventLog
from qgjet.store.job_queue import Queue
from qgjet.store.suite_log import Submission, openings, submit_suite
from soak.cluster import cluster


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_server_that_is_killed_20_times_loses_nothing_and_runs_nothing_twice_at_a_time(
    server: NatsServer, connection: Connection, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)

    async def kill(_: EventLog) -> None:
        server.kill()
        await asyncio.sleep(
            rng.choice((0.0, 0.0, 0.5, 1.5, 3.0))
        )  # for longer than a lease now and then
        await server.start()

    storm = Storm(server.url, tmp_path, seed=seed)
    told = await rage(storm, kill, times=20)
    assert told["finished"] == len(storm.accepted)


async def test_consumers_that_are_deleted_40_times_lose_nothing_and_run_nothing_twice_at_a_time(
    server: NatsServer, connection: Connection, tmp_path: Path
) -> None:
    storm = Storm(server.url, tmp_path)
    told = await rage(storm, lambda log: drop_consumers(log, storm), times=40)
    assert told["finished"] == told["started"] == len(storm.accepted)


async def test_agents_that_are_killed_and_frozen_all_the_time_lose_nothing_and_run_nothing_twice_at_a_time(
    server: NatsServer, log: EventLog, yard: Yard
) -> None:
    """Real processes under real agents; whoever is killed is started again."""
    rng = random.Random(1)
    jobs = [
        spec(
            test=f"{number}/{'hang-then-pass' if number % 10 == 0 else 'pass'}.spec.js",
            execution_timeout_s=4.0,
            infra_retries=10,
        )
        for number in range(150)
    ]
    await agree(log.connection, SOON.deployment)
    await Queue(log.connection, SOON).ensure(Lane(jobs[0].partition, 5))
    await log.submit_many(jobs)
    with crew(server.url, yard) as agents:
        for number in range(3):
            agents.start(f"agent-{number}", slots=2)
        enough = asyncio.Event()
        torment = asyncio.create_task(_torment(agents, rng, enough))
        for job in jobs:
            assert (await ended(log, job.slot, within_s=300)).verdict in (
                Verdict.PASSED,
                Verdict.FLAKY,
            )
            await legal_history(log, job.slot)
        enough.set()
        await torment
    assert yard.lines("overlap") == []
    for job in jobs:
        assert yard.lines("end", job.test), job.test


async def _torment(agents: Crew, rng: random.Random, enough: asyncio.Event) -> None:
    number = len(agents.agents)
    while not enough.is_set():
        await asyncio.sleep(rng.uniform(0.5, 2.0))
        victim = rng.choice([agent for agent in agents.agents if agent.process.poll() is None])
        if rng.random() < 0.5:
            victim.kill()
            agents.start(f"agent-{number}", slots=2)
            number += 1
        else:
            victim.freeze()
            await asyncio.sleep(rng.uniform(0.1, 2 * SOON.visibility_timeout_s))
            victim.thaw()


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_cluster_that_loses_a_node_again_and_again_loses_no_job(
    tmp_path: Path, seed: int
) -> None:
    """The leader of the log every other time. A takeover lasts longer than most visibility timeouts
    of these tests, so this one is longer.
    """
    rng = random.Random(seed)
    patient = QueueSettings(
        visibility_timeout_s=12.0, retry_base_s=0.02, retry_cap_s=0.05, max_deliver=100, replicas=3
    )
    async with cluster(tmp_path / "cluster") as nodes:
        await nodes.ready()

        async def kill(_: EventLog) -> None:
            victim = await nodes.leader() if rng.random() < 0.5 else rng.choice(nodes.nodes)
            victim.kill()
            await asyncio.sleep(rng.uniform(0.0, 3.0))
            await victim.start()
            await eventually(lambda: _has_a_leader(nodes), within_s=30)

        storm = Storm(nodes.url, tmp_path, queue=patient, jobs_per_s=30.0, seed=seed)
        told = await rage(storm, kill, times=3, runs_between=75)
    assert told["finished"] == len(storm.accepted) >= 300


async def _has_a_leader(nodes: object) -> bool:
    try:
        return await nodes.leader() is not None  # type: ignore[attr-defined]
    except Exception:
        return False


async def test_suites_on_a_cluster_are_whole_though_its_leader_dies(tmp_path: Path) -> None:
    """Suites that want overlapping tests, while the leader of the log is killed: each is there as a
    whole, and no slot has two jobs.
    """
    async with cluster(tmp_path / "cluster") as nodes:
        await nodes.ready()
        async with connect(nodes.url, name="suites", timeout_s=15.0) as connection:
            log = EventLog(connection)
            wanted = {
                f"suite-{number}": [
                    spec(
                        test=f"tests/{(number * 7 + step) % 150}.spec.js",
                        suite_ids=(f"suite-{number}",),
                    )
                    for step in range(40)
                ]
                for number in range(30)
            }

            async def submit(suite_id: str, specs: list[JobSpec]) -> list[Accepted]:
                asked = Submission(
                    suite_id=suite_id,
                    id=suite_id,
                    specs=specs,
                    modes=[OnDuplicate.ATTACH] * len(specs),
                )
                return await submit_suite(log, asked, timeout_s=60.0)

            submitting = [asyncio.create_task(submit(*one)) for one in wanted.items()]
            victim = await nodes.leader()
            victim.kill()
            answers = await asyncio.gather(*submitting)
            await victim.start()
            by_test: dict[str, set[str]] = {}
            for (suite_id, specs), given in zip(wanted.items(), answers, strict=True):
                events = await patiently(lambda suite_id=suite_id: opened(log, suite_id))  # type: ignore[misc]  # the leader may change once more
                assert [[member.job_id for member in event.jobs] for event in events] == [
                    [answer.job_id for answer in given]
                ]
                for one, answer in zip(specs, given, strict=True):
                    by_test.setdefault(one.test, set()).add(answer.job_id)
                    history = await patiently(lambda slot=one.slot: log.history(slot))  # type: ignore[misc]
                    assert [event.event.job_id for event in history if event.event] == [
                        answer.job_id
                    ]
            assert {len(ids) for ids in by_test.values()} == {1}


async def opened(log: EventLog, suite_id: str) -> list[SuiteOpened]:
    return [event async for _, event in openings(log, "acme", suite_id)]
