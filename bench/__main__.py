"""What qgjet costs, next to the raw client in the same run.

    python -m bench                 everything, as a table of figures and ratios
    python -m bench NAME ...        some of it: submit bulk drain latency http catchup flat start overview

Rates and times of one machine say little about another one, so only ratios have bounds: to a
reference that is measured in the same run, in turns, and of several turns the median. Exits with 1
when a bound is exceeded.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path

import httpx
import uvloop
from msgspec import Struct
from nats.js import JetStreamContext

from bench import history, work
from qgjet.config.settings import ApiSettings, QueueSettings, Settings
from qgjet.domain import codec
from qgjet.domain.decide import Command, EndAttempt, Start, Submit, decide
from qgjet.domain.events import Finished, JobSpec, Outcome, Verdict
from qgjet.domain.job import Job, state_of
from qgjet.domain.subjects import STREAM, Lane
from qgjet.store import agent_registry
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue
from qgjet_cli.runtime import daemon
from qgjet_projections.readmodel import JobQuery, ReadModel
from qgjet_projections.readmodel.projector import Projector


class Figure(Struct, frozen=True):
    """One line of the table. Ratios have a bound: `at_least` or `at_most`."""

    name: str
    value: float
    unit: str = "x"
    at_least: float | None = None
    at_most: float | None = None

    @property
    def holds(self) -> bool:
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    @property
    def bound(self) -> str:
        bounds = [
            f"{sign} {value:g}"
            for sign, value in ((">=", self.at_least), ("<=", self.at_most))
            if value is not None
        ]
        return "  ".join([*bounds, "ok" if self.holds else "MISSED"]) if bounds else ""


async def submit() -> list[Figure]:
    """One submission after the other, against plain publishes of the same bytes by nats-py. In
    turns, so that both see the same machine.
    """
    async with work.broker() as (_, log):
        raw_s = own_s = 0.0
        jetstream = log.connection.client.jetstream()
        for turn in range(10):
            jobs = work.specs(200, f"submit-{turn}")
            payload = codec.encode(decide(Submit(jobs[0]), None, log.clock()))
            began = time.perf_counter()
            for number in range(len(jobs)):
                await jetstream.publish(f"qg.control.bench.{turn}.{number}", payload, timeout=5)
            raw_s += time.perf_counter() - began
            began = time.perf_counter()
            for job in jobs:
                await log.submit(job)
            own_s += time.perf_counter() - began
    return [
        Figure("raw publish, one by one", 2000 / raw_s, "/s"),
        Figure("submit, one by one", 2000 / own_s, "/s"),
        Figure("submit, one by one: of raw", raw_s / own_s, at_least=0.75),
    ]


async def bulk() -> list[Figure]:
    """Many submissions in flight, against as many plain publishes of the same bytes by nats-py."""
    count, turns = 10_000, []
    async with work.broker() as (_, log):
        jetstream = log.connection.client.jetstream()
        for turn in range(3):
            jobs = work.specs(count, f"bulk-{turn}")
            payload = codec.encode(decide(Submit(jobs[0]), None, log.clock()))
            began = time.perf_counter()
            await _publish_many(
                jetstream, [f"qg.control.bench.{turn}.{number}" for number in range(count)], payload
            )
            raw_s = time.perf_counter() - began
            began = time.perf_counter()
            answers = await log.submit_many(jobs)
            turns.append((raw_s, time.perf_counter() - began))
            assert (
                len({answer.seq for answer in answers if not isinstance(answer, Exception)})
                == count
            )
    return [
        Figure("raw publishes, 512 in flight", count / _median(raw_s for raw_s, _ in turns), "/s"),
        Figure("bulk submit", count / _median(own_s for _, own_s in turns), "jobs/s"),
        Figure(
            "bulk submit: of raw", _median(raw_s / own_s for raw_s, own_s in turns), at_least=1.0
        ),
    ]


async def _publish_many(
    jetstream: JetStreamContext, subjects: Sequence[str], payload: bytes
) -> None:
    waiting = iter(subjects)

    async def publish() -> None:
        for subject in waiting:
            await jetstream.publish(subject, payload, timeout=10)

    await asyncio.gather(*(publish() for _ in range(512)))


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


@contextlib.asynccontextmanager
async def _read_model(log: EventLog) -> AsyncIterator[tuple[Projector, ReadModel]]:
    with tempfile.TemporaryDirectory(prefix="qgjet-bench-") as directory:
        model = ReadModel.open(Path(directory) / "read-model.sqlite")
        async with Projector(log, model) as projector:
            yield projector, model
        model.close()


async def _drain(count: int) -> float:
    """Jobs per second from a queue of `count`, until every verdict stands in the read model. Agent,
    server and this projector are three processes.
    """
    async with work.broker() as (server, log), _read_model(log) as (projector, model):
        jobs = work.specs(count, "drain")
        await log.submit_many(jobs)
        await Queue(log.connection, work.QUEUE).ensure(Lane(jobs[0].partition, 5))
        await projector.wait_for(count, 60)
        with work.process(
            "agent", server.url, "100"
        ):  # it says that it is ready before it asks for the first job
            began = time.perf_counter()
            await projector.wait_for(3 * count, 120)
            seconds = time.perf_counter() - began
        passed = sum(
            one.verdict is Verdict.PASSED
            for one in model.jobs(JobQuery(verdict=Verdict.PASSED, limit=500)).items
        )
        assert passed == min(count, 500)
        assert sum(model.counts().finished.values()) == count
    return count / seconds


async def _move(count: int) -> float:
    """The same messages without agent and read model."""
    async with work.broker() as (server, log):
        jobs = work.specs(count, "drain")
        await log.submit_many(jobs)
        await Queue(log.connection, work.QUEUE).ensure(Lane(jobs[0].partition, 5))
        with work.process("move", server.url, "100"):
            began = time.perf_counter()
            while (await log.state()).last_seq < 3 * count:  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.02)
            return count / (time.perf_counter() - began)


async def drain() -> list[Figure]:
    """In turns with the raw client, so that both see the same machine."""
    turns = [(await _move(20_000), await _drain(20_000)) for _ in range(3)]
    return [
        Figure("raw pulls and publishes, 100 workers", _median(raw for raw, _ in turns), "jobs/s"),
        Figure("drain, one agent, 100 slots", _median(own for _, own in turns), "jobs/s"),
        Figure("drain, one agent: of raw", _median(own / raw for raw, own in turns), at_least=0.4),
    ]


async def flat() -> list[Figure]:
    turns = [(await _drain(1_000), await _drain(100_000)) for _ in range(3)]
    return [
        Figure("drain of 1,000 queued", _median(small for small, _ in turns), "jobs/s"),
        Figure("drain of 100,000 queued", _median(large for _, large in turns), "jobs/s"),
        Figure(
            "100,000 queued: of 1,000",
            _median(large / small for small, large in turns),
            at_least=0.8,
        ),
    ]


async def latency() -> list[Figure]:
    """From the call of submit to `passed` in the read model, one job at a time; against the three
    confirmed writes that are the least it takes.
    """
    async with work.broker() as (server, log), _read_model(log) as (projector, model):
        with work.process("agent", server.url, "4"):
            await _first_job(log)
            times, raw = [], []
            async with contextlib.aclosing(projector.subscribe()) as applied:
                for job in work.specs(500, "latency"):
                    raw.append(await _three_writes(log))
                    began = time.perf_counter()
                    await log.submit(job)
                    while (view := model.job(job.job_id)) is None or view.verdict is None:
                        await anext(applied)
                    times.append(time.perf_counter() - began)
    return _latency("submit to passed, library", times, raw, at_most=12.0)


async def _three_writes(log: EventLog) -> float:
    """Seconds for three plain publishes, one after the other, to a stream that no part of qgjet
    reads.
    """
    jetstream = log.connection.client.jetstream()
    began = time.perf_counter()
    for _ in range(3):
        await jetstream.publish(work.REFERENCE, bytes(300), timeout=5)
    return time.perf_counter() - began


async def _first_job(log: EventLog) -> None:
    """Wait for the agent's ear, and for its first prepare."""
    (job,) = work.specs(1, "latency")
    await Queue(log.connection, work.QUEUE).ensure(Lane(job.partition, 5))
    await log.submit(job)
    async with log.tail(1) as batches, asyncio.timeout(30):
        async for batch in batches:
            if any(isinstance(one.event, Finished) for one in batch):
                return


def _latency(name: str, times: list[float], raw: list[float], *, at_most: float) -> list[Figure]:
    cuts = statistics.quantiles([1000 * one for one in times], n=100)
    return [
        Figure("three raw writes, p50", 1000 * _median(raw), "ms"),
        Figure(f"{name}, p50", cuts[49], "ms"),
        Figure(f"{name}, p99", cuts[98], "ms"),
        Figure(f"{name}: of raw", 1e-3 * cuts[49] / _median(raw), at_most=at_most),
    ]


async def http() -> list[Figure]:
    """The same through the API: POST /submit, then GET /status until it says done."""
    async with work.broker() as (server, log):
        with work.process("agent", server.url, "4"), work.process("api", server.url) as api:
            assert api.stdout is not None
            await _first_job(log)
            times, raw = [], []
            async with httpx.AsyncClient(base_url=api.stdout.readline().decode().strip()) as client:
                for job in work.specs(300, "http"):
                    raw.append(await _three_writes(log))
                    body = {
                        "org_id": job.org_id,
                        "app_version_id": "latency",
                        "test": job.test + "x",
                        "target": job.target,
                    }
                    began = time.perf_counter()
                    answer = (await client.post("/submit", json=body)).raise_for_status().json()
                    while (
                        await client.get(f"/status/{answer['job_id']}?min_seq={answer['seq']}")
                    ).json()["status"] != "done":
                        pass
                    times.append(time.perf_counter() - began)
    return _latency("submit to passed, HTTP", times, raw, at_most=30.0)


async def start() -> list[Figure]:
    """What a command costs before it does anything, against an empty Python."""
    own, empty = [], []
    for _ in range(10):
        empty.append(_cpu_s([sys.executable, "-c", "0"]))
        own.append(_cpu_s([sys.executable, "-m", "qgjet_cli.main", "--help"]))
    return [
        Figure("start of Python", min(empty) * 1000, "ms"),
        Figure("qgjet --help", min(own) * 1000, "ms"),
        Figure("qgjet --help: of Python", min(own) / min(empty), at_most=25.0),
    ]


def _cpu_s(argv: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


async def catchup() -> list[Figure]:
    """An empty read model against a log of 100,000 jobs, three events each; and the same log read
    and decoded, with nothing kept of it.
    """
    turns = []
    async with work.broker() as (_, log):
        count = 100_000
        await _write_stories(log, count)
        for _ in range(3):
            began = time.perf_counter()
            await _read_all(log, 3 * count)
            raw_s = time.perf_counter() - began
            began = time.perf_counter()
            async with _read_model(log) as (projector, model):
                await projector.wait_for(3 * count, 600)
                turns.append((raw_s, time.perf_counter() - began))
                assert sum(model.counts().finished.values()) == count
    return [
        Figure(
            "events read and decoded", 3 * count / _median(raw_s for raw_s, _ in turns), "events/s"
        ),
        Figure("projector catch-up", 3 * count / _median(own_s for _, own_s in turns), "events/s"),
        Figure(
            "projector catch-up: of reading",
            _median(raw_s / own_s for raw_s, own_s in turns),
            at_least=0.2,
        ),
    ]


async def _read_all(log: EventLog, last_seq: int) -> None:
    async with log.tail(1, batch=4000) as batches:
        async for batch in batches:
            if batch[-1].seq >= last_seq:
                return


async def _write_stories(log: EventLog, count: int) -> None:
    """Submitted, started and finished of every job, with 1,000 jobs under way at a time."""
    jobs = work.specs(count, "catchup")
    for first in range(0, count, 1_000):
        await _write_wave(log, jobs[first : first + 1_000])


async def _write_wave(log: EventLog, jobs: list[JobSpec]) -> None:
    outcome = Outcome(verdict=Verdict.PASSED, reason="scripted")
    states: dict[str, Job] = {}

    async def append(job: JobSpec, command: Command) -> None:
        event = decide(command, states.get(job.job_id), log.clock())
        states[job.job_id] = state_of(
            event,
            await log.append(
                job.slot, event, states[job.job_id].version if states.get(job.job_id) else 0
            ),
        )

    steps: tuple[Callable[[JobSpec], Command], ...] = (
        Submit,
        lambda job: Start(states[job.job_id].ticket, "bench"),
        lambda job: EndAttempt("bench", 1, outcome),
    )
    for step in steps:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(append(job, step(job)))


PAGES = {
    "/": "overview",
    "/ui/jobs": "jobs, first page",
    "/ui/jobs?cursor=WzE1MDAwMDBd": "jobs, from the middle",
    "/ui/jobs?status=queued&target=device": "jobs that wait for a target",
    "/ui/jobs?org_id=acme&verdict=timed_out": "jobs of an org and verdict",
    "/ui/suites": "suites",
    f"/ui/suites/ci-{history.SUITES - 99}": "a suite of 500 jobs",
    "/ui/tests": "tests",
    "/ui/tests/history?test=tests/area7/screen0107.spec.ts": "history of a test",
    "/ui/dead": "dead letters",
}
"""Pages of the dashboard; the cursor is the JSON `[1500000]`."""


async def overview() -> list[Figure]:
    """Pages over a million jobs, of which 10,000 are live, from an API that knows nobody else: the
    whole answer, one at a time.
    """
    path = await asyncio.to_thread(history.long_history)
    async with work.broker() as (server, log):
        seq = history.belongs_to(path, (await log.state()).created)
        await log.connection.api(
            f"STREAM.PURGE.{STREAM}", {"seq": seq + 1}
        )  # a log that goes on where the read model ends
        for agent in history.agents(path):
            await agent_registry.announce(log.connection, agent)
        with work.process("pages", server.url, str(path)) as api:
            assert api.stdout is not None
            async with httpx.AsyncClient(
                base_url=api.stdout.readline().decode().strip(), timeout=60
            ) as client:
                return [
                    figure
                    for page, name in PAGES.items()
                    for figure in await _page(client, page, name)
                ]


async def _page(client: httpx.AsyncClient, path: str, name: str) -> list[Figure]:
    """The overview, which everyone has open, has a bound: it may take as long as so many answers
    without any content.
    """
    times, raw = [], []
    for _ in range(31):
        raw.append(await _get_ms(client, "/livez"))
        times.append(await _get_ms(client, path))
    cuts = statistics.quantiles(times[1:], n=10)  # the first one loads the template
    return [
        Figure(f"{name}, p50", cuts[4], "ms"),
        Figure(f"{name}, p90", cuts[8], "ms"),
        Figure(
            f"{name}: of /livez", cuts[4] / _median(raw), at_most=100.0 if path == "/" else None
        ),
    ]


async def _get_ms(client: httpx.AsyncClient, path: str) -> float:
    began = time.perf_counter()
    (await client.get(path)).raise_for_status()
    return 1000 * (time.perf_counter() - began)


BENCHMARKS: dict[str, Callable[[], Awaitable[list[Figure]]]] = {
    "submit": submit,
    "bulk": bulk,
    "drain": drain,
    "latency": latency,
    "http": http,
    "catchup": catchup,
    "flat": flat,
    "start": start,
    "overview": overview,
}


async def _api(url: str) -> None:
    with tempfile.TemporaryDirectory(prefix="qgjet-bench-") as directory:
        await _serve(
            Settings(
                nats_url=url,
                api=ApiSettings(port=0, database=str(Path(directory) / "read-model.sqlite")),
            )
        )


async def _pages(url: str, database: str) -> None:
    """An API that forgets nothing: a log that begins where the read model ends looks as if all
    before were purged.
    """
    api = ApiSettings(port=0, database=database, janitor=False, auth=False)
    await _serve(Settings(nats_url=url, api=api, queue=QueueSettings(retention_s=0.0)))


async def _serve(settings: Settings) -> None:
    from qgjet_projections.serving.server import serve

    await serve(settings, ready=lambda address: print("ready", address, sep="\n", flush=True))


def main(arguments: list[str]) -> int:
    match arguments:
        case ["agent", url, slots]:
            daemon.run(work.serve(url, int(slots)))
            return 0
        case ["move", url, workers]:
            daemon.run(work.move(url, int(workers)))
            return 0
        case ["api", url]:
            daemon.run(_api(url))
            return 0
        case ["pages", url, database]:
            daemon.run(_pages(url, database))
            return 0
    figures: list[Figure] = []
    for name in arguments or BENCHMARKS:
        for figure in uvloop.run(BENCHMARKS[name]()):
            figures.append(figure)
            print(
                f"{figure.name:<38} {figure.value:>12,.2f} {figure.unit:<9} {figure.bound}",
                flush=True,
            )
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
