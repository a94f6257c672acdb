"""How things went: jobs by the hour, tests over days."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from qgjet.domain.events import Verdict
from qgjet.support.clock import utc_now

Json = dict[str, Any]
Submit = Callable[..., Awaitable[Json]]
LOGIN, CART = "tests/login.spec.js", "tests/cart.spec.js"


@pytest.fixture
def run(api: httpx.AsyncClient, submit: Submit, agent: Any) -> Callable[..., Awaitable[None]]:
    """A job of one attempt, from its submission to the read model."""

    async def run(verdict: Verdict, duration_s: float = 1.0, **fields: Any) -> None:
        job_id = (await submit(max_retries=0, infra_retries=0, **fields))["job_id"]
        await agent.start(**fields)
        seq = await agent.end(verdict, outcome={"duration_s": duration_s}, **fields)
        assert (await api.get(f"/status/{job_id}", params={"min_seq": seq})).status_code == 200

    return run


async def test_jobs_are_counted_by_the_hour(api: httpx.AsyncClient, run: Any) -> None:
    assert (await api.get("/stats/hours")).json() == {"hours": []}
    for verdict, target in (
        (Verdict.PASSED, "emulator"),
        (Verdict.PASSED, "device"),
        (Verdict.FAILED, "device"),
    ):
        await run(verdict, target=target)
    hours = (await api.get("/stats/hours")).json()["hours"]
    total: dict[str, int] = {}
    for one in hours:  # two, when the clock strikes meanwhile
        assert utc_now() - datetime.fromisoformat(one["hour"]) < timedelta(hours=1, minutes=1)
        for verdict, count in one["verdicts"].items():
            total[verdict] = total.get(verdict, 0) + count
    assert total == {"passed": 2, "failed": 1}
    (on_device,) = (await api.get("/stats/hours", params={"target": "device", "hours": 1})).json()[
        "hours"
    ]
    assert on_device["verdicts"] == {"passed": 1, "failed": 1}
    assert (await api.get("/stats/hours", params={"org_id": "other"})).json() == {"hours": []}


async def test_tests_come_in_the_order_that_is_asked_for(api: httpx.AsyncClient, run: Any) -> None:
    for verdict in (Verdict.PASSED, Verdict.FAILED):
        await run(verdict, 2.0, test_path=LOGIN)
    await run(Verdict.FLAKY, 9.0, test_path=CART)
    await run(Verdict.INFRA_ERROR, test_path="tests/never.spec.js")
    orders = {}
    for order in ("failing", "flakiest", "slowest", "name"):
        found = (await api.get("/tests", params={"order": order})).json()["tests"]
        orders[order] = [one["test"].split("/")[1].split(".")[0] for one in found]
    assert orders == {
        "failing": ["login", "cart", "never"],
        "flakiest": ["cart", "login", "never"],
        "slowest": ["cart", "login", "never"],
        "name": ["cart", "login", "never"],
    }
    login, cart, never = (await api.get("/tests")).json()["tests"]
    assert (
        login["runs"],
        login["pass_rate"],
        login["flaky_rate"],
        login["mean_s"],
        login["verdicts"],
    ) == (2, 0.5, 0.0, 2.0, {"passed": 1, "failed": 1})
    assert (cart["pass_rate"], cart["flaky_rate"]) == (1.0, 1.0)
    assert (never["runs"], never["pass_rate"]) == (0, None)
    pages, cursor = [], None
    while True:
        page = (
            await api.get("/tests", params={"limit": 1, **({"cursor": cursor} if cursor else {})})
        ).json()
        pages, cursor = [*pages, *page["tests"]], page["next_cursor"]
        if cursor is None:
            break
    assert pages == [login, cart, never]
    assert (await api.get("/tests", params={"cursor": "nonsense"})).status_code == 400


async def test_a_test_has_a_history_on_each_target(api: httpx.AsyncClient, run: Any) -> None:
    await run(Verdict.PASSED, target="emulator", test_path=LOGIN)
    await run(Verdict.FAILED, target="device", test_path=LOGIN)
    await run(Verdict.FAILED, test_path=CART)
    days = (await api.get("/tests/history", params={"test": LOGIN})).json()["days"]
    assert {(one["target"], one["pass_rate"]) for one in days} == {
        ("emulator", 1.0),
        ("device", 0.0),
    }
    assert all(datetime.fromisoformat(one["day"]).hour == 0 for one in days)
    assert (await api.get("/tests/history", params={"test": LOGIN, "target": "sofa"})).json()[
        "days"
    ] == []
    assert (await api.get("/tests/history")).status_code == 400
