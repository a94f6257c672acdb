"""`/ui/live`: says that a page would look different now, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from api.test_access import bearing, make_token
from factories import NOW
from patience import patience
from qgjet.auth import token_file, tokens
from qgjet.auth.tokens import Scope
from qgjet.config.settings import Settings
from qgjet.domain.events import Verdict
from qgjet.jetstream.connection import Connection
from qgjet.store import agent_registry
from qgjet.store.agent_registry import AgentInfo, TargetSlots
from qgjet.support.clock import utc_now
from qgjet_projections import service
from qgjet_projections.web import live

Json = dict[str, Any]
Submit = Callable[..., Awaitable[Json]]
RunApi = Callable[[Settings], AbstractAsyncContextManager[httpx.AsyncClient]]
SILENCE_S = 0.6


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PACE_S", 0.05)
    monkeypatch.setattr(live, "LOOK_S", 0.1)
    monkeypatch.setattr(live, "KEEP_ALIVE_S", SILENCE_S)
    monkeypatch.setattr(service, "AGENTS_FRESH_S", 0.0)


@contextlib.asynccontextmanager
async def changes(
    api: httpx.AsyncClient, headers: dict[str, str] | None = None, **params: Any
) -> AsyncIterator[AsyncIterator[int]]:
    """Sequences as they come; -1 for a silence."""
    async with (
        asyncio.timeout(patience(20)),
        api.stream("GET", "/ui/live", params=params, headers=headers) as answer,
    ):
        assert (answer.status_code, answer.headers["x-accel-buffering"]) == (200, "no")
        assert answer.headers["content-type"].startswith("text/event-stream")

        async def said() -> AsyncIterator[int]:
            async for line in answer.aiter_lines():
                if line.startswith("id: "):
                    yield int(line[4:])
                elif line.startswith(":"):
                    yield -1
                else:
                    assert (
                        line in ("", "retry: 1000", "event: changed")
                        or line.removeprefix("data: ").isdecimal()
                    ), "nothing but a number is told"

        yield said()


async def test_it_says_when_something_has_changed_since_the_page_was_made(
    api: httpx.AsyncClient, submit: Submit, agent: Any
) -> None:
    first = (await submit())["seq"]
    async with changes(api, after=first) as said:
        assert await anext(said) == -1, "the page shows it already"
        seq = await agent.run(Verdict.PASSED)
        assert first < await anext(said) <= seq
    await api.get("/jobs", params={"min_seq": seq, "limit": 1})
    async with changes(api, after=0) as said:
        assert await anext(said) == seq, "once for all that was missed"
        assert await anext(said) == -1


async def test_a_browser_that_comes_back_hears_what_it_has_missed_and_nothing_else(
    api: httpx.AsyncClient, submit: Submit, agent: Any
) -> None:
    await submit()
    async with changes(api, after=0) as said:
        last = await anext(said)
    again = {"Last-Event-ID": str(last)}
    async with changes(api, again, after=0) as said:
        assert await anext(said) == -1
    await agent.start()
    async with changes(api, again, after=0) as said:
        assert await anext(said) == last + 1
    assert (await api.get("/ui/live", headers={"Last-Event-ID": "<x>"})).status_code == 400


async def test_a_page_from_a_read_model_that_was_longer_is_made_anew_once(
    api: httpx.AsyncClient, submit: Submit
) -> None:
    """Its log was replaced: what the page shows is not there any more."""
    seq = (await submit())["seq"]
    async with changes(api, after=seq + 1000) as said:
        assert [await anext(said), await anext(said)] == [seq, -1]


async def test_a_jobs_page_and_a_suites_move_for_their_own_alone(
    api: httpx.AsyncClient, submit: Submit, agent: Any
) -> None:
    mine = await submit(suite_id="ci")
    await submit(test_path="tests/other.spec.js")
    for params in ({"job_id": mine["job_id"]}, {"suite_id": "ci"}):
        async with changes(
            api, after=(await api.get("/readyz")).json().get("applied_seq", 2), **params
        ) as said:
            await agent.run(Verdict.PASSED, test_path="tests/other.spec.js")
            assert await anext(said) == -1
            await submit(test_path="tests/other.spec.js")
    async with changes(api, after=2, job_id=mine["job_id"]) as said:
        started = await agent.start()
        assert await anext(said) >= started


async def test_a_page_about_days_moves_seldom_and_is_told_of_the_last_event(
    api: httpx.AsyncClient, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SLOW_PACE_S", 1.0)
    async with changes(api, after=0, slow=True) as said:
        first = (await submit(test_path="tests/first.spec.js"))["seq"]
        assert await anext(said) == first
        began = time.monotonic()
        for number in range(3):
            last = (await submit(test_path=f"tests/{number}.spec.js"))["seq"]
        assert await anext(said) == last
        assert time.monotonic() - began > 0.8


async def test_a_busy_queue_moves_a_page_at_its_pace(
    api: httpx.AsyncClient, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PACE_S", 0.5)
    async with changes(api, after=0) as said:
        await submit(test_path="tests/first.spec.js")
        await anext(said)
        began = time.monotonic()
        for number in range(20):
            last = (await submit(test_path=f"tests/{number}.spec.js"))["seq"]
        told = []
        while not told or told[-1] < last:
            told.append(await anext(said))
        assert len(told) <= (time.monotonic() - began) / 0.5 + 1


async def test_pages_with_agents_move_when_these_do(
    api: httpx.AsyncClient, connection: Connection
) -> None:
    info = AgentInfo(
        instance="i",
        name="m",
        host="h",
        pid=1,
        version="1",
        targets=(TargetSlots(target="emulator", slots=2),),
        slots=2,
        since=NOW,
    )
    async with (
        changes(api, after=0, agents="true") as with_agents,
        changes(api, after=0) as without,
    ):
        assert await anext(with_agents) == -1
        await agent_registry.announce(connection, info)
        assert await anext(with_agents) == 0
        await agent_registry.announce(connection, replace(info, draining=True))
        assert await anext(with_agents) == 0
        assert await anext(without) == -1


async def test_other_orgs_move_no_page_of_ones_own(
    settings: Settings, run_api: RunApi, tmp_path: Path, connection: Connection
) -> None:
    file = tmp_path / "tokens.json"
    operator, bound = (
        bearing(make_token(file, Scope.OPERATE)),
        bearing(make_token(file, orgs=("acme",))),
    )
    async with run_api(replace(settings, api=replace(settings.api, tokens_file=str(file)))) as api:

        async def submit(org: str, number: int) -> Json:
            body = {
                "org_id": org,
                "app_version_id": "1",
                "target": "emulator",
                "test": f"{number}.js",
                "suite_id": "ci",
            }
            answer = (await api.post("/submit", json=body, headers=operator)).json()
            await api.get(
                f"/status/{answer['job_id']}", params={"min_seq": answer["seq"]}, headers=operator
            )
            return dict(answer)

        foreign = await submit("globex", 0)
        info = AgentInfo(
            instance="i",
            name="m",
            host="h",
            pid=1,
            version="1",
            targets=(TargetSlots(target="emulator", slots=2),),
            slots=2,
            since=NOW,
        )
        await agent_registry.announce(connection, info)
        for params in ({}, {"agents": "true"}, {"suite_id": "ci"}, {"job_id": foreign["job_id"]}):
            async with changes(api, bound, after=0, **params) as said:
                assert await anext(said) == -1, params
                await submit("globex", len(params) + 1)
                await agent_registry.announce(
                    connection,
                    replace(info, running=(foreign["job_id"],), warm=("globex/1/emulator",)),
                )
                assert await anext(said) == -1, params
                await agent_registry.announce(connection, info)
        async with changes(api, bound, after=0) as said:
            own = await submit("acme", 0)
            told = await anext(said)
            while told < own["seq"]:  # silences, and where the log was when the own one was found
                told = await anext(said)
            assert told == own["seq"]


async def test_it_ends_with_its_token(settings: Settings, run_api: RunApi, tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    make_token(file, Scope.OPERATE)
    token = make_token(file)
    async with (
        run_api(replace(settings, api=replace(settings.api, tokens_file=str(file)))) as api,
        changes(api, bearing(token)) as said,
    ):
        assert await anext(said) == -1
        token_file.change(
            file, lambda before: tokens.revoked(before, token.split("_")[1], utc_now())
        )
        async for one in said:
            assert one == -1
