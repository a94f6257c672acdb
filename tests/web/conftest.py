"""One Chromium for all tests of a worker, one day of data to look at, and an empty stack for
whoever changes something.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from qgjet.errors import NatsUnavailable
from qgjet.support.clock import utc_now
from web.scene import Scene, play
from web.stack import Stack, chromium, stack_in
from web.visits import Visits

in_session = pytest_asyncio.fixture(scope="session", loop_scope="session")
in_test = pytest_asyncio.fixture(loop_scope="session")


@in_session
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


@in_session
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """To be looked at only."""
    async with stack_in(tmp_path_factory.mktemp("scene"), visibility_timeout_s=600.0) as stack:
        scene = await play(stack, utc_now(), first=6)
        await stack.caught_up()
        keeping = asyncio.create_task(scene.keep_agents())
        yield scene
        keeping.cancel()
        with contextlib.suppress(
            asyncio.CancelledError, NatsUnavailable
        ):  # this loop stands still while other tests run, and the server may hang up
            await keeping


@in_test
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """Empty."""
    async with stack_in(tmp_path, visibility_timeout_s=1.5) as stack:
        yield stack


@in_test
async def visit(browser: Browser) -> AsyncIterator[Visits]:
    visits = Visits(browser)
    yield visits
    await visits.close()
    assert visits.unexpected() == []
