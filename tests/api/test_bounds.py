"""Texts that clients give are bounded, and so are answers that show longer ones of older versions."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from factories import NOW
from qgjet.domain import control
from qgjet.domain.control import Kind, Paused
from qgjet.domain.decide import Cancel, decide
from qgjet.domain.events import CancelRequested, Slot, Verdict
from qgjet.errors import InvalidInput
from qgjet.store.control_log import append
from qgjet.store.event_log import EventLog
from qgjet_projections.readmodel.queries.event import MAX_PAGE_BYTES

Json = dict[str, Any]
Submit = Callable[..., Awaitable[Json]]
LONG = "x" * 501
HUGE = "z" * 700_000
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/jobs/{job}/cancel", {"reason": LONG}, "reason"),
        ("/suites/nightly/cancel", {"reason": LONG}, "reason"),
        ("/queue/pause", {"target": "emulator", "reason": LONG}, "reason"),
        ("/queue/resume", {"target": "emulator", "reason": LONG}, "reason"),
        ("/agents/mac/drain", {"reason": LONG}, "reason"),
        ("/dead/{job}/discard", {"reason": LONG}, "reason"),
        ("/dead/discard", {"all": True, "because": LONG}, "because"),
    ],
)
async def test_a_reason_that_is_too_long_is_refused(
    api: httpx.AsyncClient, submit: Submit, path: str, body: Json, field: str
) -> None:
    job_id = (await submit(suite_id="nightly"))["job_id"]
    refused = await api.post(path.format(job=job_id), json=body)
    assert refused.status_code == 400
    assert refused.json()["errors"] == [
        {"detail": "Expected str of length <= 500", "pointer": f"#/{field}"}
    ]
    assert (await api.get(f"/status/{job_id}")).json()["status"] == "queued"


async def test_forms_of_the_dashboard_have_the_same_bound(
    api: httpx.AsyncClient, submit: Submit
) -> None:
    job_id = (await submit(suite_id="nightly"))["job_id"]
    for path in (
        f"/ui/jobs/{job_id}/cancel",
        "/ui/suites/nightly/cancel",
        "/ui/queue/pause",
        "/ui/dead/discard",
    ):
        refused = await api.post(
            path, data={"target": "emulator", "reason": LONG, "because": LONG}, headers=FORM
        )
        assert (refused.status_code, "at most 500 are accepted" in refused.text) == (400, True), (
            path
        )
    assert (await api.get(f"/status/{job_id}")).json()["status"] == "queued"


async def test_commands_straight_to_nats_have_the_same_bound(log: EventLog, submit: Submit) -> None:
    body = await submit()
    slot = Slot("qualgent", "xyz123", "emulator", "tests/onboarding.spec.js")
    with pytest.raises(InvalidInput, match="at most 500 are accepted"):
        await log.cancel(slot, body["job_id"], by="ana", reason=LONG)
    with pytest.raises(InvalidInput, match="at most 500 are accepted"):
        await append(log.connection, Paused(kind=Kind.TARGET, name="emulator", at=NOW, reason=LONG))
    assert await log.cancel(slot, body["job_id"], by="ana", reason=LONG[:500]) is not None


async def test_longer_texts_of_older_versions_are_shortened_in_answers(
    api: httpx.AsyncClient, log: EventLog, submit: Submit
) -> None:
    job_ids = []
    for number in range(6):
        test = f"{number}.js"
        job_ids.append((await submit(test_path=test))["job_id"])
        slot = Slot("qualgent", "xyz123", "emulator", test)
        job = await log.load(slot)
        assert job is not None
        event = decide(Cancel("ana", "short"), job, log.clock())
        assert isinstance(event, CancelRequested)
        await log.append(slot, replace(event, reason=HUGE), job.version)
    paused = Paused(kind=Kind.TARGET, name="emulator", at=NOW, by="ana", reason=HUGE)
    last = (
        await log.connection.client.jetstream().publish(
            control.subject_of(paused), control.encode(paused)
        )
    ).seq

    found = (await api.get("/jobs", params={"min_seq": last})).json()["jobs"]
    assert {job["reason"] for job in found} == {HUGE[:499] + "…"}
    assert (await api.get("/queue/pauses")).json()["pauses"][0]["reason"] == HUGE[:499] + "…"
    for path in (
        "/ui/jobs",
        f"/ui/jobs/{job_ids[0]}",
        "/",
        "/jobs",
        f"/jobs/{job_ids[0]}",
        "/ui/suites",
    ):
        answer = await api.get(path)
        assert (answer.status_code, len(answer.content) < 100_000) == (200, True), path

    # the events themselves are whole, in pages of bounded size
    assert (await api.get(f"/jobs/{job_ids[0]}/events")).json()["events"][-1]["event"][
        "reason"
    ] == HUGE
    assert len(job_ids) * len(HUGE) > MAX_PAGE_BYTES
    seen: list[int] = []
    async with api.stream("GET", "/events", params={"after": 0}) as stream:
        async for line in stream.aiter_lines():
            if match := re.fullmatch(r"id: (\d+)", line):
                seen.append(int(match[1]))
                if seen[-1] == last:
                    break
    assert seen == list(range(1, last + 1))


async def test_an_error_does_not_repeat_a_long_request(api: httpx.AsyncClient) -> None:
    for body in (
        {"x" * 500_000: 1},
        {"org_id": "y" * 500_000, "app_version_id": "1", "target": "emulator", "test": "a.js"},
    ):
        refused = await api.post("/submit", json=body)
        assert (refused.status_code, len(refused.content) < 10_000) == (400, True)


async def test_a_verdict_is_not_touched_by_these_bounds(
    api: httpx.AsyncClient, submit: Submit, agent: Any
) -> None:
    job_id = (await submit(max_retries=0))["job_id"]
    await agent.start()
    seq = await agent.end(Verdict.FAILED, outcome={"reason": "tests_failed", "message": "m" * 2000})
    assert (await api.get(f"/jobs/{job_id}", params={"min_seq": seq})).json()[
        "message"
    ] == "m" * 2000
