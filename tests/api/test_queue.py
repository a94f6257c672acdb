"""Steering the queue: pauses, drains, other priorities, and why a job waits."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import httpx
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from factories import NOW
from qgjet.config.settings import Settings
from qgjet.domain.control import DrainRequested
from qgjet.domain.decide import Requeue
from qgjet.domain.events import Slot, Submitted
from qgjet.jetstream.connection import Connection
from qgjet.store import agent_registry
from qgjet.store.agent_registry import AgentInfo, TargetSlots
from qgjet.store.control_log import ControlReader
from qgjet.store.event_log import EventLog
from qgjet.support.clock import utc_now

Json = dict[str, Any]
Submit = Callable[..., Awaitable[Json]]


def agent_info(instance: str = "mac-0123", **fields: Any) -> AgentInfo:
    return AgentInfo(
        **{
            "instance": instance,
            "name": "mac",
            "host": "h",
            "pid": 1,
            "version": "0.1.0",
            "targets": (TargetSlots(target="emulator", slots=1),),
            "slots": 1,
            "since": NOW,
            **fields,
        }
    )


async def test_a_paused_target_is_the_reason_why_its_jobs_wait(
    api: httpx.AsyncClient, submit: Submit
) -> None:
    job_id = (await submit())["job_id"]
    other = (await submit(target="device"))["job_id"]
    paused = (
        await api.post("/queue/pause", json={"target": "emulator", "reason": "new cables"})
    ).json()
    assert (paused["kind"], paused["name"], paused["paused"], paused["until"]) == (
        "target",
        "emulator",
        True,
        None,
    )
    assert [
        (one["name"], one["reason"], one["by"])
        for one in (await api.get("/queue/pauses")).json()["pauses"]
    ] == [("emulator", "new cables", "api")]
    assert await reason_of(api, job_id) == "paused"
    assert await reason_of(api, other) == "no_agent"
    partitions = (await api.get("/partitions")).json()["partitions"]
    assert {one["target"]: one["pending_reason"] for one in partitions} == {
        "emulator": "paused",
        "device": "no_agent",
    }
    await api.post("/queue/resume", json={"target": "emulator"})
    assert await reason_of(api, job_id) == "no_agent"
    assert (await api.get("/queue/pauses")).json() == {"pauses": []}


async def reason_of(api: httpx.AsyncClient, job_id: str) -> str | None:
    reason: str | None = (await api.get(f"/jobs/{job_id}")).json()["pending_reason"]
    return reason


async def test_an_org_can_be_paused_for_a_time(api: httpx.AsyncClient, submit: Submit) -> None:
    job = await submit()
    paused = (await api.post("/queue/pause", json={"org_id": "qualgent", "for_s": 3600})).json()
    until = datetime.fromisoformat(paused["until"])
    assert timedelta(minutes=59) < until - utc_now() < timedelta(minutes=61)
    assert await reason_of(api, job["job_id"]) == "paused"
    again = (
        await api.post(
            "/queue/pause", json={"org_id": "qualgent", "until": "2040-01-01T00:00:00+01:00"}
        )
    ).json()
    assert datetime.fromisoformat(again["until"]) == datetime.fromisoformat(
        "2039-12-31T23:00:00+00:00"
    )
    assert len((await api.get("/queue/pauses")).json()["pauses"]) == 1


async def test_what_cannot_be_paused_is_said(api: httpx.AsyncClient) -> None:
    for body in (
        {},
        {"target": "emulator", "org_id": "acme"},
        {"target": "emulator", "until": "2020-01-01T00:00:00Z"},
        {"target": "emulator", "until": "2040-01-01T00:00:00"},
        {"target": "emulator", "for_s": -1},
        {"target": "emulator", "for_s": 1e300},
        {"target": "emulator", "for_s": 1, "until": "2040-01-01T00:00:00Z"},
        {"target": "x" * 65},
    ):
        answer = await api.post("/queue/pause", json=body)
        assert (answer.status_code, answer.headers["content-type"]) == (
            400,
            "application/problem+json",
        ), body
    assert (await api.get("/queue/pauses")).json() == {"pauses": []}


async def test_reasons_are_counted(
    api: httpx.AsyncClient, submit: Submit, agent: Any, connection: Connection
) -> None:
    await agent_registry.announce(
        connection,
        agent_info(targets=(TargetSlots(target="device", slots=1, running=1),), running=("j",)),
    )
    for target, tests in (("emulator", "ab"), ("device", "c"), ("sofa", "d")):
        for test in tests:
            await submit(target=target, test_path=f"tests/{test}.spec.js")
    await agent.start(target="emulator", test_path="tests/a.spec.js")
    seq = await agent.end(
        "infra_error", retry_in_s=600, target="emulator", test_path="tests/a.spec.js"
    )
    await api.get("/jobs", params={"min_seq": seq})
    await api.post("/queue/pause", json={"target": "sofa"})
    samples = {
        f.name: f.samples for f in text_string_to_metric_families((await api.get("/metrics")).text)
    }
    pending = {
        (s.labels["target"], s.labels["reason"]): s.value for s in samples["qgjet_jobs_pending"]
    }
    assert pending == {
        ("emulator", "backoff"): 1,
        ("emulator", "no_agent"): 1,
        ("device", "no_slot"): 1,
        ("sofa", "paused"): 1,
    }
    assert [(s.labels, s.value) for s in samples["qgjet_queue_paused"]] == [
        ({"kind": "target", "name": "sofa"}, 1)
    ]


async def test_an_agent_is_drained_by_its_name_where_that_is_enough(
    api: httpx.AsyncClient, connection: Connection, eventually: Any
) -> None:
    assert (await api.post("/agents/mac/drain")).status_code == 404
    await agent_registry.announce(connection, agent_info("mac-1"))
    await eventually(lambda: _agents(api, 1))
    drained = await api.post("/agents/mac/drain", json={"reason": "new cables"})
    assert drained.status_code == 202
    (event,) = await ControlReader(connection).new()
    assert (type(event), event.name, event.reason) == (DrainRequested, "mac-1", "new cables")
    await agent_registry.announce(connection, agent_info("mac-2"))
    await eventually(lambda: _agents(api, 2))
    several = await api.post("/agents/mac/drain")
    assert (several.status_code, "mac-1, mac-2" in several.json()["detail"]) == (400, True)
    assert (await api.post("/agents/mac-2/drain")).status_code == 202


async def _agents(api: httpx.AsyncClient, count: int) -> bool:
    return len((await api.get("/agents")).json()["agents"]) == count


async def test_what_another_process_did_a_moment_ago_is_known_before_it_is_said_that_nothing_changes(
    api: httpx.AsyncClient, submit: Submit, settings: Settings, log: EventLog
) -> None:
    job_id = (await submit(priority=5))["job_id"]
    slot = Slot("qualgent", "xyz123", "emulator", "tests/onboarding.spec.js")
    with contextlib.closing(
        sqlite3.connect(settings.api.database, isolation_level=None)
    ) as elsewhere:
        elsewhere.execute("BEGIN IMMEDIATE")  # the read model stands still
        (submitted,) = await log.history(slot)
        assert isinstance(submitted.event, Submitted)
        moved = replace(submitted.event.spec, priority=0, rank=0)
        await log.execute(
            slot, Requeue(spec=moved, reason="priority", by="ana"), await log.load(slot)
        )
        asked = asyncio.create_task(api.post(f"/jobs/{job_id}/priority", json={"priority": 5}))
        await asyncio.wait({asked}, timeout=0.3)
        elsewhere.execute("ROLLBACK")
    answer = (await asked).json()
    assert (answer["before"], answer["priority"]) == (0, 5)
    assert (await api.get(f"/jobs/{job_id}", params={"min_seq": answer["seq"]})).json()[
        "priority"
    ] == 5


async def test_a_queued_job_can_have_another_priority(
    api: httpx.AsyncClient, submit: Submit, agent: Any
) -> None:
    job_id = (await submit(priority=5))["job_id"]
    answer = (await api.post(f"/jobs/{job_id}/priority", json={"priority": 0})).json()
    assert (answer["before"], answer["priority"]) == (5, 0)
    job = (await api.get(f"/jobs/{job_id}", params={"min_seq": answer["seq"]})).json()
    assert (job["priority"], job["rank"], job["status"], job["ticket"], job["reason"]) == (
        0,
        0,
        "queued",
        answer["seq"],
        "priority",
    )
    same = (await api.post(f"/jobs/{job_id}/priority", json={"priority": 0})).json()
    assert same["seq"] == answer["seq"]
    assert (await api.post(f"/jobs/{job_id}/priority", json={"priority": 10})).status_code == 400
    await agent.start()
    assert (await api.post(f"/jobs/{job_id}/priority", json={"priority": 9})).status_code == 409
    assert (await api.post("/jobs/nobody/priority", json={"priority": 9})).status_code == 404


async def test_an_org_has_only_so_many_active_partitions(
    settings: Settings, run_api: Any, agent: Any, s0_body: Json, eventually: Any
) -> None:
    """More jobs of those that are active are welcome, and other orgs; one that finishes makes room."""
    bounded = replace(settings, api=replace(settings.api, max_partitions_per_org=2))
    async with run_api(bounded) as api:

        async def submit(version: str, **fields: Any) -> httpx.Response:
            answer = await api.post(
                "/submit", json={**s0_body, "app_version_id": version, **fields}
            )
            if answer.status_code == 202:
                await api.get(
                    f"/status/{answer.json()['job_id']}", params={"min_seq": answer.json()["seq"]}
                )
            return answer

        assert [(await submit(version)).status_code for version in ("1", "2")] == [202, 202]
        refused = await submit("3")
        assert (refused.status_code, refused.headers["content-type"]) == (
            429,
            "application/problem+json",
        )
        assert int(refused.headers["retry-after"]) > 0
        assert "max_partitions_per_org" in refused.json()["detail"]
        assert (await submit("2", test_path="tests/other.spec.js")).status_code == 202
        assert (await submit("3", org_id="other")).status_code == 202
        suite = {
            "jobs": [
                {**s0_body, "app_version_id": version, "test_path": "tests/suite.spec.js"}
                for version in ("2", "3")
            ]
        }
        assert (await api.post("/suites", json=suite)).status_code == 429
        jobs = (await api.get("/jobs", params={"app_version_id": "1"})).json()["jobs"]
        assert (await api.post(f"/jobs/{jobs[0]['job_id']}/cancel")).status_code == 200

        async def accepted() -> bool:
            return (await submit("3")).status_code == 202

        await eventually(accepted)
