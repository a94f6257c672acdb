"""POST /suites/{id}/rerun."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from qgjet.domain.events import Verdict
from qgjet_projections.readmodel import ReadModel

Json = dict[str, Any]
SHARED: Json = {
    "org_id": "qualgent",
    "app_version_id": "xyz123",
    "target": "emulator",
    "max_retries": 0,
    "infra_retries": 0,
}
ENDS = {
    "a.js": Verdict.PASSED,
    "b.js": Verdict.FAILED,
    "c.js": Verdict.INFRA_ERROR,
    "d.js": Verdict.SKIPPED,
}


async def run_suite(
    api: httpx.AsyncClient, agent: Any, ends: dict[str, Verdict], **fields: Any
) -> int:
    await api.post(
        "/suites",
        json={**SHARED, "tests": list(ends), "suite_id": "s", "tags": {"branch": "main"}, **fields},
    )
    seq = 0
    for test, verdict in ends.items():
        seq = await agent.run(verdict, test_path=test)
    return seq


async def test_only_what_did_not_pass_runs_again(api: httpx.AsyncClient, agent: Any) -> None:
    await run_suite(api, agent, ENDS, priority=2)
    answer = await api.post("/suites/s/rerun")
    body = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, f"/suites/{body['suite_id']}")
    assert {job["test"] for job in body["jobs"]} == {"b.js", "c.js"}
    suite = (await api.get(f"/suites/{body['suite_id']}", params={"min_seq": body["seq"]})).json()
    assert suite["tags"] == {"branch": "main", "rerun_of": "s"}
    old = {job["test"]: job["job_id"] for job in (await api.get("/suites/s")).json()["jobs"]}
    assert {(job["test"], job["rerun_of"], job["priority"]) for job in suite["jobs"]} == {
        ("b.js", old["b.js"], 2),
        ("c.js", old["c.js"], 2),
    }


async def test_all_run_again_when_asked(api: httpx.AsyncClient, agent: Any) -> None:
    await run_suite(api, agent, ENDS)
    body = (await api.post("/suites/s/rerun", json={"failed": False, "suite_id": "again"})).json()
    assert (body["suite_id"], {job["test"] for job in body["jobs"]}) == ("again", set(ENDS))


async def test_without_any_verdict_everything_runs_again(
    api: httpx.AsyncClient, agent: Any
) -> None:
    await run_suite(api, agent, dict.fromkeys(ENDS, Verdict.INFRA_ERROR))
    assert len((await api.post("/suites/s/rerun")).json()["jobs"]) == 4


async def test_a_live_suite_and_a_green_one_are_refused(api: httpx.AsyncClient, agent: Any) -> None:
    await api.post("/suites", json={**SHARED, "tests": ["a.js"], "suite_id": "s"})
    live = await api.post("/suites/s/rerun")
    assert (live.status_code, "1 live" in live.json()["detail"]) == (409, True)
    await agent.run(Verdict.PASSED, test_path="a.js")
    green = await api.post("/suites/s/rerun")
    assert (green.status_code, "nothing to run again" in green.json()["detail"]) == (409, True)
    assert (await api.post("/suites/none/rerun")).status_code == 404


async def test_a_large_suite_is_read_beside_the_event_loop(
    api: httpx.AsyncClient, agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rerun reads each of its jobs, a cancel all that are live: nobody else has to wait for that."""
    threads: dict[str, set[int]] = {"spec": set(), "jobs": set()}
    for name, seen in threads.items():
        monkeypatch.setattr(ReadModel, name, _noted(getattr(ReadModel, name), seen))
    await run_suite(api, agent, {"a.js": Verdict.FAILED})
    assert (await api.post("/suites/s/rerun")).status_code == 202
    assert (await api.post("/suites/s/cancel")).status_code == 200
    assert all(threads.values())
    assert not any(threading.get_ident() in seen for seen in threads.values())


def _noted(read: Callable[..., Any], seen: set[int]) -> Callable[..., Any]:
    def noted(*args: Any) -> Any:
        seen.add(threading.get_ident())
        return read(*args)

    return noted
