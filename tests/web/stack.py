"""NATS, the API with its janitor, and browsers: what the tests of the dashboard and its screenshots
stand on.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
from msgspec.structs import replace
from playwright.async_api import Browser, async_playwright

from agents import eventually
from patience import patience
from qgjet.auth import token_file, tokens
from qgjet.config.settings import ApiSettings, QueueSettings, Settings
from qgjet.domain.subjects import STREAM
from qgjet.jetstream.connection import Connection, connect
from qgjet.jetstream.server import NatsServer, nats_server
from qgjet.store import streams
from qgjet.store.event_log import EventLog
from qgjet.support.clock import utc_now
from qgjet_projections.serving.server import serve

CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    "chromium",
)
ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--disable-dev-shm-usage"]


class SetClock:
    """Says what it was told to, or the time."""

    def __init__(self) -> None:
        self.at: datetime | None = None

    def __call__(self) -> datetime:
        return self.at or utc_now()


@dataclass
class Stack:
    """A server with everything; `log` may write into the past."""

    server: NatsServer
    connection: Connection
    directory: Path
    settings: Settings
    url: str = ""
    clock: SetClock = field(default_factory=SetClock)
    _serving: asyncio.Task[None] | None = None

    @property
    def log(self) -> EventLog:
        return EventLog(self.connection, self.clock)

    async def start(self) -> None:
        """A second start is at the same address."""
        url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._serving = asyncio.create_task(serve(self.settings, ready=url.set_result))
        await asyncio.wait({self._serving, url}, return_when=asyncio.FIRST_COMPLETED)
        if self._serving.done():
            await self._serving
        self.url = await url
        port = int(self.url.rpartition(":")[2])
        self.settings = replace(self.settings, api=replace(self.settings.api, port=port))

    async def stop(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._serving
            self._serving = None

    # -- what clients do ---------------------------------------------------------------------------------------------

    def client(self, token: str = "") -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.url,
            timeout=patience(20),
            headers={"Authorization": f"Bearer {token}"} if token else {},
        )

    async def submit(
        self, test: str = "tests/login.spec.ts", *, token: str = "", **fields: Any
    ) -> str:
        """Id of a job that the API can show."""
        body = {
            "org_id": "acme",
            "app_version_id": "1.0.0",
            "target": "emulator",
            "test_path": test,
            **fields,
        }
        async with self.client(token) as client:
            answer = await client.post("/submit", json=body)
            assert answer.status_code in (200, 202), answer.text
            await client.get(
                f"/status/{answer.json()['job_id']}", params={"min_seq": answer.json()["seq"]}
            )
            return str(answer.json()["job_id"])

    async def suite(
        self, suite_id: str, tests: Sequence[str], *, token: str = "", **fields: Any
    ) -> list[str]:
        """Ids of its jobs."""
        body = {
            "org_id": "acme",
            "app_version_id": "1.0.0",
            "targets": ["emulator"],
            "tests": list(tests),
            **fields,
        }
        async with self.client(token) as client:
            answer = await client.post("/suites", json={"suite_id": suite_id, **body})
            assert answer.status_code in (200, 202), answer.text
        await self.caught_up(token=token)
        return [job["job_id"] for job in answer.json()["jobs"]]

    async def caught_up(self, *, token: str = "") -> None:
        """The API shows all that is in the log."""
        last = (await self.log.state()).last_seq
        async with self.client(token) as client:
            await client.get("/jobs", params={"min_seq": last, "limit": 1})

    async def events(self, job_id: str = "") -> list[dict[str, Any]]:
        """What the log says: all of it, or of one job."""
        found = [msgspec.json.decode(data) async for data in self._messages()]
        return [event for event in found if not job_id or event.get("job_id") == job_id]

    async def _messages(self) -> AsyncIterator[bytes]:
        for seq in range(1, (await self.log.state()).last_seq + 1):
            answer = await self.connection.api(f"STREAM.MSG.GET.{STREAM}", {"seq": seq})
            yield base64.b64decode(answer["message"]["data"])

    async def ended(self, *job_ids: str) -> None:
        async def ask() -> bool:
            async with self.client() as client:
                return all(
                    [
                        (await client.get(f"/jobs/{one}")).json()["status"]
                        not in ("queued", "running")
                        for one in job_ids
                    ]
                )

        await eventually(ask, within_s=20)

    # -- tokens ------------------------------------------------------------------------------------------------------

    def token(self, name: str, scope: str, *orgs: str) -> str:
        """A new token; from the first one on the API asks for one."""
        text, token = tokens.mint(
            token_id=secrets.token_bytes(tokens.ID_BYTES),
            secret=secrets.token_urlsafe(tokens.SECRET_BYTES),
            name=name,
            scopes=[tokens.Scope(scope)],
            orgs=orgs or (tokens.EVERY_ORG,),
            now=utc_now(),
        )
        token_file.change(self._tokens, lambda known: {**known, token.id: token})
        return text

    def revoke(self, text: str) -> None:
        token_file.change(
            self._tokens,
            lambda known: {
                name: token for name, token in known.items() if name != text.split("_")[1]
            },
        )

    @property
    def _tokens(self) -> Path:
        return Path(self.settings.api.tokens_file)


@contextlib.asynccontextmanager
async def stack_in(
    directory: Path, *, visibility_timeout_s: float = 30.0, **api: Any
) -> AsyncIterator[Stack]:
    own = {
        "port": 0,
        "database": str(directory / "read.sqlite"),
        "tokens_file": str(directory / "tokens.json"),
        **api,
    }
    async with (
        nats_server(directory / "nats") as server,
        connect(server.url, name="test") as connection,
    ):
        await streams.ensure(connection)
        settings = Settings(
            nats_url=server.url,
            api=ApiSettings(**own),
            queue=QueueSettings(visibility_timeout_s=visibility_timeout_s),
        )
        stack = Stack(server, connection, directory, settings)
        await stack.start()
        try:
            yield stack
        finally:
            await stack.stop()


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()
