"""Bulk submissions, suites, partitions and agents."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from factories import NOW
from qgjet.domain.decide import Start
from qgjet.domain.events import Slot, Verdict
from qgjet.jetstream.connection import Connection
from qgjet.store import agent_registry
from qgjet.store.agent_registry import AgentInfo, TargetSlots
from qgjet.store.event_log import EventLog

Json = dict[str, Any]
Submit = Callable[..., Awaitable[Json]]
SHARED: Json = {"org_id": "qualgent", "app_version_id": "xyz123", "target": "emulator"}


def paths(number: int) -> list[str]:
    return [f"tests/{n}.spec.js" for n in range(number)]


class TestSubmit:
    async def test_many_tests_at_once(self, api: httpx.AsyncClient) -> None:
        answer = await api.post(
            "/suites", json={**SHARED, "tests": paths(3), "suite_id": "ci 7", "priority": 1}
        )
        body = answer.json()
        assert answer.status_code == 202
        assert answer.headers["location"] == "/suites/ci%207"
        assert (body["suite_id"], body["accepted"], body["attached"], body["refused"]) == (
            "ci 7",
            3,
            0,
            0,
        )
        assert [job["test"] for job in body["jobs"]] == paths(3)
        assert all(job["status"] == "queued" and job["error"] is None for job in body["jobs"])
        suite = (await api.get(answer.headers["location"], params={"min_seq": body["seq"]})).json()
        assert (suite["total"], suite["live"], suite["status"], suite["verdict"]) == (
            3,
            3,
            "queued",
            None,
        )
        assert {job["job_id"] for job in suite["jobs"]} == {job["job_id"] for job in body["jobs"]}
        assert {job["priority"] for job in suite["jobs"]} == {1}

    async def test_a_thousand_jobs_are_accepted_and_one_more_is_not(
        self, api: httpx.AsyncClient, log: EventLog
    ) -> None:
        too_many = await api.post("/suites", json={**SHARED, "tests": paths(1001)})
        assert (too_many.status_code, too_many.json()["errors"][0]["pointer"]) == (400, "#/tests")
        assert (await log.state()).last_seq == 0
        body = (await api.post("/suites", json={**SHARED, "tests": paths(1000)})).json()
        assert (body["accepted"], len({job["job_id"] for job in body["jobs"]})) == (1000, 1000)
        assert (await log.state()).last_seq == 1002, "two batches, each with an event of its own"

    async def test_jobs_of_their_own(self, api: httpx.AsyncClient) -> None:
        jobs = [
            {**SHARED, "test": "a.js"},
            {**SHARED, "target": "device", "test_path": "a.js", "priority": 0},
        ]
        body = (await api.post("/suites", json={"jobs": jobs})).json()
        assert [(job["target"], job["attached"]) for job in body["jobs"]] == [
            ("emulator", False),
            ("device", False),
        ]
        assert body["suite_id"]

    async def test_nothing_is_written_unless_all_are_valid(
        self, api: httpx.AsyncClient, log: EventLog
    ) -> None:
        jobs = [
            {**SHARED, "test": "a.js"},
            {**SHARED, "test": "../b.js"},
            {**SHARED, "org_id": "", "test": "c.js"},
        ]
        answer = await api.post("/suites", json={"jobs": jobs})
        assert answer.status_code == 400
        assert [error["pointer"] for error in answer.json()["errors"]] == [
            "#/jobs/1/test",
            "#/jobs/2/org_id",
        ]
        shared = await api.post(
            "/suites", json={**SHARED, "priority": 11, "tests": ["a.js", "/b.js", "c.js"]}
        )
        assert {error["pointer"] for error in shared.json()["errors"]} == {
            "#/priority",
            "#/tests/1",
        }
        assert (await log.state()).last_seq == 0

    @pytest.mark.parametrize(
        ("body", "pointer"),
        [
            ({}, "#/tests"),
            ({"jobs": [{"test": "a"}]}, "#/jobs/0/org_id"),
            ({"jobs": [{"x": 1}]}, "#/jobs/0/x"),
        ],
    )
    async def test_a_shape_that_does_not_fit_is_refused(
        self, api: httpx.AsyncClient, body: Json, pointer: str
    ) -> None:
        answer = await api.post("/suites", json=body)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (400, pointer)

    async def test_each_job_has_its_answer(self, api: httpx.AsyncClient, submit: Submit) -> None:
        live = await submit(test_path="tests/1.spec.js")
        answer = await api.post(
            "/suites", json={**SHARED, "tests": paths(3), "on_duplicate": "reject", "atomic": False}
        )
        body = answer.json()
        assert (answer.status_code, body["accepted"], body["refused"]) == (202, 2, 1)
        assert [job["error"] and job["error"]["status"] for job in body["jobs"]] == [
            None,
            409,
            None,
        ]
        assert body["jobs"][1]["error"]["job_id"] == live["job_id"]
        attached = (
            await api.post(
                "/suites", json={**SHARED, "tests": ["tests/1.spec.js", "tests/9.spec.js"]}
            )
        ).json()
        assert [job["attached"] for job in attached["jobs"]] == [True, False]
        assert attached["jobs"][0]["job_id"] == live["job_id"]

    async def test_all_are_accepted_or_none(
        self, api: httpx.AsyncClient, submit: Submit, log: EventLog
    ) -> None:
        live = await submit(test_path="tests/1.spec.js")
        before = (await log.state()).last_seq
        answer = await api.post(
            "/suites", json={**SHARED, "tests": paths(3), "on_duplicate": "reject"}
        )
        errors = [job["error"] for job in answer.json()["jobs"]]
        assert (answer.status_code, [error["status"] for error in errors]) == (409, [409, 409, 409])
        assert (errors[1]["job_id"], errors[0]["job_id"]) == (live["job_id"], None)
        assert "so none was" in errors[0]["detail"]
        assert (await log.state()).last_seq == before

    async def test_a_suite_waits_for_attached_jobs_and_does_not_cancel_them(
        self, api: httpx.AsyncClient, submit: Submit, agent: Any
    ) -> None:
        live = await submit(test_path="tests/1.spec.js")
        body = (
            await api.post(
                "/suites",
                json={**SHARED, "tests": paths(2), "suite_id": "s", "tags": {"commit": "abc"}},
            )
        ).json()
        suite = (await api.get("/suites/s", params={"min_seq": body["seq"]})).json()
        assert (
            suite["total"],
            suite["attached"],
            suite["live"],
            suite["to_come"],
            suite["tags"],
        ) == (2, 1, 2, 0, {"commit": "abc"})
        assert {job["job_id"] for job in suite["jobs"]} == {job["job_id"] for job in body["jobs"]}
        assert (await api.post("/suites/s/cancel")).json()["cancelled"] == 1
        seq = await agent.run(Verdict.PASSED, test_path="tests/1.spec.js")
        ended = (await api.get("/suites/s", params={"min_seq": seq})).json()
        assert (ended["live"], ended["verdicts"]) == (0, {"cancelled": 1, "passed": 1})
        assert (await api.get(f"/status/{live['job_id']}")).json()["verdict"] == "passed"

    async def test_a_submission_of_several_requests_is_complete_after_the_last_one(
        self, api: httpx.AsyncClient, agent: Any
    ) -> None:
        part = {**SHARED, "suite_id": "s", "submission": "x"}
        await api.post("/suites", json={**part, "tests": ["a.js"], "to_come": 1})
        seq = await agent.run(Verdict.PASSED, test_path="a.js")
        suite = (await api.get("/suites/s", params={"min_seq": seq})).json()
        assert (
            suite["live"],
            suite["to_come"],
            suite["status"],
            suite["verdict"],
            suite["finished_at"],
        ) == (0, 1, "running", None, None)
        await api.post("/suites", json={**part, "tests": ["b.js"]})
        seq = await agent.run(Verdict.PASSED, test_path="b.js")
        suite = (await api.get("/suites/s", params={"min_seq": seq})).json()
        assert (suite["total"], suite["to_come"], suite["missing"], suite["verdict"]) == (
            2,
            0,
            0,
            "passed",
        )

    @pytest.mark.parametrize("wrong", [{"to_come": 1}, {"submission": "x", "to_come": -1}])
    async def test_requests_of_one_submission_name_it(
        self, api: httpx.AsyncClient, wrong: Json
    ) -> None:
        assert (
            await api.post("/suites", json={**SHARED, "tests": ["a.js"], **wrong})
        ).status_code == 400

    async def test_what_takes_longest_runs_first(
        self, api: httpx.AsyncClient, log: EventLog, agent: Any
    ) -> None:
        for number, seconds in enumerate((1.0, 30.0, 5.0)):
            await api.post("/submit", json={**SHARED, "test": f"tests/{number}.spec.js"})
            await agent.start(test_path=f"tests/{number}.spec.js")
            seq = await agent.end(
                Verdict.PASSED, outcome={"duration_s": seconds}, test_path=f"tests/{number}.spec.js"
            )
        await api.get("/jobs", params={"min_seq": seq})
        body = (await api.post("/suites", json={**SHARED, "tests": paths(4)})).json()
        by_seq = sorted(body["jobs"], key=lambda job: job["seq"])
        assert [job["test"] for job in by_seq] == [
            f"tests/{number}.spec.js" for number in (3, 1, 2, 0)
        ]
        assert [job["test"] for job in body["jobs"]] == paths(4)

    async def test_an_attached_job_has_its_own_status(
        self, api: httpx.AsyncClient, submit: Submit, log: EventLog
    ) -> None:
        live = await submit(test_path="tests/1.spec.js")
        slot = Slot("qualgent", "xyz123", "emulator", "tests/1.spec.js")
        await log.execute(slot, Start(live["seq"], "agent"), await log.load(slot))
        body = (
            await api.post(
                "/suites", json={**SHARED, "tests": ["tests/1.spec.js", "tests/2.spec.js"]}
            )
        ).json()
        assert [job["status"] for job in body["jobs"]] == ["running", "queued"]

    async def test_when_none_is_accepted_it_is_an_error(
        self, api: httpx.AsyncClient, submit: Submit
    ) -> None:
        live = await submit(test_path="tests/0.spec.js")
        answer = await api.post(
            "/suites", json={**SHARED, "tests": paths(1), "on_duplicate": "reject"}
        )
        assert answer.status_code == 409
        assert answer.json()["jobs"][0]["error"]["job_id"] == live["job_id"]

    async def test_with_a_key_the_same_request_again_changes_nothing(
        self, api: httpx.AsyncClient, log: EventLog, agent: Any
    ) -> None:
        request: Json = {
            "url": "/suites",
            "json": {**SHARED, "tests": paths(3)},
            "headers": {"Idempotency-Key": "k"},
        }
        first = (await api.post(**request)).json()
        await agent.run(Verdict.PASSED, test_path="tests/1.spec.js")
        before = (await log.state()).last_seq
        assert (await api.post(**request)).json() == first
        assert (await log.state()).last_seq == before
        other = await api.post(**{**request, "json": {**SHARED, "tests": paths(4)}})
        assert other.status_code == 422


class TestSuite:
    async def test_its_verdict_is_that_of_its_worst_job(
        self, api: httpx.AsyncClient, agent: Any
    ) -> None:
        await api.post(
            "/suites", json={**SHARED, "tests": paths(3), "suite_id": "s", "max_retries": 0}
        )
        seen = []
        for number, verdict in enumerate((Verdict.PASSED, Verdict.FAILED, Verdict.SKIPPED)):
            seq = await agent.run(verdict, test_path=f"tests/{number}.spec.js")
            suite = (await api.get("/suites/s", params={"min_seq": seq})).json()
            seen.append((suite["live"], suite["status"], suite["verdict"]))
        assert seen == [(2, "running", None), (1, "running", None), (0, "failed", "failed")]
        assert suite["verdicts"] == {"passed": 1, "failed": 1, "skipped": 1}
        assert suite["duration_s"] > 0
        listed = (await api.get("/suites", params={"org_id": "qualgent"})).json()["suites"]
        assert [(one["suite_id"], one["verdict"]) for one in listed] == [("s", "failed")]
        assert (await api.get("/suites", params={"org_id": "other"})).json() == {
            "suites": [],
            "next_cursor": None,
        }

    async def test_its_live_jobs_are_cancelled_and_no_others(
        self, api: httpx.AsyncClient, submit: Submit, agent: Any
    ) -> None:
        other = await submit()
        body = (
            await api.post("/suites", json={**SHARED, "tests": paths(4), "suite_id": "s"})
        ).json()
        await agent.run(Verdict.PASSED, test_path="tests/0.spec.js")
        await agent.start(test_path="tests/1.spec.js")
        answer = await api.post("/suites/s/cancel", params={"min_seq": body["seq"]})
        assert (answer.status_code, answer.json()["cancelled"], answer.json()["cancelling"]) == (
            202,
            2,
            1,
        )
        await agent.end(Verdict.CANCELLED, test_path="tests/1.spec.js")
        again = await api.post("/suites/s/cancel")
        assert (again.status_code, again.json()["cancelled"], again.json()["cancelling"]) == (
            200,
            0,
            0,
        )
        suite = (await api.get("/suites/s")).json()
        assert (suite["verdict"], suite["statuses"]) == ("cancelled", {"done": 1, "cancelled": 3})
        assert (await api.get(f"/status/{other['job_id']}")).json()["status"] == "queued"

    async def test_an_unknown_suite_is_a_404(self, api: httpx.AsyncClient) -> None:
        answers = [await api.get("/suites/nope"), await api.post("/suites/nope/cancel")]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].json()["type"] == "urn:qgjet:problem:unknown-suite"


async def test_partitions_show_the_queue(
    api: httpx.AsyncClient, submit: Submit, agent: Any
) -> None:
    await submit()
    await submit(test_path="b.js", priority=0)
    await submit(target="device")
    seq = await agent.start(test_path="b.js")
    body = (await api.get("/partitions", params={"min_seq": seq})).json()
    assert body["priority_order"] == "low-first"
    assert sorted((one["target"], one["queued"], one["running"]) for one in body["partitions"]) == [
        ("device", 1, 0),
        ("emulator", 1, 1),
    ]


async def test_agents_are_those_that_are_alive(
    api: httpx.AsyncClient, connection: Connection
) -> None:
    assert (await api.get("/agents")).json() == {"agents": []}
    info = AgentInfo(
        instance="i",
        name="mac",
        host="h",
        pid=1,
        version="1",
        targets=(TargetSlots(target="emulator", slots=2, running=1),),
        slots=2,
        since=NOW,
    )
    await agent_registry.announce(connection, info)
