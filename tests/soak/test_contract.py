"""tests/api/test_contract.py with thousands of cases."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx
import pytest

from api.conftest import FakeAgent, api_of
from api.test_contract import OTHERS_DRAW, examined, those_who_ask
from qgjet.config.settings import ApiSettings, Settings
from qgjet.jetstream.server import NatsServer
from qgjet.store.event_log import EventLog

RunApi = Callable[[Settings], AbstractAsyncContextManager[httpx.AsyncClient]]
CASES = 2_000


@OTHERS_DRAW
@pytest.mark.parametrize("guarded", [False, True])
async def test_answers_are_what_the_document_says(
    server: NatsServer, log: EventLog, tmp_path: Path, guarded: bool
) -> None:
    base = Settings(
        nats_url=server.url,
        api=ApiSettings(port=0, database=str(tmp_path / "read.sqlite"), janitor=False),
    )
    settings, callers = those_who_ask(base, tmp_path / "tokens.json", guarded)
    seen = await examined(settings, api_of, FakeAgent(log), callers, CASES)
    print(
        *(f"{count:5} {status} {route}" for (route, status), count in sorted(seen.items())),
        sep="\n",
    )
    assert seen.total() >= CASES
    assert {("GET /jobs/{job_id}", 200), ("GET /events", 200)} <= seen.keys()
    assert (
        {("POST /submit", 202), ("POST /submit", 200)} & seen.keys()
    )  # a new job, or one that waits already: what is drawn is often the simplest twice
