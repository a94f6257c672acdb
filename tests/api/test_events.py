"""Server-sent events: nothing twice, nothing missing, whatever breaks."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest

from factories import spec
from patience import patience
from qgjet.config.settings import Settings
from qgjet.domain.events import Verdict
from qgjet.jetstream.server import NatsServer
from qgjet.store.event_log import EventLog
from qgjet_projections.api.routes import events as sse

Json = dict[str, Any]
Submit = Callable[..., Awaitable[Json]]


@contextlib.asynccontextmanager
async def stream(
    api: httpx.AsyncClient,
    path: str = "/events",
    headers: dict[str, str] | None = None,
    **params: Any,
) -> AsyncIterator[AsyncIterator[Json]]:
    """Events as {id, event, data}; {comment} for comments."""
    async with (
        asyncio.timeout(patience(20)),
        api.stream(
            "GET", path, params=params, headers={"Accept": "text/event-stream", **(headers or {})}
        ) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")

        async def parsed() -> AsyncIterator[Json]:
            fields: Json = {}
            async for line in answer.aiter_lines():
                if line.startswith(":"):
                    yield {"comment": line[1:].strip()}
                elif line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif "id" in fields:
                    yield {
                        "id": int(fields["id"]),
                        "event": fields["event"],
                        "data": json.loads(fields["data"]),
                    }
                    fields = {}
                else:
                    fields = {}

        yield parsed()


async def take(events: AsyncIterator[Json], number: int) -> list[Json]:
    return [await anext(events) for _ in range(number)]


async def test_an_event_has_its_sequence_its_type_and_itself(
    api: httpx.AsyncClient, submit: Submit, agent: Any
) -> None:
    answer = await submit()
    async with stream(api, after=0) as events:
        first = await anext(events)
        assert (first["id"], first["event"], first["data"]["job_id"]) == (
            1,
            "submitted",
            answer["job_id"],
        )
        assert first["data"]["spec"]["test"] == "tests/onboarding.spec.js"
        await agent.run(Verdict.PASSED)
        assert [(one["id"], one["event"]) for one in await take(events, 2)] == [
            (2, "started"),
            (3, "finished"),
        ]


async def test_without_a_position_it_begins_now(api: httpx.AsyncClient, submit: Submit) -> None:
    await submit()
    async with stream(api) as events:
        await submit(test_path="b.js")
        assert (await anext(events))["id"] == 2


async def test_it_resumes_exactly_where_it_broke_off(api: httpx.AsyncClient, log: EventLog) -> None:
    total = 1_000
    writing = asyncio.create_task(
        log.submit_many([spec(test=f"{n}.js") for n in range(total)], window=16)
    )
    seen: list[int] = []
    while len(seen) < total:
        headers = {"Last-Event-ID": str(seen[-1])} if seen else {}
        async with stream(api, headers=headers, after=0) as events:
            seen += [one["id"] for one in await take(events, min(170, total - len(seen)))]
    await writing
    assert seen == list(range(1, total + 1))


async def test_filters_choose_by_org_job_and_suite(api: httpx.AsyncClient, submit: Submit) -> None:
    await submit()
    other = await submit(org_id="other")
    await submit(test_path="b.js", suite_id="s")
    await submit(test_path="c.js", org_id="other")
    async with stream(api, after=0, org_id="other") as events:
        assert [one["id"] for one in await take(events, 2)] == [2, 4]
    async with stream(api, after=0, suite_id="s") as events:
        assert (await anext(events))["id"] == 3
    async with stream(api, after=0, job_id=other["job_id"]) as events:
        assert (await anext(events))["id"] == 2


async def test_the_events_of_a_job_come_as_pages_or_as_a_stream(
    api: httpx.AsyncClient, submit: Submit, agent: Any
) -> None:
    job_id = (await submit())["job_id"]
    await submit(test_path="b.js")
    seq = await agent.start()
    path = f"/jobs/{job_id}/events"
    first = (await api.get(path, params={"limit": 1, "min_seq": seq})).json()
    second = (await api.get(path, params={"limit": 5, "after": first["next_after"]})).json()
    assert [
        (one["seq"], one["type"], one["legal"]) for one in first["events"] + second["events"]
    ] == [(1, "submitted", True), (3, "started", True)]
    assert second["next_after"] is None
    assert second["events"][0]["event"]["agent"] == "agent-1"
    async with stream(api, path) as events:
        assert [one["id"] for one in await take(events, 2)] == [1, 3]
        await agent.end(Verdict.PASSED)
        assert (await anext(events))["event"] == "finished"


async def test_a_position_that_is_none_is_refused(api: httpx.AsyncClient) -> None:
    for headers, params in (
        ({"Last-Event-ID": "abc"}, {}),
        ({"Last-Event-ID": "9" * 30}, {}),
        ({}, {"after": -1}),
    ):
        assert (await api.get("/events", headers=headers, params=params)).status_code == 400


async def test_a_quiet_stream_is_kept_alive(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.2)
    async with stream(api) as events:
        assert [one["comment"] for one in await take(events, 2)] == ["still here"] * 2


async def test_it_goes_on_after_the_nats_server_was_killed(
    api: httpx.AsyncClient, submit: Submit, server: NatsServer, eventually: Any
) -> None:
    await submit()
    async with stream(api, after=0) as events:
        assert (await anext(events))["id"] == 1
        server.kill()
        await server.start()

        async def submitted() -> bool:
            body = {"org_id": "o", "app_version_id": "1", "target": "t", "test": "b.js"}
            return (await api.post("/submit", json=body)).status_code in (200, 202)

        await eventually(submitted)
        assert (await anext(events))["id"] == 2


async def test_a_client_that_does_not_read_gets_everything_later(
    api: httpx.AsyncClient, log: EventLog, submit: Submit
) -> None:
    async with stream(api, after=0) as slow:
        accepted = await log.submit_many(
            [spec(test=f"{n}.js", tags={"k": "x" * 3_000}) for n in range(2_000)]
        )
        await api.get("/jobs", params={"min_seq": len(accepted), "limit": 1})
        assert [one["id"] for one in await take(slow, 2_000)] == list(range(1, 2_001))


async def test_open_streams_end_with_the_server(
    settings: Settings,
    run_api: Callable[[Settings], AbstractAsyncContextManager[httpx.AsyncClient]],
) -> None:
    opened = asyncio.Event()

    async def listen(url: httpx.URL) -> list[Json]:
        async with (
            httpx.AsyncClient(base_url=url, timeout=patience(20)) as client,
            stream(client) as events,
        ):
            opened.set()
            return [one async for one in events]

    async with run_api(settings) as api:
        listening = asyncio.create_task(listen(api.base_url))
        await opened.wait()
        before = asyncio.get_running_loop().time()
    assert await listening == []  # it ended as a complete response
    assert asyncio.get_running_loop().time() - before < 3
