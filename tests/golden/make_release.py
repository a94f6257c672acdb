"""Makes what a release leaves behind, for the tests of later ones: `python
tests/golden/make_release.py tests/golden/release-0.1`.

Run once per release, with the code of that release; never made anew afterwards. A server with jobs
in every state is saved by `qgjet backup`, with the read model, a file of settings, and what each
job has to be. The log keeps everything for ever, so that the age of the files does not matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parent.parent))

from factories import spec
from qgjet import __version__
from qgjet.config.settings import QueueSettings
from qgjet.domain.decide import (
    Command,
    EndAttempt,
    Expire,
    Lose,
    OnDuplicate,
    Release,
    Requeue,
    Start,
)
from qgjet.domain.deployment import Deployment
from qgjet.domain.events import Artifact, JobSpec, Outcome, TestError, TestResult, Try, Verdict
from qgjet.domain.subjects import Lane
from qgjet.jetstream.connection import Connection, connect
from qgjet.jetstream.server import nats_server
from qgjet.store import backup, streams
from qgjet.store.artifacts import ArtifactStore, object_name
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue
from qgjet.store.suite_log import Submission, submit_suite
from qgjet_projections.readmodel import JobQuery, ReadModel, schema
from qgjet_projections.readmodel.projector import Projector

VISIBILITY_S = 1.0
ARTIFACT = b"\x89PNG what a test has left"
SETTINGS = """\
nats_url = "nats://127.0.0.1:4222"
api_url = "http://127.0.0.1:8000"
org_id = "acme"

[queue]
priority_order = "low-first"
visibility_timeout = "30s"
max_deliver = 20
retention = "90d"
retry_base = 1
retry_cap = "60s"

[job]
max_retries = 2
execution_timeout = "10m"
queue_timeout = "1h"

[agent]
slots = 2
batch = 3
keep_warm = "2m"
poll = "15s"

[artifacts]
collect = "on-failure"
max_file = "100MB"
retention = "14d"
log_retention = "7d"

[api]
port = 8000
database = "read-model.sqlite"
max_lag_events = 10000
janitor = true

[targets.emulator]
runner = "command"
command = ["run-test", "{test}"]
slots = 2
prepare = ["boot", "{app_version_id}"]
redact = ["API_TOKEN"]
"""


class Author:
    """Tells the stories of jobs, as agents and clients would."""

    def __init__(self, log: EventLog) -> None:
        self.log = log

    async def submit(
        self, test: str, on_duplicate: OnDuplicate = OnDuplicate.ATTACH, **fields: Any
    ) -> JobSpec:
        wanted = spec(test=test, job_id=f"{test}-{fields.pop('number', 1)}", **fields)
        await self.log.submit(wanted, on_duplicate)
        return wanted

    async def tell(self, job: JobSpec, command: Command) -> None:
        await self.log.execute(job.slot, command, await self.log.load(job.slot))

    async def start(self, job: JobSpec) -> None:
        state = await self.log.load(job.slot)
        assert state is not None
        await self.tell(job, Start(state.ticket, "agent-that-is-gone", device="Pixel 8"))

    async def end(self, job: JobSpec, verdict: Verdict, **outcome: Any) -> None:
        state = await self.log.load(job.slot)
        assert state is not None
        await self.tell(
            job,
            EndAttempt(
                "agent-that-is-gone",
                state.attempt,
                Outcome(verdict=verdict, duration_s=1.5, **outcome),
            ),
        )

    async def run(self, test: str, *verdicts: Verdict, **fields: Any) -> JobSpec:
        job = await self.submit(
            test, **{"max_retries": len(verdicts) - 1, "infra_retries": len(verdicts) - 1, **fields}
        )
        for verdict in verdicts:
            await self.start(job)
            await self.end(job, verdict)
        return job


async def write(log: EventLog) -> None:
    """A job for every state, verdict and event."""
    author = Author(log)
    for verdict in (
        Verdict.PASSED,
        Verdict.FAILED,
        Verdict.TIMED_OUT,
        Verdict.INFRA_ERROR,
        Verdict.CONFIG_ERROR,
        Verdict.SKIPPED,
    ):
        await author.run(str(verdict), verdict)
    await author.run(
        "flaky", Verdict.FAILED, Verdict.PASSED, tags={"branch": "main", "ünï": "\u2028"}
    )
    await author.run("again", Verdict.FAILED)
    await author.run("again", Verdict.PASSED, number=2)
    await author.submit("queued", queue_timeout_s=None)
    await author.submit("queued urgently", priority=0, rank=0)
    await author.start(await author.submit("running"))
    lost = await author.submit("lost")
    await author.start(lost)
    await author.tell(lost, Lose("agent-that-is-gone", 1, "janitor"))
    requeued = await author.submit("requeued")
    await author.tell(requeued, Requeue(requeued, "undeliverable", "janitor"))
    released = await author.submit("released")
    state = await log.load(released.slot)
    assert state is not None
    await author.tell(
        released,
        Release("agent-that-is-gone", state.ticket, state.attempt, "prepare_failed", "no device"),
    )
    expired = await author.submit("expired", queue_timeout_s=1.0)
    state = await log.load(expired.slot)
    assert state is not None
    await author.tell(
        expired, Expire(state.ticket, "queue_timeout", "nobody started it", "janitor")
    )
    cancelled = await author.submit("cancelled")
    await log.cancel(cancelled.slot, cancelled.job_id, by="somebody")
    await author.submit("replaced")
    await author.submit("replaced", OnDuplicate.REPLACE, number=2)
    await _with_results(author)
    members = [
        spec(test=test, job_id=f"suite {test}", suite_ids=("nightly",)) for test in ("a", "b")
    ]
    await submit_suite(
        log,
        Submission(
            suite_id="nightly",
            id="1",
            specs=members,
            modes=[OnDuplicate.ATTACH] * 2,
            tags={"commit": "c0ffee"},
        ),
    )


async def _with_results(author: Author) -> None:
    job = await author.submit("with results", max_retries=0)
    await author.start(job)
    info = await ArtifactStore(author.log.connection).put(
        object_name(job.job_id, 1, "screen.png"), io.BytesIO(ARTIFACT), content_type="image/png"
    )
    failed = Try(
        status="failed",
        duration_s=0.5,
        error=TestError(message="expected 1, got 2", file="a.js", line=3),
    )
    tests = (TestResult(id="1", title="adds", outcome="failed", tries=(failed,)),)
    artifacts = (
        Artifact(name="screen.png", content_type="image/png", size=info.size, sha256=info.sha256),
    )
    await author.end(
        job, Verdict.FAILED, reason="tests_failed", exit_code=1, tests=tests, artifacts=artifacts
    )


async def read_model_of(log: EventLog, path: Path) -> list[dict[str, Any]]:
    """Fill the file from the log; gives what each job is."""
    read_model = ReadModel.open(path)
    async with Projector(log, read_model, retention_s=0) as projector:
        assert await projector.wait_for((await log.state()).last_seq, 30)
    jobs = [told(job) for job in read_model.all_jobs(JobQuery())]
    read_model.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("VACUUM")
    return jobs


def told(job: Any) -> dict[str, Any]:
    """What of a job must not change from release to release."""
    fields = (
        "job_id",
        "test",
        "status",
        "verdict",
        "attempt",
        "failures",
        "priority",
        "reason",
        "suite_ids",
        "tags",
        "created_at",
        "finished_at",
    )
    return {field: value for field, value in msgspec.to_builtins(job).items() if field in fields}


async def ensure_lanes(connection: Connection, jobs: list[dict[str, Any]]) -> None:
    queue = Queue(connection, QueueSettings(visibility_timeout_s=VISIBILITY_S))
    for rank in {job["priority"] for job in jobs}:
        await queue.ensure(Lane(spec().partition, rank))


async def make(directory: Path) -> None:
    directory.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        async with (
            nats_server(Path(scratch) / "nats") as server,
            connect(server.url, name="release") as connection,
        ):
            await streams.ensure(
                connection, Deployment(visibility_timeout_s=VISIBILITY_S, retention_s=0)
            )
            log = EventLog(connection)
            await write(log)
            jobs = await read_model_of(log, Path(scratch) / "read-model.sqlite")
            await ensure_lanes(connection, jobs)
            await backup.save(connection, directory / "backup")
        compressed = gzip.compress((Path(scratch) / "read-model.sqlite").read_bytes(), mtime=0)
        (directory / "read-model.sqlite.gz").write_bytes(compressed)
    (directory / "qgjet.toml").write_text(SETTINGS)
    expected = {"qgjet": __version__, "schema": schema.VERSION, "jobs": jobs}
    (directory / "expected.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(expected), indent=1) + b"\n"
    )


if __name__ == "__main__":
    asyncio.run(make(Path(sys.argv[1])))
