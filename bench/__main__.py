"""What qgjet costs, next to the raw client in the same run.

    python -m bench                 everything, as a table of figures, floors and ratios
    python -m bench NAME ...        some of it: submit bulk drain latency http catchup flat start overview

Figures of one shared machine mean little by themselves: compare ratios, and runs of the same machine. Ends with 1 when a floor is missed.
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
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import uvloop
from msgspec import Struct

from bench import history, work
from qgjet import codec, presence
from qgjet.decide import Command, EndAttempt, Start, Submit, decide
from qgjet.events import Finished, JobSpec, Outcome, Verdict
from qgjet.job import Job, state_of
from qgjet.log import EventLog
from qgjet.queue import Queue
from qgjet.settings import ApiSettings, QueueSettings, Settings
from qgjet.subjects import STREAM, Lane
from qgjet_cli import daemon
from qgjet_projections.projector import Projector
from qgjet_projections.readmodel import JobQuery, ReadModel


class Figure(Struct, frozen=True):
    """One line of the table. `floor` is what it must reach (`at_most`: stay below)."""

    name: str
    value: float
    unit: str
    floor: float | None = None
    at_most: bool = False

    @property
    def holds(self) -> bool:
        return self.floor is None or (self.value <= self.floor if self.at_most else self.value >= self.floor)


async def submit() -> list[Figure]:
    """One submission after the other, against plain publishes of the same bytes by nats-py. In turns, so that both see the same machine."""
    async with work.broker() as (_, log):
        raw_s = own_s = 0.0
        jetstream = log.bus.client.jetstream()
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
        Figure("submit, one by one: of raw", raw_s / own_s, "x", 0.75),
    ]


async def bulk() -> list[Figure]:
    async with work.broker() as (_, log):
        jobs = work.specs(30_000, "bulk")
        began = time.perf_counter()
        answers = await log.submit_many(jobs)
        seconds = time.perf_counter() - began
        assert len({answer.seq for answer in answers if not isinstance(answer, Exception)}) == len(jobs)
    return [Figure("bulk submit", len(jobs) / seconds, "jobs/s", 15_000)]


@contextlib.asynccontextmanager
async def _read_model(log: EventLog) -> AsyncIterator[tuple[Projector, ReadModel]]:
    with tempfile.TemporaryDirectory(prefix="qgjet-bench-") as directory:
        model = ReadModel.open(Path(directory) / "read-model.sqlite")
        async with Projector(log, model) as projector:
            yield projector, model
        model.close()


async def _drain(count: int) -> float:
    """Jobs per second from a queue of `count`, until every verdict stands in the read model. Agent, server and this projector are three processes."""
    async with work.broker() as (server, log), _read_model(log) as (projector, model):
        jobs = work.specs(count, "drain")
        await log.submit_many(jobs)
        await Queue(log.bus, work.QUEUE).ensure(Lane(jobs[0].partition, 5))
        await projector.wait_for(count, 60)
        with work.process("agent", server.url, "100"):  # it says that it is ready before it asks for the first job
            began = time.perf_counter()
            await projector.wait_for(3 * count, 120)
            seconds = time.perf_counter() - began
        passed = sum(one.verdict is Verdict.PASSED for one in model.jobs(JobQuery(verdict=Verdict.PASSED, limit=500)).items)
        assert passed == min(count, 500)
        assert sum(model.counts().finished.values()) == count
    return count / seconds


async def _move(count: int) -> float:
    """The same messages without agent and read model."""
    async with work.broker() as (server, log):
        jobs = work.specs(count, "drain")
        await log.submit_many(jobs)
        await Queue(log.bus, work.QUEUE).ensure(Lane(jobs[0].partition, 5))
        with work.process("move", server.url, "100"):
            began = time.perf_counter()
            while (await log.state()).last_seq < 3 * count:  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.02)
            return count / (time.perf_counter() - began)


async def drain() -> list[Figure]:
    """In turns with the raw client, so that both see the same machine."""
    turns = [(await _move(20_000), await _drain(20_000)) for _ in range(3)]
    raw, own = (statistics.median(one) for one in zip(*turns, strict=True))
    return [
        Figure("raw pulls and publishes, 100 workers", raw, "jobs/s"),
        Figure("drain, one agent, 100 slots", own, "jobs/s", 5_000),
        Figure("drain, one agent: of raw", own / raw, "x"),
    ]


async def flat() -> list[Figure]:
    small, large = await _drain(1_000), await _drain(100_000)
    return [
        Figure("drain of 1,000 queued", small, "jobs/s"),
        Figure("drain of 100,000 queued", large, "jobs/s"),
        Figure("100,000 queued: of 1,000", large / small, "x", 0.8),
    ]


async def latency() -> list[Figure]:
    """From the call of submit to `passed` in the read model, one job at a time."""
    async with work.broker() as (server, log), _read_model(log) as (projector, model):
        with work.process("agent", server.url, "4"):
            await _first_job(log)
            times = []
            async with contextlib.aclosing(projector.subscribe()) as applied:
                for job in work.specs(500, "latency"):
                    began = time.perf_counter()
                    await log.submit(job)
                    while (view := model.job(job.job_id)) is None or view.verdict is None:
                        await anext(applied)
                    times.append(time.perf_counter() - began)
    return _percentiles("submit to passed, library", times, 3.0)


async def _first_job(log: EventLog) -> None:
    """Wait for the agent's ear, and for its first prepare."""
    (job,) = work.specs(1, "latency")
    await Queue(log.bus, work.QUEUE).ensure(Lane(job.partition, 5))
    await log.submit(job)
    async with log.tail(1) as batches, asyncio.timeout(30):
        async for batch in batches:
            if any(isinstance(one.event, Finished) for one in batch):
                return


def _percentiles(name: str, times: list[float], floor_ms: float) -> list[Figure]:
    cuts = statistics.quantiles([1000 * one for one in times], n=100)
    return [Figure(f"{name}, p50", cuts[49], "ms", floor_ms, True), Figure(f"{name}, p99", cuts[98], "ms")]


async def http() -> list[Figure]:
    """The same through the API: POST /submit, then GET /status until it says done."""
    async with work.broker() as (server, log):
        with work.process("agent", server.url, "4"), work.process("api", server.url) as api:
            assert api.stdout is not None
            await _first_job(log)
            times = []
            async with httpx.AsyncClient(base_url=api.stdout.readline().decode().strip()) as client:
                for job in work.specs(300, "http"):
                    body = {"org_id": job.org_id, "app_version_id": "latency", "test": job.test + "x", "target": job.target}
                    began = time.perf_counter()
                    answer = (await client.post("/submit", json=body)).raise_for_status().json()
                    while (await client.get(f"/status/{answer['job_id']}?min_seq={answer['seq']}")).json()["status"] != "done":
                        pass
                    times.append(time.perf_counter() - began)
    return _percentiles("submit to passed, HTTP", times, 6.0)


async def start() -> list[Figure]:
    """What a command costs before it does anything, against an empty Python."""
    own, empty = [], []
    for _ in range(10):
        empty.append(_cpu_s([sys.executable, "-c", "0"]))
        own.append(_cpu_s([sys.executable, "-m", "qgjet_cli.main", "--help"]))
    return [
        Figure("start of Python", min(empty) * 1000, "ms"),
        Figure("qgjet --help", min(own) * 1000, "ms", 300, at_most=True),
    ]


def _cpu_s(argv: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


async def catchup() -> list[Figure]:
    """An empty read model against a log of 100,000 jobs, three events each."""
    async with work.broker() as (_, log):
        count = 100_000
        await _write_stories(log, count)
        began = time.perf_counter()
        async with _read_model(log) as (projector, model):
            await projector.wait_for(3 * count, 120)
            seconds = time.perf_counter() - began
            assert sum(model.counts().finished.values()) == count
    return [Figure("projector catch-up", 3 * count / seconds, "events/s", 25_000)]


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
        states[job.job_id] = state_of(event, await log.append(job.slot, event, states[job.job_id].version if states.get(job.job_id) else 0))

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
    """Pages over a million jobs, of which 10,000 are live, from an API that knows nobody else: the whole answer, one at a time."""
    path = await asyncio.to_thread(history.long_history)
    async with work.broker() as (server, log):
        seq = history.belongs_to(path, (await log.state()).created)
        await log.bus.api(f"STREAM.PURGE.{STREAM}", {"seq": seq + 1})  # a log that goes on where the read model ends
        for agent in history.agents(path):
            await presence.announce(log.bus, agent)
        with work.process("pages", server.url, str(path)) as api:
            assert api.stdout is not None
            async with httpx.AsyncClient(base_url=api.stdout.readline().decode().strip(), timeout=60) as client:
                return [figure for page, name in PAGES.items() for figure in await _page(client, page, name)]


async def _page(client: httpx.AsyncClient, path: str, name: str) -> list[Figure]:
    times = []
    for _ in range(31):
        began = time.perf_counter()
        answer = (await client.get(path)).raise_for_status()
        times.append(1000 * (time.perf_counter() - began))
    cuts = statistics.quantiles(times[1:], n=10)  # the first one loads the template
    floor = 50.0 if path == "/" else None
    return [
        Figure(f"{name}, p50", cuts[4], "ms", floor, True),
        Figure(f"{name}, p90", cuts[8], "ms"),
        Figure(f"{name}, sent", answer.num_bytes_downloaded / 1000, "kB"),
    ]


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
        await _serve(Settings(nats_url=url, api=ApiSettings(port=0, database=str(Path(directory) / "read-model.sqlite"))))


async def _pages(url: str, database: str) -> None:
    """An API that forgets nothing: a log that begins where the read model ends looks as if all before were purged."""
    api = ApiSettings(port=0, database=database, janitor=False, auth=False)
    await _serve(Settings(nats_url=url, api=api, queue=QueueSettings(retention_s=0.0)))


async def _serve(settings: Settings) -> None:
    from qgjet_projections.api import serve

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
            bound = "" if figure.floor is None else f"{'<=' if figure.at_most else '>='} {figure.floor:,g}  {'ok' if figure.holds else 'MISSED'}"
            print(f"{figure.name:<38} {figure.value:>12,.2f} {figure.unit:<9} {bound}", flush=True)
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
