"""Dead letters: looking at them, running them again, putting them away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from qgjet.domain.control import Discarded
from qgjet.domain.events import Verdict
from qgjet.domain.subjects import log_subject
from qgjet.store.control_log import ControlReader
from qgjet.store.event_log import EventLog
from qgjet_projections.usecases import decisions

Json = dict[str, Any]
Submit = Callable[..., Awaitable[Json]]
BROKEN: Json = {"reason": "device_lost", "message": "the emulator went away"}


@pytest.fixture
def die(api: httpx.AsyncClient, submit: Submit, agent: Any) -> Submit:
    """A job that ends without a statement about the app; its id."""

    async def die(verdict: Verdict = Verdict.INFRA_ERROR, **fields: Any) -> str:
        job_id: str = (await submit(infra_retries=0, **fields))["job_id"]
        await agent.start(**fields)
        seq = await agent.end(verdict, outcome=BROKEN, **fields)
        assert (await api.get(f"/status/{job_id}", params={"min_seq": seq})).status_code == 200
        return job_id

    return die


async def dead(api: httpx.AsyncClient, **params: Any) -> list[str]:
    answer = await api.get("/dead", params=params)
    assert answer.status_code == 200, answer.text
    return [one["job_id"] for one in answer.json()["dead_letters"]]


async def test_jobs_without_a_verdict_are_dead_letters_and_others_are_not(
    api: httpx.AsyncClient, die: Any, submit: Submit, agent: Any
) -> None:
    await submit(test_path="tests/red.spec.js", max_retries=0)
    await agent.run(Verdict.FAILED, test_path="tests/red.spec.js")
    infra = await die()
    config = await die(Verdict.CONFIG_ERROR, test_path="tests/typo.spec.js", target="device")
    assert await dead(api) == [config, infra]
    assert await dead(api, target="device") == [config]
    assert await dead(api, verdict="infra_error", reason="device_lost") == [infra]
    assert (
        await dead(api, reason="other")
        == await dead(api, settled=True)
        == await dead(api, finished_before="2020-01-01T00:00:00Z")
        == []
    )
    page = (await api.get("/dead", params={"limit": 1})).json()
    assert await dead(api, limit=1, cursor=page["next_cursor"]) == [infra]
    assert (
        await api.get("/dead", params={"finished_before": "2026-01-01T00:00:00"})
    ).status_code == 400


async def test_a_dead_letter_shows_cause_attempts_and_last_output(
    api: httpx.AsyncClient, die: Any, log: EventLog
) -> None:
    job_id = await die()
    for number in range(30):
        await log.connection.request(log_subject(job_id, 1), f"line {number}\n".encode())
    found = (await api.get(f"/dead/{job_id}")).json()
    assert (found["verdict"], found["reason"], found["message"], found["settlement"]) == (
        "infra_error",
        *BROKEN.values(),
        None,
    )
    assert [(one["attempt"], one["reason"]) for one in found["attempts"]] == [(1, "device_lost")]
    assert found["output"] == [f"line {number}" for number in range(10, 30)]


async def test_what_is_no_dead_letter_is_said(api: httpx.AsyncClient, submit: Submit) -> None:
    job_id = (await submit())["job_id"]
    for method, path in (
        ("GET", f"/dead/{job_id}"),
        ("POST", f"/dead/{job_id}/redrive"),
        ("POST", f"/dead/{job_id}/discard"),
    ):
        answer = await api.request(method, path)
        assert (answer.status_code, "queued: no dead letter" in answer.json()["detail"]) == (
            409,
            True,
        )
    assert (await api.get("/dead/nobody")).status_code == 404


async def test_redrive_makes_a_linked_job_once(api: httpx.AsyncClient, die: Any) -> None:
    job_id = await die()
    answer = await api.post(f"/dead/{job_id}/redrive")
    assert answer.status_code == 202
    new_id = answer.json()["new_job_id"]
    assert answer.headers["location"] == f"/jobs/{new_id}"
    assert (await api.get(f"/jobs/{new_id}")).json()["rerun_of"] == job_id
    assert await dead(api) == []
    settled = (await api.get("/dead", params={"settled": True})).json()["dead_letters"]
    assert [
        (one["job_id"], one["settlement"]["how"], one["settlement"]["note"]) for one in settled
    ] == [(job_id, "redriven", new_id)]
    again = await api.post(f"/dead/{job_id}/redrive")
    assert (again.status_code, new_id in again.json()["detail"]) == (409, True)


async def test_two_who_redrive_at_once_make_one_job(api: httpx.AsyncClient, die: Any) -> None:
    job_id = await die()
    answers = await asyncio.gather(*(api.post(f"/dead/{job_id}/redrive") for _ in range(5)))
    assert sorted(one.status_code for one in answers) == [202, 409, 409, 409, 409]


async def test_a_rerun_settles_a_dead_letter_too(api: httpx.AsyncClient, die: Any) -> None:
    job_id = await die()
    seq = (await api.post(f"/jobs/{job_id}/rerun", json={})).json()["seq"]
    assert await dead(api, min_seq=seq) == []


async def test_discard_says_why_and_leaves_the_job_as_it_ended(
    api: httpx.AsyncClient, die: Any, log: EventLog
) -> None:
    job_id = await die()
    answer = await api.post(f"/dead/{job_id}/discard", json={"reason": "known"})
    assert (answer.status_code, answer.json()["new_job_id"]) == (200, None)
    assert await dead(api) == []
    found = (await api.get(f"/dead/{job_id}")).json()
    assert (
        found["status"],
        found["verdict"],
        found["settlement"]["how"],
        found["settlement"]["note"],
    ) == ("failed", "infra_error", "discarded", "known")
    assert (await api.post(f"/dead/{job_id}/discard")).status_code == 409
    (event,) = await ControlReader(log.connection).new()
    assert isinstance(event, Discarded)
    assert (event.name, event.org_id, event.by, event.reason) == (
        job_id,
        "qualgent",
        "api",
        "known",
    )


async def test_one_call_takes_the_oldest_and_says_how_many_are_left(
    api: httpx.AsyncClient, die: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "MOST_AT_ONCE", 2)
    ids = [await die(test_path=f"tests/{name}.spec.js") for name in "abc"]
    await die(target="device")
    first = (await api.post("/dead/discard", json={"target": "emulator"})).json()
    assert ([one["job_id"] for one in first["dead_letters"]], first["left"]) == (ids[:2], 1)
    second = (await api.post("/dead/discard", json={"target": "emulator"})).json()
    assert ([one["job_id"] for one in second["dead_letters"]], second["left"]) == (ids[2:], 0)


async def test_many_are_redriven_by_a_filter_and_each_has_its_answer(
    api: httpx.AsyncClient, die: Any, submit: Submit
) -> None:
    ids = [await die(test_path=f"tests/{name}.spec.js") for name in "abc"]
    other = await die(target="device")
    await submit(test_path="tests/b.spec.js")  # its slot is taken again
    answer = (await api.post("/dead/redrive", json={"target": "emulator"})).json()
    assert (answer["settled"], answer["refused"], answer["left"]) == (2, 1, 0)
    assert [(one["job_id"], one["status"]) for one in answer["dead_letters"]] == [
        (ids[0], None),
        (ids[1], 409),
        (ids[2], None),
    ]
    assert await dead(api) == [other, ids[1]]
    done = (await api.post("/dead/discard", json={"all": True, "because": "old"})).json()
    assert (done["settled"], await dead(api)) == (2, [])


async def test_a_filter_without_conditions_is_no_filter(api: httpx.AsyncClient, die: Any) -> None:
    job_id = await die()
    for body in ({}, {"all": True, "target": "emulator"}, {"targe": "emulator"}):
        for path in ("/dead/redrive", "/dead/discard"):
            assert (await api.post(path, json=body)).status_code == 400
    assert await dead(api) == [job_id]


async def test_metrics_count_what_waits_for_somebody(api: httpx.AsyncClient, die: Any) -> None:
    job_id = await die()

    async def counted() -> list[tuple[str, float]]:
        text = (await api.get("/metrics")).text
        return [
            (s.labels["target"], s.value)
            for f in text_string_to_metric_families(text)
            if f.name == "qgjet_dead_letters"
            for s in f.samples
        ]

    assert await counted() == [("emulator", 1.0)]
    await api.post(f"/dead/{job_id}/discard")
    assert await counted() == []
