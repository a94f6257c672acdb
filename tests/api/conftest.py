"""A real uvicorn on a port of the kernel's choice, over a real nats-server, and a stand-in for the
agents that plays their part on the log.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from patience import patience
from qgjet.config.settings import ApiSettings, Settings
from qgjet.domain.decide import EndAttempt, Release, Start
from qgjet.domain.events import Outcome, Slot, Verdict
from qgjet.jetstream.server import NatsServer
from qgjet.store.event_log import EventLog
from qgjet_projections.serving.server import serve

Json = dict[str, Any]
S0_BODY: Json = {
    "org_id": "qualgent",
    "app_version_id": "xyz123",
    "test_path": "tests/onboarding.spec.js",
    "priority": 3,
    "target": "emulator",
}


@pytest.fixture
def settings(server: NatsServer, tmp_path: Path) -> Settings:
    return Settings(
        nats_url=server.url,
        api=ApiSettings(port=0, database=str(tmp_path / "read.sqlite"), janitor=False),
    )


@contextlib.asynccontextmanager
async def api_of(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(settings, ready=url.set_result))
    try:
        await asyncio.wait({serving, url}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving
        async with httpx.AsyncClient(base_url=await url, timeout=patience(20)) as client:
            yield client
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving


@pytest.fixture
def run_api() -> Callable[[Settings], contextlib.AbstractAsyncContextManager[httpx.AsyncClient]]:
    return api_of


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with api_of(settings) as client:
        yield client


@pytest.fixture
def s0_body() -> Json:
    return dict(S0_BODY)


@pytest.fixture
def submit(api: httpx.AsyncClient) -> Callable[..., Awaitable[Json]]:
    """Submit a variation of S0's job and wait until the API can read it; gives the answer."""

    async def submit(**fields: Any) -> Json:
        answer = await api.post("/submit", json={**S0_BODY, **fields})
        assert answer.status_code in (200, 202), answer.text
        body: Json = answer.json()
        read = await api.get(f"/status/{body['job_id']}", params={"min_seq": body["seq"]})
        assert read.status_code == 200, read.text
        return body

    return submit


class FakeAgent:
    """Appends what an agent would; every step gives the sequence of its event."""

    def __init__(self, log: EventLog) -> None:
        self.log = log

    def slot(self, **fields: str) -> Slot:
        body = {**S0_BODY, **fields}
        return Slot(body["org_id"], body["app_version_id"], body["target"], body["test_path"])

    async def start(self, **fields: str) -> int:
        slot = self.slot(**fields)
        job = await self.log.load(slot)
        assert job is not None
        return (await self.log.execute(slot, Start(job.ticket, "agent-1", device="pixel"), job))[1]

    async def end(
        self,
        verdict: Verdict,
        *,
        retry_in_s: float = 0.0,
        outcome: Json | None = None,
        **fields: str,
    ) -> int:
        slot = self.slot(**fields)
        job = await self.log.load(slot)
        assert job is not None
        came_to = msgspec.convert({"verdict": verdict, **(outcome or {})}, Outcome)
        return (
            await self.log.execute(
                slot, EndAttempt("agent-1", job.attempt, came_to, retry_in_s), job
            )
        )[1]

    async def release(self, **fields: str) -> int:
        slot = self.slot(**fields)
        job = await self.log.load(slot)
        assert job is not None
        return (
            await self.log.execute(
                slot, Release("agent-1", job.ticket, job.attempt, "drained"), job
            )
        )[1]

    async def run(self, verdict: Verdict, **fields: str) -> int:
        await self.start(**fields)
        return await self.end(verdict, **fields)


@pytest.fixture
def agent(log: EventLog) -> FakeAgent:
    return FakeAgent(log)


Eventually = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


@pytest.fixture
def eventually() -> Eventually:
    """Call until the result is true, for at most 10 s."""

    async def eventually(look: Callable[[], Awaitable[Any]]) -> Any:
        async with asyncio.timeout(patience(10)):
            while not (found := await look()):  # noqa: ASYNC110 - what is waited for is in another process
                await asyncio.sleep(0.02)
        return found

    return eventually
