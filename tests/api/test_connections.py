"""Connections that send half a request, or only stay open, keep no other client away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from agents import eventually
from api.test_access import RunApi, bearing, make_token
from qgjet.config.settings import Settings
from qgjet_projections.api import access
from qgjet_projections.serving import connections

HALF = b"GET /livez HTTP/1.1\r\nHost: 127."


@contextlib.asynccontextmanager
async def connected(
    api: httpx.AsyncClient, number: int, sent: bytes = HALF
) -> AsyncIterator[list[asyncio.StreamReader]]:
    """So many connections that have sent `sent`."""
    pairs = [
        await asyncio.open_connection(api.base_url.host, api.base_url.port) for _ in range(number)
    ]
    try:
        for _, writer in pairs:
            writer.write(sent)
        yield [reader for reader, _ in pairs]
    finally:
        for _, writer in pairs:
            writer.transport.abort()


async def _ends(reader: asyncio.StreamReader) -> bytes:
    """What came until the server closed the connection."""
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionError):
            return await reader.read()
    return b""


async def test_half_a_header_is_given_up(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADER_S", 0.3)
    async with connected(api, 3) as readers:
        assert await asyncio.gather(*map(_ends, readers)) == [b""] * 3


async def test_a_header_that_trickles_is_given_up(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADER_S", 0.5)
    reader, writer = await asyncio.open_connection(api.base_url.host, api.base_url.port)
    trickling = asyncio.create_task(_trickle(writer))
    try:
        assert await _ends(reader) == b""
    finally:
        trickling.cancel()
        writer.transport.abort()


async def _trickle(writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET /livez HTTP/1.1\r\n")
    while True:
        writer.write(b"x: y\r\n")
        await asyncio.sleep(0.05)


async def test_half_a_body_is_given_up(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BODY_S", 0.3)
    head = b'POST /submit HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"'
    async with connected(api, 1, head) as (reader,):
        assert b"HTTP/1.1 2" not in await _ends(reader)


async def test_streams_and_connections_in_use_outlive_the_deadlines(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, submit: Any
) -> None:
    monkeypatch.setattr(connections, "HEADER_S", 0.3)
    monkeypatch.setattr(connections, "BODY_S", 0.3)
    async with api.stream("GET", "/events") as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == "retry: 1000"
        async with connected(api, 1) as (late,):
            await _ends(late)
        job = await submit()
        async for line in lines:
            if job["job_id"] in line:
                break


async def test_streams_are_counted_for_each_token(
    settings: Settings, run_api: RunApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "MAX_STREAMS", 4)
    file = tmp_path / "tokens.json"
    one, other = make_token(file), make_token(file)
    async with (
        run_api(replace(settings, api=replace(settings.api, tokens_file=str(file)))) as api,
        contextlib.AsyncExitStack() as open_streams,
    ):
        for path in ("/events", "/events?after=0", "/ui/live", "/ui/live?agents=true"):
            answer = await open_streams.enter_async_context(
                api.stream("GET", path, headers=bearing(one))
            )
            assert answer.status_code == 200
        for path in ("/events", "/ui/live"):
            refused = await api.get(path, headers={**bearing(one), "Accept": "text/event-stream"})
            assert refused.status_code == 429
            assert "retry-after" in refused.headers
            assert "has 4 streams open" in refused.text
        assert (await api.get("/jobs", headers=bearing(one))).status_code == 200
        async with api.stream("GET", "/events", headers=bearing(other)) as answer:
            assert answer.status_code == 200
        await open_streams.aclose()

        async def is_open_again() -> bool:
            async with api.stream("GET", "/events", headers=bearing(one)) as answer:
                return answer.status_code == 200

        for _ in range(6):  # none of them stays counted
            await eventually(is_open_again)


async def test_without_tokens_streams_are_counted_for_each_address(
    settings: Settings, run_api: RunApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "MAX_STREAMS", 1)
    async with run_api(settings) as api, api.stream("GET", "/events") as first:
        assert first.status_code == 200
        refused = await api.get("/events")
        assert (
            refused.status_code,
            "address 127.0.0.1 has 1 streams open" in refused.json()["detail"],
        ) == (429, True)


async def test_idle_connections_make_room_and_busy_ones_do_not(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "max_connections", lambda: 20)
    async with connected(api, 40) as readers:
        async with httpx.AsyncClient(base_url=api.base_url) as other:
            assert (await other.get("/livez")).status_code == 200
        assert await asyncio.gather(*map(_ends, readers[:30])) == [b""] * 30
    async with connected(api, 10, b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n") as streams:
        for reader in streams:
            assert b" 200 " in await reader.readline()
        async with httpx.AsyncClient(base_url=api.base_url) as other:
            refused = await other.get("/livez")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert refused.json()["title"] == "Too many connections"
