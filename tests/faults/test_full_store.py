"""A store without room, and one that takes no more at the moment: everybody is told so, nothing is
lost, and work goes on when there is room.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from agents import eventually, running_agent, scripted, submit
from cli.commandline import Cli, api_of
from factories import spec
from patience import patience
from qgjet.config.settings import ApiSettings, QueueSettings, Settings
from qgjet.domain.control import Kind, Paused
from qgjet.domain.decide import OnDuplicate, Submit
from qgjet.domain.events import Slot, Status, Verdict
from qgjet.domain.job import Job
from qgjet.domain.subjects import STREAM
from qgjet.errors import InvalidInput, NatsUnavailable, Overloaded, StoreFull
from qgjet.jetstream.connection import Connection, connect
from qgjet.jetstream.server import NatsServer, config_file
from qgjet.store import control_log, streams
from qgjet.store.artifacts import ArtifactStore
from qgjet.store.event_log import EventLog
from qgjet.store.suite_log import Submission, submit_suite
from qgjet_cli.doctor.check import Health
from qgjet_cli.doctor.server import look_at_server
from qgjet_cli.exits import Exit

SOON = QueueSettings(visibility_timeout_s=0.8, max_deliver=2, retry_base_s=0.02, retry_cap_s=0.05)
FILLER = "qg.job.acme.filler.emulator"


def config(path: Path, old: str, new: str) -> Path:
    """The shipped nats.conf with another value."""
    text = config_file().read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


@pytest.fixture(params=["max_bytes of the stream", "max_file_store of the server"])
async def small(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[EventLog]:
    """A log that a few messages fill."""
    of_server = "server" in request.param
    logs = streams._logs
    monkeypatch.setattr(streams, "_logs", lambda asked: logs(asked) | {"max_bytes": 1_000_000})
    store = config(
        tmp_path / "nats.conf",
        "max_file_store: 50GB",
        f"max_file_store: {'3MB' if of_server else '50GB'}",
    )
    server = NatsServer(tmp_path / "nats", config=store)
    await server.start()
    async with connect(server.url, name="test") as connection:
        await streams.ensure(connection, SOON.deployment)
        if not of_server:
            events = await streams.stream_config(connection, STREAM)
            await connection.api(
                f"STREAM.UPDATE.{STREAM}", (events or {}) | {"max_bytes": 1_000_000}
            )
        yield EventLog(connection)
    server.stop()


async def fill(connection: Connection) -> None:
    """To the last byte."""
    for size in (50_000, 5_000, 100, 0):
        for number in range(200):
            if (
                b"error"
                in (await connection.request(f"{FILLER}.{size}.{number}", b"x" * size)).data
            ):
                break
        else:
            raise AssertionError("it is never full")


async def make_room(log: EventLog) -> None:
    await log.forget(FILLER, 2**53)


async def test_a_submission_to_a_full_store_says_so_and_works_once_there_is_room(
    small: EventLog, tmp_path: Path
) -> None:
    url = small.connection.url
    body = {"org_id": "acme", "app_version_id": "1", "target": "emulator", "test": "a.js"}
    suite = {
        "org_id": "acme",
        "app_version_id": "1",
        "target": "emulator",
        "tests": ["a.js", "b.js"],
    }
    settings = Settings(
        nats_url=url, api=ApiSettings(port=0, database=str(tmp_path / "read.sqlite"), janitor=False)
    )
    async with (
        api_of(settings) as api,
        httpx.AsyncClient(base_url=api, timeout=patience(20)) as client,
    ):

        async def ready() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await eventually(ready)
        await fill(small.connection)
        for path, asked in (
            ("/submit", body),
            ("/suites", suite),
            ("/suites", suite | {"atomic": False}),
        ):
            answer = await client.post(path, json=asked)
            problem = answer.json()
            assert (answer.status_code, problem["type"]) == (503, "urn:qgjet:problem:store-full"), (
                problem
            )
            assert answer.headers["retry-after"] == "30"
            assert "max_file_store" in problem["detail"]
        unready = await client.get("/readyz")
        assert unready.status_code == 503
        assert [reason[:23] for reason in unready.json()["reasons"]] == ["the event store is full"]
        if problem_of_stream(await streams.stream_config(small.connection, STREAM)):
            found = [check for check in await look_at_server(settings) if check.about == "store"]
            assert [(check.health, check.found[:23]) for check in found] == [
                (Health.FAIL, "the event store is full")
            ]
        metrics = (await client.get("/metrics")).text
        assert 'qgjet_store_bytes{stream="QG_EVENTS"}' in metrics
        flags = [
            "--org-id",
            "acme",
            "--app-version-id",
            "1",
            "--target",
            "emulator",
            "--test",
            "c.js",
        ]
        (tmp_path / "c.js").touch()
        cli = Cli(tmp_path)
        for where in (
            [["--nats", url]]
            if problem_of_stream(await streams.stream_config(small.connection, STREAM))
            else [["--api", api]]
        ):
            ended = await cli("submit", *flags, *where)
            assert (ended.code, "full" in ended.err) == (Exit.UNREACHABLE, True), ended.err
        await make_room(small)
        await eventually(ready, what="readiness once there is room")
        assert (await client.post("/submit", json=body)).status_code == 202


def problem_of_stream(config: dict[str, Any] | None) -> bool:
    """Only a limit of the stream shows to somebody who has written nothing."""
    return config is not None and config["max_bytes"] > 0


def state_is(log: EventLog, slot: Slot, status: Status) -> Callable[[], object]:
    async def ask() -> Job | None:
        job = await log.load(slot)
        return job if job is not None and job.status is status else None

    return ask


@pytest.mark.parametrize("small", ["max_file_store of the server"], indirect=True)
async def test_agents_keep_results_and_claims_until_there_is_room(
    small: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For longer than all deliveries of a message would take: one job has ended, the other one
    cannot start.
    """
    monkeypatch.setattr("qgjet.agent.executor.ROOM_S", 0.1)
    gate = asyncio.Event()
    running, waiting = spec(test="running"), spec(test="waiting")
    async with running_agent(
        small, tmp_path / "agent", runners=scripted(gate=gate), slots=2, queue=SOON
    ):
        await submit(small, running)
        await eventually(state_is(small, running.slot, Status.RUNNING))  # type: ignore[arg-type]
        await submit(small, waiting)
        await eventually(state_is(small, waiting.slot, Status.RUNNING))  # type: ignore[arg-type]
        queued = spec(test="queued")
        await submit(small, queued)
        await fill(small.connection)
        gate.set()
        loop = asyncio.get_running_loop()
        until = loop.time() + (SOON.visibility_timeout_s + 1) * SOON.max_deliver
        while loop.time() < until:
            assert await submit_refused(small)
            await asyncio.sleep(0.25)
        await make_room(small)
        for one in (running, waiting, queued):
            job = await eventually(
                state_is(small, one.slot, Status.DONE), within_s=15, what=f"the end of {one.test}"
            )  # type: ignore[arg-type]
            assert (job.verdict, job.attempt) == (Verdict.PASSED, 1)  # type: ignore[attr-defined]


async def submit_refused(log: EventLog) -> bool:
    with pytest.raises(StoreFull):
        await log.submit(spec(test="one too many"))
    with pytest.raises(StoreFull):
        await submit_suite(
            log,
            Submission(suite_id="s", id="1", specs=[spec(test="x")], modes=[OnDuplicate.ATTACH]),
        )
    return True


async def test_a_decision_about_the_queue_says_so_too(small: EventLog) -> None:
    await fill(small.connection)
    with pytest.raises(StoreFull, match="the event store is full"):
        await control_log.append(
            small.connection, Paused(kind=Kind.TARGET, name="emulator", at=small.clock())
        )


async def test_an_artifact_without_room_is_refused_at_once_and_leaves_nothing(
    small: EventLog,
) -> None:
    artifacts = ArtifactStore(small.connection)
    await fill(small.connection)
    info = await small.connection.api("STREAM.INFO.OBJ_qg-artifacts")
    if (await small.connection.api(f"STREAM.INFO.{STREAM}"))["config"]["max_bytes"] > 0:
        await small.connection.api(
            "STREAM.UPDATE.OBJ_qg-artifacts", info["config"] | {"max_bytes": 1_000}
        )
    async with asyncio.timeout(patience(5)):
        with pytest.raises(StoreFull, match="full"):
            await artifacts.put("job/1/video.webm", io.BytesIO(b"x" * 300_000))
    assert (await small.connection.api("STREAM.INFO.OBJ_qg-artifacts"))["state"]["messages"] == 0


async def test_a_server_that_takes_no_more_at_the_moment_is_asked_again(tmp_path: Path) -> None:
    busy = config(
        tmp_path / "nats.conf",
        "max_memory_store: 256MB",
        "max_memory_store: 256MB\n  max_buffered_size: 1KB",
    )
    server = NatsServer(tmp_path / "nats", config=busy)
    await server.start()
    large = spec(tags={f"tag{number}": "x" * 100 for number in range(20)})
    async with connect(server.url, name="test") as connection:
        log = EventLog(connection)
        await streams.ensure(connection)
        waiting = asyncio.create_task(log.submit(large))
        other = spec(test="other", tags=large.tags)
        with pytest.raises(Overloaded, match="too many requests"):
            await log.execute(other.slot, Submit(other, OnDuplicate.ATTACH), None, timeout_s=0.3)
        assert not waiting.done()
        server.stop()
        calm = NatsServer(server.store, port=server.port)
        await calm.start()
        assert (await waiting).job_id == large.job_id
        calm.stop()


async def test_an_event_over_the_limit_of_the_server_is_refused_and_does_not_hang(
    tmp_path: Path,
) -> None:
    server = NatsServer(
        tmp_path / "nats",
        config=config(tmp_path / "nats.conf", "max_payload: 1MB", "max_payload: 1KB"),
    )
    await server.start()
    async with connect(server.url, name="test") as connection:
        await streams.ensure(connection)
        async with asyncio.timeout(patience(2)):
            with pytest.raises(InvalidInput, match="max_payload"):
                await EventLog(connection).submit(
                    spec(tags={f"tag{number}": "x" * 100 for number in range(20)})
                )
        assert (await EventLog(connection).submit(spec())).seq == 1
    server.stop()


async def test_a_server_with_too_little_for_the_streams_is_refused_by_name(tmp_path: Path) -> None:
    server = NatsServer(
        tmp_path / "nats",
        config=config(tmp_path / "nats.conf", "max_file_store: 50GB", "max_file_store: 1GB"),
    )
    await server.start()
    async with connect(server.url, name="test") as connection:
        with pytest.raises(
            NatsUnavailable, match=r"cannot give QG_LOGS .* raise its max_file_store"
        ):
            await streams.ensure(connection)
    server.stop()
