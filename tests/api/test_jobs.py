"""Looking jobs up, cancelling them, running them again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from factories import NOW
from qgjet.domain.events import Verdict
from qgjet.domain.subjects import log_subject
from qgjet.jetstream.connection import Connection
from qgjet.store import agent_registry
from qgjet.store.agent_registry import AgentInfo, TargetSlots
from qgjet.store.event_log import EventLog

Json = dict[str, Any]
Submit = Callable[..., Awaitable[Json]]


def agent_info(**fields: Any) -> AgentInfo:
    given: Json = {
        "instance": "agent-1",
        "name": "mac-mini",
        "host": "h",
        "pid": 1,
        "version": "0.1.0",
        "targets": (TargetSlots(target="emulator", slots=1),),
        "slots": 1,
        "since": NOW,
    }
    return AgentInfo(**{**given, **fields})


class TestReading:
    async def test_a_job_shows_its_attempts_with_their_tests(
        self, api: httpx.AsyncClient, submit: Submit, agent: Any
    ) -> None:
        job_id = (await submit())["job_id"]
        await agent.run(Verdict.FAILED)
        await agent.start()
        tests = [
            {
                "id": "1",
                "title": "logs in",
                "outcome": "passed",
                "tries": [{"status": "passed", "duration_s": 1.5}],
            }
        ]
        seq = await agent.end(Verdict.PASSED, outcome={"duration_s": 2.5, "tests": tests})
        job = (await api.get(f"/jobs/{job_id}", params={"min_seq": seq})).json()
        assert (job["status"], job["verdict"], job["legacy_status"]) == (
            "done",
            "flaky",
            "completed",
        )
        assert (job["attempt"], job["retries"], job["retries_left"], job["pending_reason"]) == (
            2,
            1,
            2,
            None,
        )
        first, second = job["attempts"]
        assert (first["attempt"], first["verdict"], first["device"]) == (1, "failed", "pixel")
        assert second["tests"][0]["title"] == "logs in"

    async def test_every_status_has_its_legacy_word(
        self, api: httpx.AsyncClient, submit: Submit, agent: Any
    ) -> None:
        words = []
        job_id = (await submit(max_retries=0))["job_id"]
        for step in (agent.start, lambda: agent.end(Verdict.FAILED)):
            words.append(
                (await api.get(f"/status/{job_id}", params={"min_seq": await step()})).json()
            )
        assert [(one["status"], one["legacy_status"], one["verdict"]) for one in words] == [
            ("running", "in_progress", None),
            ("failed", "failed", "failed"),
        ]

    async def test_an_unknown_job_is_a_404(self, api: httpx.AsyncClient) -> None:
        for path in (
            "/status/nope",
            "/jobs/nope",
            "/jobs/nope/log",
            "/jobs/nope/events",
            "/jobs/nope/artifacts",
            "/jobs/a%00b%20%3E",
        ):
            answer = await api.get(path)
            assert answer.status_code == 404, path
            assert answer.json()["type"] == "urn:qgjet:problem:unknown-job"
        for path in ("/jobs/nope/cancel", "/jobs/nope/rerun"):
            assert (await api.post(path)).status_code == 404

    async def test_lists_are_filtered_and_paged(
        self, api: httpx.AsyncClient, submit: Submit, agent: Any
    ) -> None:
        for number in range(5):
            await submit(
                test_path=f"tests/{number}.js",
                tags={"branch": "main", "n": str(number)},
                suite_id="ci:1",
            )
        await submit(target="device", org_id="other")
        seq = await agent.run(Verdict.PASSED, test_path="tests/2.js")

        async def tests(**params: Any) -> list[str]:
            answer = await api.get("/jobs", params={"min_seq": seq, **params})
            assert answer.status_code == 200, answer.text
            return [job["test"] for job in answer.json()["jobs"]]

        assert await tests(org_id="qualgent") == [
            f"tests/{number}.js" for number in (4, 3, 2, 1, 0)
        ]
        assert await tests(status="done") == await tests(verdict="passed") == ["tests/2.js"]
        assert (
            await tests(target="device")
            == await tests(org_id="other")
            == ["tests/onboarding.spec.js"]
        )
        assert await tests(suite_id="ci:1", test="tests/3.js", app_version_id="xyz123") == [
            "tests/3.js"
        ]
        assert await tests(tag=["branch:main", "n:1"]) == ["tests/1.js"]
        first = (await api.get("/jobs", params={"limit": 4})).json()
        second = (
            await api.get("/jobs", params={"limit": 4, "cursor": first["next_cursor"]})
        ).json()
        assert [len(first["jobs"]), len(second["jobs"])] == [4, 2]
        assert second["next_cursor"] is None

    async def test_bad_parameters_are_refused_by_name(self, api: httpx.AsyncClient) -> None:
        for params, name in (
            ({"status": "exploded"}, "status"),
            ({"limit": 0}, "limit"),
            ({"limit": "many"}, "limit"),
            ({"min_seq": -1}, "min_seq"),
            ({"tag": "no-colon"}, "tag"),
        ):
            answer = await api.get("/jobs", params=params)
            assert answer.status_code == 400, params
            assert answer.json()["errors"][0]["parameter"] == name
        answer = await api.get("/jobs", params={"cursor": "garbage"})
        assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (400, "cursor")

    async def test_a_read_waits_for_min_seq(
        self, api: httpx.AsyncClient, submit: Submit, agent: Any
    ) -> None:
        answer = await submit()
        reading = asyncio.create_task(
            api.get(f"/status/{answer['job_id']}", params={"min_seq": answer["seq"] + 1})
        )
        await agent.start()
        assert (await reading).json()["status"] == "running"

    async def test_a_read_does_not_wait_for_ever(self, api: httpx.AsyncClient) -> None:
        answer = await api.get("/jobs", params={"min_seq": 1_000})
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["type"] == "urn:qgjet:problem:not-caught-up"


class TestPendingReason:
    async def reason(self, api: httpx.AsyncClient, job_id: str, seq: int = 0) -> str | None:
        reason: str | None = (await api.get(f"/jobs/{job_id}", params={"min_seq": seq})).json()[
            "pending_reason"
        ]
        return reason

    async def test_no_agent_serves_the_target(
        self, api: httpx.AsyncClient, submit: Submit, connection: Connection
    ) -> None:
        await agent_registry.announce(
            connection, agent_info(targets=(TargetSlots(target="device", slots=1),))
        )
        await agent_registry.announce(connection, agent_info(instance="agent-2", draining=True))
        await agent_registry.announce(
            connection, agent_info(instance="agent-3", app_version_id="other")
        )
        assert await self.reason(api, (await submit())["job_id"]) == "no_agent"

    async def test_all_slots_are_taken(
        self, api: httpx.AsyncClient, submit: Submit, connection: Connection
    ) -> None:
        await agent_registry.announce(
            connection,
            agent_info(
                targets=(TargetSlots(target="emulator", slots=1, running=1),), running=("x",)
            ),
        )
        assert await self.reason(api, (await submit())["job_id"]) == "no_slot"

    async def test_it_may_start_at_any_moment(
        self, api: httpx.AsyncClient, submit: Submit, connection: Connection
    ) -> None:
        await agent_registry.announce(connection, agent_info())
        assert await self.reason(api, (await submit())["job_id"]) is None

    async def test_it_waits_for_its_retry(
        self, api: httpx.AsyncClient, submit: Submit, agent: Any
    ) -> None:
        job_id = (await submit())["job_id"]
        await agent.start()
        seq = await agent.end(Verdict.FAILED, retry_in_s=60.0)
        assert await self.reason(api, job_id, seq) == "backoff"


class TestCancel:
    async def test_a_queued_job_is_cancelled_at_once_and_only_once(
        self, api: httpx.AsyncClient, submit: Submit, log: EventLog
    ) -> None:
        job_id = (await submit())["job_id"]
        answer = await api.post(f"/jobs/{job_id}/cancel", json={"reason": "wrong build"})
        assert answer.status_code == 200
        assert answer.json() == {
            "job_id": job_id,
            "status": "cancelled",
            "cancel_requested": True,
            "seq": 2,
        }
        again = await api.post(f"/jobs/{job_id}/cancel")
        assert (again.status_code, again.json()) == (200, answer.json())
        assert (await log.state()).last_seq == 2

    async def test_a_running_job_is_asked_to_stop(
        self, api: httpx.AsyncClient, submit: Submit, agent: Any, log: EventLog
    ) -> None:
        job_id = (await submit())["job_id"]
        await agent.start()
        answers = [await api.post(f"/jobs/{job_id}/cancel") for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 202]
        assert [answer.json() for answer in answers] == [
            {"job_id": job_id, "status": "running", "cancel_requested": True, "seq": 3}
        ] * 2
        assert (await log.state()).last_seq == 3
        seq = await agent.end(Verdict.CANCELLED)
        assert (await api.get(f"/status/{job_id}", params={"min_seq": seq})).json()[
            "status"
        ] == "cancelled"
        assert (await api.post(f"/jobs/{job_id}/cancel")).status_code == 200

    async def test_a_finished_job_cannot_be_cancelled(
        self, api: httpx.AsyncClient, submit: Submit, agent: Any
    ) -> None:
        job_id = (await submit())["job_id"]
        await agent.run(Verdict.PASSED)
        answer = await api.post(f"/jobs/{job_id}/cancel")
        assert answer.status_code == 409
        assert "passed" in answer.json()["detail"]

    async def test_it_never_hits_the_next_job_of_the_slot(
        self, api: httpx.AsyncClient, submit: Submit, agent: Any
    ) -> None:
        old = (await submit())["job_id"]
        await agent.run(Verdict.PASSED)
        new = (await submit())["job_id"]
        assert (await api.post(f"/jobs/{old}/cancel")).status_code == 409
        assert (await api.get(f"/status/{new}")).json()["status"] == "queued"

    async def test_a_job_submitted_a_moment_ago_is_found(
        self, api: httpx.AsyncClient, s0_body: Json
    ) -> None:
        job_id = (await api.post("/submit", json=s0_body)).json()["job_id"]
        assert (await api.post(f"/jobs/{job_id}/cancel")).status_code == 200

    async def test_the_body_is_checked(self, api: httpx.AsyncClient, submit: Submit) -> None:
        job_id = (await submit())["job_id"]
        answer = await api.post(f"/jobs/{job_id}/cancel", json={"why": "x"})
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["pointer"] == "#/why"


class TestRerun:
    async def test_it_is_a_new_job_that_names_the_old_one(
        self, api: httpx.AsyncClient, submit: Submit, agent: Any
    ) -> None:
        old = (await submit(tags={"a": "b"}, suite_id="s1", max_retries=0))["job_id"]
        await agent.run(Verdict.FAILED)
        answer = await api.post(f"/jobs/{old}/rerun", json={"priority": 0, "suite_id": "s2"})
        body = answer.json()
        assert answer.status_code == 202
        assert answer.headers["location"] == f"/jobs/{body['job_id']}"
        job = (await api.get(f"/jobs/{body['job_id']}", params={"min_seq": body["seq"]})).json()
        assert (
            job["rerun_of"],
            job["tags"],
            job["priority"],
            job["suite_ids"],
            job["max_retries"],
        ) == (old, {"a": "b"}, 0, ["s2"], 0)

    async def test_not_while_a_live_job_holds_the_slot(
        self, api: httpx.AsyncClient, submit: Submit
    ) -> None:
        job_id = (await submit())["job_id"]
        answer = await api.post(f"/jobs/{job_id}/rerun")
        assert (answer.status_code, answer.json()["job_id"]) == (409, job_id)

    async def test_a_bad_priority_is_refused(
        self, api: httpx.AsyncClient, submit: Submit, agent: Any
    ) -> None:
        job_id = (await submit())["job_id"]
        await agent.run(Verdict.PASSED)
        assert (await api.post(f"/jobs/{job_id}/rerun", json={"priority": 10})).status_code == 400


class TestLog:
    async def say(self, connection: Connection, job_id: str, attempt: int, *texts: str) -> None:
        for text in texts:
            await connection.request(log_subject(job_id, attempt), text.encode())

    async def test_the_output_of_an_attempt_is_text(
        self, api: httpx.AsyncClient, submit: Submit, agent: Any, connection: Connection
    ) -> None:
        job_id = (await submit())["job_id"]
        assert (await api.get(f"/jobs/{job_id}/log")).text == ""
        await agent.start()
        await self.say(connection, job_id, 1, *(f"line {number}\n" for number in range(300)))
        seq = await agent.end(Verdict.FAILED)
        await agent.start()
        await self.say(connection, job_id, 2, "second\n")
        first = await api.get(f"/jobs/{job_id}/log", params={"attempt": 1, "min_seq": seq + 1})
        assert first.headers["content-type"] == "text/plain; charset=utf-8"
        assert first.text == "".join(f"line {number}\n" for number in range(300))
        assert (await api.get(f"/jobs/{job_id}/log")).text == "second\n"

    async def test_it_can_be_followed_to_the_end_of_the_attempt(
        self, api: httpx.AsyncClient, submit: Submit, agent: Any, connection: Connection
    ) -> None:
        job_id = (await submit())["job_id"]
        seq = await agent.start()
        await self.say(connection, job_id, 1, "o", "ne\n")
        seen = []
        async with api.stream(
            "GET", f"/jobs/{job_id}/log", params={"follow": True, "min_seq": seq}
        ) as answer:
            async for line in answer.aiter_lines():
                seen.append(line)
                if line == "one":
                    await self.say(connection, job_id, 1, "two")
                    await agent.end(Verdict.PASSED)
        assert seen == ["one", "two"]
