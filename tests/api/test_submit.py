"""Submitting, over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from qgjet.domain import subjects
from qgjet.domain.events import Verdict
from qgjet.store.event_log import EventLog

Json = dict[str, Any]


async def count(log: EventLog) -> int:
    return (await log.state()).last_seq


async def test_s0_submits_and_asks_for_the_status(api: httpx.AsyncClient, s0_body: Json) -> None:
    answer = await api.post("/submit", json=s0_body)
    body = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/jobs/{body['job_id']}"
    assert body == {
        "job_id": body["job_id"],
        "status": "queued",
        "seq": 1,
        "attached": False,
        "replaced": None,
    }
    status = await api.get(f"/status/{body['job_id']}", params={"min_seq": body["seq"]})
    assert status.status_code == 200
    created_at = status.json().pop("created_at")
    assert created_at.endswith("Z")
    assert status.json() == {
        **s0_body,
        "job_id": body["job_id"],
        "status": "queued",
        "verdict": None,
        "legacy_status": "queued",
        "created_at": created_at,
        "retries": 0,
        "max_retries": 3,
        "reason": "",
        "seq": 1,
    }


async def test_a_status_right_after_the_submission_needs_no_min_seq(
    api: httpx.AsyncClient, s0_body: Json
) -> None:
    for number in range(20):
        job_id = (
            await api.post("/submit", json={**s0_body, "test_path": f"tests/{number}.js"})
        ).json()["job_id"]
        assert (await api.get(f"/status/{job_id}")).status_code == 200


async def test_jobs_is_another_name_of_submit(api: httpx.AsyncClient, s0_body: Json) -> None:
    answer = await api.post("/jobs", json=s0_body)
    assert answer.status_code == 202


async def test_a_duplicate_is_attached_to_the_live_job(
    api: httpx.AsyncClient, s0_body: Json, log: EventLog
) -> None:
    first = (await api.post("/submit", json=s0_body)).json()
    again = await api.post("/submit", json=s0_body)
    assert again.status_code == 200
    assert again.json() == {**first, "attached": True}
    assert again.headers["location"] == f"/jobs/{first['job_id']}"
    assert await count(log) == 1


async def test_a_rejected_duplicate_names_the_live_job(
    api: httpx.AsyncClient, s0_body: Json, log: EventLog
) -> None:
    first = (await api.post("/submit", json=s0_body)).json()
    again = await api.post("/submit", json={**s0_body, "on_duplicate": "reject"})
    assert again.status_code == 409
    assert again.headers["content-type"] == "application/problem+json"
    assert again.json()["job_id"] == first["job_id"]
    assert again.json()["type"] == "urn:qgjet:problem:duplicate"
    assert await count(log) == 1


async def test_a_replacement_cancels_the_live_job(
    api: httpx.AsyncClient, submit: Callable[..., Awaitable[Json]]
) -> None:
    first = await submit()
    second = await submit(on_duplicate="replace")
    assert second["job_id"] != first["job_id"]
    assert second["replaced"] == first["job_id"]
    old = (await api.get(f"/jobs/{first['job_id']}")).json()
    assert (old["status"], old["verdict"], old["replaced_by"]) == (
        "cancelled",
        "cancelled",
        second["job_id"],
    )


async def test_a_finished_slot_takes_a_new_job(
    api: httpx.AsyncClient, submit: Callable[..., Awaitable[Json]], agent: Any
) -> None:
    first = await submit()
    await agent.run(Verdict.PASSED)
    second = await submit()
    assert second["job_id"] != first["job_id"]
    assert second["attached"] is False


async def test_twenty_clients_at_once_make_one_job(
    api: httpx.AsyncClient, s0_body: Json, log: EventLog
) -> None:
    answers = await asyncio.gather(*(api.post("/submit", json=s0_body) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [202]
    assert len({answer.json()["job_id"] for answer in answers}) == 1
    assert await count(log) == 1


@pytest.mark.parametrize(
    "ids",
    [
        {"org_id": "a.b/c*d>e f~g%h"},
        {"app_version_id": "1.0.0+build/7 \\x"},
        {"target": "日本語 ü 😀"},
        {"org_id": "\u202e\u0000\u001f", "target": "."},
        {"org_id": "%2E", "app_version_id": "..", "target": ">"},
    ],
)
async def test_hostile_ids_are_kept_exactly(
    submit: Callable[..., Awaitable[Json]], api: httpx.AsyncClient, log: EventLog, ids: Json
) -> None:
    answer = await submit(**ids, test_path="tests/ü b>*.spec.js")
    job = (await api.get(f"/jobs/{answer['job_id']}")).json()
    assert {key: job[key] for key in ids} == ids
    assert job["test"] == "tests/ü b>*.spec.js"
    listed = (await api.get("/jobs", params=ids)).json()["jobs"]
    assert [one["job_id"] for one in listed] == [answer["job_id"]]
    stored = await log.get(answer["seq"])
    assert stored is not None
    parsed = subjects.parse_job_subject(stored.subject)
    assert parsed is not None
    assert {key: getattr(parsed[0], key) for key in ids} == ids


BAD_FIELDS: list[tuple[Json, str]] = [
    ({"org_id": ""}, "#/org_id"),
    ({"org_id": "x" * 65}, "#/org_id"),
    ({"org_id": 7}, "#/org_id"),
    ({"org_id": None}, "#/org_id"),
    ({"test_path": "../x.js"}, "#/test_path"),
    ({"test_path": "-rf"}, "#/test_path"),
    ({"test_path": "a\u0000b"}, "#/test_path"),
    ({"test": "other.js"}, "#/test_path"),
    ({"priority": 10}, "#/priority"),
    ({"priority": "3"}, "#/priority"),
    ({"priority": 2.5}, "#/priority"),
    ({"priority": True}, "#/priority"),
    ({"max_retries": 11}, "#/max_retries"),
    ({"execution_timeout": "soon"}, "#/execution_timeout"),
    ({"on_duplicate": "ignore"}, "#/on_duplicate"),
    ({"tags": {"k": 1}}, "#/tags"),
    ({"suite_id": "a/b"}, "#/suite_id"),
    ({"prioritty": 3}, "#/prioritty"),
    ({"a/b~`c": 3}, "#/a~1b~0%60c"),
]


async def test_a_bad_field_is_refused_by_name_and_nothing_is_written(
    api: httpx.AsyncClient, s0_body: Json, log: EventLog
) -> None:
    for change, pointer in BAD_FIELDS:
        answer = await api.post("/submit", json={**s0_body, **change})
        problem = answer.json()
        assert (answer.status_code, problem["status"], problem["instance"]) == (
            400,
            400,
            "/submit",
        ), change
        assert [error["pointer"] for error in problem["errors"]] == [pointer], change
        assert problem["errors"][0]["detail"]
    assert await count(log) == 0


async def test_a_missing_field_is_named(api: httpx.AsyncClient, s0_body: Json) -> None:
    del s0_body["org_id"]
    answer = await api.post("/submit", json=s0_body)
    assert answer.json()["errors"] == [{"detail": "is required", "pointer": "#/org_id"}]


NO_OBJECTS = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"org_id": "\xff"}',
    b'{"org_id": "\\ud800"}',
    b"[" * 100_000,
    b'{"org_id": NaN}',
    b"\xef\xbb\xbf{}",
    b"{}{}",
]


async def test_what_is_no_json_object_is_refused(api: httpx.AsyncClient) -> None:
    for body in NO_OBJECTS:
        answer = await api.post(
            "/submit", content=body, headers={"Content-Type": "application/json"}
        )
        assert (answer.status_code, answer.headers["content-type"]) == (
            400,
            "application/problem+json",
        ), body
        assert answer.json()["errors"], body


async def test_other_media_types_are_refused(api: httpx.AsyncClient, s0_body: Json) -> None:
    answer = await api.post("/submit", data=s0_body)
    assert answer.status_code == 415
    assert "application/json" in answer.json()["detail"]


async def test_json_may_come_without_a_content_type_or_with_parameters(
    api: httpx.AsyncClient, s0_body: Json
) -> None:
    content = httpx.Request("POST", "http://x", json=s0_body).content
    assert (await api.post("/submit", content=content)).status_code == 202
    assert (
        await api.post(
            "/submit", content=content, headers={"Content-Type": "application/json; charset=utf-8"}
        )
    ).status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_a_mebibyte_is_refused(
    api: httpx.AsyncClient, s0_body: Json, log: EventLog, chunked: bool
) -> None:
    content = httpx.Request(
        "POST", "http://x", json={**s0_body, "tags": {"k": "x" * 1_500_000}}
    ).content

    async def pieces() -> Any:
        for start in range(0, len(content), 65_536):
            yield content[start : start + 65_536]

    answer = await api.post(
        "/submit",
        content=pieces() if chunked else content,
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 413
    assert "1 MiB" in answer.json()["detail"]
    assert await count(log) == 0


class TestIdempotencyKey:
    async def test_the_same_request_again_gets_the_same_answer(
        self, api: httpx.AsyncClient, s0_body: Json, log: EventLog, agent: Any
    ) -> None:
        headers = {"Idempotency-Key": "ci-run-7"}
        first = await api.post("/submit", json=s0_body, headers=headers)
        assert first.status_code == 202
        assert "idempotency-replayed" not in first.headers
        await agent.run(Verdict.PASSED)
        before = await count(log)
        again = await api.post("/submit", json=s0_body, headers=headers)
        assert (again.status_code, again.json()) == (202, first.json())
        assert again.headers["idempotency-replayed"] == "true"
        assert await count(log) == before

    async def test_it_is_found_after_the_slot_went_to_another_job(
        self, api: httpx.AsyncClient, s0_body: Json, agent: Any
    ) -> None:
        headers = {"Idempotency-Key": "k"}
        first = (await api.post("/submit", json=s0_body, headers=headers)).json()
        await agent.run(Verdict.PASSED)
        await api.post("/submit", json=s0_body)
        assert (await api.post("/submit", json=s0_body, headers=headers)).json() == first

    async def test_another_body_is_refused(
        self, api: httpx.AsyncClient, s0_body: Json, log: EventLog
    ) -> None:
        headers = {"Idempotency-Key": "k"}
        await api.post("/submit", json=s0_body, headers=headers)
        other = await api.post("/submit", json={**s0_body, "priority": 4}, headers=headers)
        assert other.status_code == 422
        assert other.json()["type"] == "urn:qgjet:problem:idempotency-mismatch"
        assert await count(log) == 2, "the claim of the key, and one job"

    async def test_keys_are_per_org(self, api: httpx.AsyncClient, s0_body: Json) -> None:
        headers = {"Idempotency-Key": "k"}
        first = (await api.post("/submit", json=s0_body, headers=headers)).json()
        other = await api.post("/submit", json={**s0_body, "org_id": "other"}, headers=headers)
        assert other.status_code == 202
        assert other.json()["job_id"] != first["job_id"]

    async def test_quotes_are_not_part_of_it(self, api: httpx.AsyncClient, s0_body: Json) -> None:
        first = await api.post("/submit", json=s0_body, headers={"Idempotency-Key": "k"})
        again = await api.post("/submit", json=s0_body, headers={"Idempotency-Key": '"k"'})
        assert again.json() == first.json()

    async def test_at_once_with_different_bodies_one_wins(
        self, api: httpx.AsyncClient, s0_body: Json, log: EventLog
    ) -> None:
        bodies = [{**s0_body, "test_path": f"tests/{number}.js"} for number in range(8)]
        answers = await asyncio.gather(
            *(api.post("/submit", json=body, headers={"Idempotency-Key": "k"}) for body in bodies)
        )
        assert sorted(answer.status_code for answer in answers) == [202] + [422] * 7
        assert await count(log) == 2, "the claim of the key, and one job"

    async def test_a_key_of_no_use_is_refused(self, api: httpx.AsyncClient, s0_body: Json) -> None:
        for key in ("", '""', "x" * 256):
            answer = await api.post("/submit", json=s0_body, headers={"Idempotency-Key": key})
            assert answer.status_code == 400
            assert answer.json()["errors"][0]["parameter"] == "Idempotency-Key"
