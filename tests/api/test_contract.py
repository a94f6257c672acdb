"""The API keeps to its OpenAPI document, with tokens and without. For minutes:
tests/soak/test_contract.py.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from api.contract import Headers, examine
from api.test_access import bearing, make_token
from qgjet.auth.tokens import Scope
from qgjet.config.settings import Settings
from qgjet.domain.events import Verdict

RunApi = Callable[[Settings], AbstractAsyncContextManager[httpx.AsyncClient]]
CASES = 150
JOB = {"org_id": "acme", "app_version_id": "1", "target": "emulator"}


async def some_ids(api: httpx.AsyncClient, agent: Any) -> dict[str, list[str]]:
    """Of jobs that have ended, so that whoever follows their output comes to its end, and of a
    suite.
    """
    suite = (
        await api.post("/suites", json={**JOB, "tests": ["a.js", "b.js"], "suite_id": "ci"})
    ).json()
    left = {
        "artifacts": [{"name": "output.log", "content_type": "text/plain", "size": 1, "sha256": ""}]
    }
    seq = 0
    for test in ("a.js", "b.js"):
        slot = {"org_id": "acme", "app_version_id": "1", "test_path": test}
        await agent.start(**slot)
        seq = await agent.end(Verdict.PASSED, outcome=left, **slot)
    await api.get("/jobs", params={"min_seq": seq})
    return {
        "job_id": [job["job_id"] for job in suite["jobs"]],
        "suite_id": ["ci"],
        "attempt": ["1"],
        "name": ["output.log"],
    }


OTHERS_DRAW = pytest.mark.filterwarnings("ignore:Do not use the .random. module inside strategies")
"""Hypothesis notices that the server, which runs beside it, draws random numbers too."""


@pytest.mark.timeout(120)
@OTHERS_DRAW
@pytest.mark.parametrize("guarded", [False, True])
async def test_answers_are_what_the_document_says(
    settings: Settings, run_api: RunApi, agent: Any, tmp_path: Path, guarded: bool
) -> None:
    settings, callers = those_who_ask(settings, tmp_path / "tokens.json", guarded)
    seen = await examined(settings, run_api, agent, callers, CASES)
    statuses = {status for _, status in seen}
    assert seen.total() >= CASES
    assert {200, 400, 404} <= statuses
    assert ({401, 403} <= statuses) == guarded


def those_who_ask(settings: Settings, file: Path, guarded: bool) -> tuple[Settings, list[Headers]]:
    """An operator first; then somebody who may only read, somebody of another org, and nobody."""
    settings = replace(settings, api=replace(settings.api, tokens_file=str(file), rate_limit=0))
    if not guarded:
        return settings, [{}]
    tokens = [
        make_token(file, Scope.OPERATE),
        make_token(file, Scope.READ, orgs=("acme",)),
        make_token(file, Scope.SUBMIT, orgs=("globex",)),
    ]
    return settings, [*map(bearing, tokens), bearing("nobody")]


async def examined(
    settings: Settings, run_api: RunApi, agent: Any, callers: Sequence[Headers], cases: int
) -> Counter[tuple[str, int]]:
    async with run_api(settings) as api:
        api.headers.update(callers[0])
        ids = await some_ids(api, agent)
        return await asyncio.to_thread(
            examine, str(api.base_url).rstrip("/"), ids=ids, callers=callers, cases=cases
        )
