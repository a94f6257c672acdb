"""Probes, metrics, docs, and problems that no route is at fault for."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from factories import NOW
from qgjet.config.settings import ApiSettings, Settings
from qgjet.domain import subjects
from qgjet.domain.events import Partition, Verdict
from qgjet.domain.subjects import Lane
from qgjet.jetstream.connection import Connection
from qgjet.jetstream.server import NatsServer
from qgjet.store import agent_registry, streams
from qgjet.store.agent_registry import AgentInfo, TargetSlots
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue
from qgjet_cli.doctor.check import Health
from qgjet_cli.doctor.server import look_at_server
from qgjet_projections.readmodel import ReadModel

Json = dict[str, Any]
Submit = Callable[..., Awaitable[Json]]
RunApi = Callable[[Settings], AbstractAsyncContextManager[httpx.AsyncClient]]


async def test_all_is_well(api: httpx.AsyncClient, eventually: Any) -> None:
    for path in ("/healthz", "/livez"):
        answer = await api.get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        head = await api.head(path)
        assert (head.status_code, head.content) == (200, b"")

    async def ready() -> bool:
        return (await api.get("/readyz")).status_code == 200

    await eventually(ready)


async def test_without_nats_it_starts_says_so_and_recovers_by_itself(
    tmp_path: Path, run_api: RunApi, eventually: Any, s0_body: Json
) -> None:
    server = NatsServer(tmp_path / "nats")
    await server.start()
    server.stop()  # the port is known now
    settings = Settings(
        nats_url=server.url,
        api=ApiSettings(port=0, database=str(tmp_path / "read.sqlite"), janitor=False),
    )
    async with run_api(settings) as api:
        assert (await api.get("/livez")).status_code == 200
        unready = await api.get("/readyz")
        assert unready.status_code == 503
        assert unready.headers["content-type"] == "application/problem+json"
        assert (
            unready.json()["reasons"][0].startswith("not connected to NATS at nats://127.0.0.1:")
            or "no NATS server" in unready.json()["reasons"][0]
        )
        refused = await api.post("/submit", json=s0_body)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert (await api.get("/jobs")).json() == {"jobs": [], "next_cursor": None}
        assert (await api.get("/agents")).status_code == 503
        assert (
            await api.get("/status/x")
        ).status_code == 503  # nobody can say that there is no such job
        await server.start()

        async def ready() -> bool:
            return (await api.get("/readyz")).status_code == 200

        try:
            await eventually(ready)
            assert (await api.post("/submit", json=s0_body)).status_code == 202
        finally:
            server.stop()


async def test_a_lost_server_is_noticed_reads_go_on_and_writing_comes_back(
    api: httpx.AsyncClient,
    server: NatsServer,
    submit: Submit,
    eventually: Any,
    s0_body: Json,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job_id = (await submit())["job_id"]
    server.kill()

    async def status_of(path: str, status: int) -> Callable[[], Awaitable[bool]]:
        async def look() -> bool:
            return (await api.get(path)).status_code == status

        return look

    await eventually(await status_of("/readyz", 503))
    assert (await api.get("/healthz")).status_code == 200  # for 5 s
    assert (await api.get(f"/status/{job_id}")).json()["status"] == "queued"
    monkeypatch.setattr("qgjet_projections.api.routes.health.UNHEALTHY_AFTER_S", 0.1)
    await eventually(await status_of("/healthz", 503))
    await server.start()
    await eventually(await status_of("/readyz", 200))
    assert (await api.get("/healthz")).json() == {"status": "ok"}
    assert (await api.post("/submit", json=s0_body)).json()["job_id"] == job_id


async def test_a_projection_that_fails_is_noticed_and_begun_again(
    settings: Settings,
    run_api: RunApi,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from qgjet_projections import service as module

    class Broken(module.Projector):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise OSError("disk full")

    working = module.Projector
    monkeypatch.setattr(module, "Projector", Broken)
    caplog.set_level(logging.CRITICAL)
    async with run_api(settings) as api:
        answer = await api.get("/healthz")
        assert answer.status_code == 503
        assert "disk full" in answer.json()["detail"]
        assert (await api.get("/jobs", params={"min_seq": 1})).status_code == 503
        monkeypatch.setattr(module, "Projector", working)

        async def well() -> bool:
            return (await api.get("/healthz")).status_code == 200

        await eventually(well)


async def test_what_was_read_survives_a_restart_and_a_lost_file(
    settings: Settings, run_api: RunApi, s0_body: Json
) -> None:
    async with run_api(settings) as api:
        first = (await api.post("/submit", json=s0_body)).json()
    for path in (None, Path(settings.api.database)):
        if path is not None:
            path.unlink()
        async with run_api(settings) as api:
            job = await api.get(f"/jobs/{first['job_id']}", params={"min_seq": first["seq"]})
            assert job.json()["status"] == "queued"


async def test_metrics_count_jobs_by_status(
    api: httpx.AsyncClient, submit: Submit, agent: Any, connection: Connection
) -> None:
    await agent_registry.announce(
        connection,
        AgentInfo(
            instance="i",
            name="m",
            host="h",
            pid=1,
            version="1",
            targets=(TargetSlots(target="emulator", slots=2, running=1),),
            slots=2,
            since=NOW,
        ),
    )
    await submit()
    await submit(test_path="b.js")
    await submit(test_path='we"ird\\.js'.replace("\\", ""), target='dev"ice\n')
    seq = await agent.run(Verdict.PASSED, test_path="b.js")
    await api.get("/jobs", params={"min_seq": seq})
    answer = await api.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    samples = {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples["qgjet_jobs", "queued", "emulator"] == 1
    assert samples["qgjet_jobs", "done", "emulator"] == 1
    assert samples["qgjet_jobs", "failed", "emulator"] == 0
    assert samples["qgjet_jobs", "queued", 'dev"ice\n'] == 1
    assert samples["qgjet_jobs_finished", "emulator", "passed"] == 1
    assert samples["qgjet_projection_applied_seq",] == seq
    assert samples["qgjet_projection_up",] == 1
    assert samples["qgjet_projection_lag_events",] >= 0
    assert samples["qgjet_agent_slots", "free", "emulator"] == 1
    assert samples["qgjet_queue_oldest_age_seconds", "emulator"] >= 0
    assert not {"job_id", "org_id", "test"} & {
        label
        for family in text_string_to_metric_families(answer.text)
        for s in family.samples
        for label in s.labels
    }


class TestDocs:
    async def test_every_route_says_its_statuses(self, api: httpx.AsyncClient) -> None:
        schema = (await api.get("/docs/openapi.json")).json()
        operations = {
            (method, path): operation
            for path, methods in schema["paths"].items()
            for method, operation in methods.items()
        }
        assert {path for _, path in operations} >= {
            "/submit",
            "/status/{job_id}",
            "/jobs/{job_id}/status",
            "/v1/jobs/{job_id}/events",
            "/v1/suites/{suite_id}/cancel",
            "/v1/events",
            "/healthz",
            "/metrics",
        }
        assert all(operation["summary"] and operation["tags"] for operation in operations.values())
        assert set(operations["post", "/submit"]["responses"]) == {
            "200",
            "202",
            "400",
            "401",
            "403",
            "409",
            "413",
            "415",
            "422",
            "429",
            "503",
        }
        assert (
            "application/problem+json"
            in operations["post", "/submit"]["responses"]["409"]["content"]
        )
        assert "min_seq" in {one["name"] for one in operations["get", "/v1/jobs"]["parameters"]}
        ids = [operation["operationId"] for operation in operations.values()]
        assert len(set(ids)) == len(ids)
        assert operations["get", "/v1/jobs"]["operationId"] == "listJobs"
        assert operations["post", "/v1/jobs"]["operationId"] == "submitJob"
        assert {"org_id", "test", "test_path", "on_duplicate"} <= set(
            schema["components"]["schemas"]["SubmitRequest"]["properties"]
        )

    async def test_the_page_is_readable_without_the_internet(self, api: httpx.AsyncClient) -> None:
        page = await api.get("/docs", follow_redirects=True)
        assert page.headers["content-type"].startswith("text/html")
        without_scripts = page.text.partition("<script>")[0]
        assert "/jobs/{job_id}/cancel" in without_scripts
        assert "Idempotency-Key" in without_scripts
        assert "SubmitRequest" in without_scripts
        assert (await api.get("/docs/openapi.yaml")).text.startswith(
            ("components:", "info:", "openapi:")
        )


class TestProblems:
    async def test_an_unknown_route_is_a_problem(self, api: httpx.AsyncClient) -> None:
        answer = await api.get("/nothing/here%20%00?x=1")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json() == {
            "type": "about:blank",
            "title": "Not Found",
            "status": 404,
            "detail": "there is nothing at /nothing/here \u0000; /docs lists what there is",
            "instance": "/nothing/here%20%00",
        }

    async def test_a_wrong_method_says_which_are_right(self, api: httpx.AsyncClient) -> None:
        for path, allowed in (
            ("/submit", {"OPTIONS", "POST"}),
            ("/jobs", {"GET", "OPTIONS", "POST"}),
            ("/jobs/x/cancel", {"OPTIONS", "POST"}),
        ):
            answer = await api.delete(path)
            assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, allowed)
            assert answer.headers["content-type"] == "application/problem+json"

    async def test_a_bug_shows_no_traceback(
        self,
        api: httpx.AsyncClient,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def explode(*_: object) -> None:
            raise ZeroDivisionError("secret")

        monkeypatch.setattr(ReadModel, "partitions", explode)
        answer = await api.get("/partitions")
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert "secret" not in answer.text
        assert "secret" in caplog.text


async def test_a_stream_near_its_limit_of_consumers_is_a_warning_and_a_metric(
    connection: Connection, log: EventLog, settings: Settings, run_api: RunApi, eventually: Any
) -> None:
    await connection.api(f"STREAM.DELETE.{subjects.STREAM}")
    await streams.ensure(connection, replace(settings.queue.deployment, max_consumers=10))
    queue = Queue(connection, settings.queue)
    async with run_api(settings) as api:

        async def answer() -> Json | None:
            ready = await api.get("/readyz")
            return ready.json() if ready.status_code == 200 else None

        assert await eventually(answer) == {"status": "ok"}
        for number in range(8):
            await queue.ensure(Lane(Partition("acme", f"{number}", "emulator"), 5))

        async def warned() -> Json | None:
            found = await answer()
            return found if found and "warnings" in found else None

        (warning,) = (await eventually(warned))["warnings"]
        assert "9 of 10 consumers of QG_EVENTS are in use" in warning
        metrics = (await api.get("/metrics")).text
        assert "qgjet_consumers 9.0" in metrics
        assert "qgjet_max_consumers 10.0" in metrics
    found = await look_at_server(settings)
    assert [one.about for one in found if one.health is not Health.OK] == ["partition queues"]


async def test_reads_answer_at_once_while_nats_is_silent_and_say_how_old_they_are(
    api: httpx.AsyncClient, submit: Submit, server: NatsServer, eventually: Any
) -> None:
    job = await submit()

    async def is_current() -> bool:
        lag = (await api.get("/jobs")).headers["qgjet-lag-seconds"]
        return lag != "unknown" and float(lag) < 3

    await eventually(is_current)
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        for _ in range(4):
            for path in (
                "/jobs",
                "/jobs?status=queued",
                f"/jobs/{job['job_id']}",
                f"/status/{job['job_id']}",
                "/partitions",
                "/ui/jobs",
                "/",
            ):
                answer = await api.get(path)
                assert answer.status_code == 200, path
                assert int(answer.headers["qgjet-applied-seq"]) >= job["seq"]
        assert time.monotonic() - began < 10, (
            "28 requests that each wait for NATS take more than 40 s"
        )

        async def is_old() -> bool:
            return float((await api.get("/jobs")).headers["qgjet-lag-seconds"]) > 3

        await eventually(is_old)
        assert (await api.get("/jobs", params={"min_seq": job["seq"] + 1})).status_code == 503
    finally:
        server.process.send_signal(signal.SIGCONT)
    await eventually(is_current)


@pytest.mark.parametrize("suffixes", [("",), ("", "-wal", "-shm")])
async def test_a_read_model_that_is_deleted_under_a_running_api_is_rebuilt(
    api: httpx.AsyncClient,
    settings: Settings,
    submit: Submit,
    eventually: Any,
    suffixes: tuple[str, ...],
) -> None:
    before = [await submit(test_path=f"{number}.js") for number in range(3)]
    file = Path(settings.api.database)

    async def ready() -> bool:
        return (await api.get("/readyz")).status_code == 200

    await eventually(ready)
    for suffix in suffixes:
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    unready = await api.get("/readyz")
    assert (unready.status_code, "was deleted or replaced" in unready.json()["detail"]) == (
        503,
        True,
    )
    await eventually(ready)
    assert file.stat().st_mode & 0o077 == 0
    after = await submit(test_path="after.js")

    async def has_all() -> bool:
        answer = await api.get("/jobs")
        assert answer.status_code in (200, 503)
        return answer.status_code == 200 and {job["job_id"] for job in answer.json()["jobs"]} == {
            one["job_id"] for one in [*before, after]
        }

    await eventually(has_all)
    for path in ("/", "/ui/jobs", f"/ui/jobs/{before[0]['job_id']}", "/ui/suites", "/ui/tests"):
        assert (await api.get(path)).status_code == 200
