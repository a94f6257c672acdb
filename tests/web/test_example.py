"""The shop's real AppWright tests, run by a real agent process, as somebody sees them in a browser."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from e2e.conftest import SHOP
from patience import patience
from surroundings import is_ours
from web.stack import Stack
from web.visits import Visits, is_marked, live, mark, until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(150)]


async def test_a_build_with_a_bug_is_followed_from_the_first_job_to_its_picture(
    stack: Stack, visit: Visits
) -> None:
    tests = ["tests/cart.spec.ts", "tests/login.spec.ts"]
    jobs = await stack.suite("ci-7", tests, org_id="shop", app_version_id="2.0.0", max_retries=0)
    page = await live(await visit(f"{stack.url}/ui/suites/ci-7"))
    await mark(page)
    environment = {name: value for name, value in os.environ.items() if not is_ours(name)} | {
        "QGJET_NATS_URL": stack.server.url
    }
    command = [str(Path(sys.executable).with_name("qgjet")), "agent", "--target", "emulator"]
    agent = await asyncio.create_subprocess_exec(
        *command, cwd=SHOP, env=environment, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await page.locator("h1 + .badge", has_text="running").wait_for(timeout=patience(60_000))
        await page.locator("h1 + .badge", has_text="failed").wait_for(timeout=patience(90_000))
    finally:
        agent.terminate()
        await agent.wait()
    assert await is_marked(page)
    assert "Total $39.90" in await page.locator("section[aria-labelledby=h-bad]").inner_text()
    assert await page.locator("svg.timeline rect.bar").count() == 2
    await page.get_by_role("link", name="tests/cart.spec.ts").first.click()
    assert jobs[0] in page.url
    await until(page, "document.querySelector('[data-state]').textContent === 'complete'")
    assert "cart.spec.ts" in await page.locator("pre.log").inner_text()
    await page.locator(".media img").last.scroll_into_view_if_needed()
    await until(page, "[...document.querySelectorAll('.media img')].at(-1).naturalWidth > 0")
