"""Pages with all that they can hold are still small: no more than 150 kB with style and scripts,
before anything is packed.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from random import Random
from typing import Literal

import pytest
import pytest_asyncio

from qgjet.domain.decide import EndAttempt, OnDuplicate, Start
from qgjet.domain.events import JobSpec, Outcome, TestError, TestResult, Try, Verdict
from qgjet.domain.job import state_of
from qgjet.store import agent_registry
from qgjet.store.agent_registry import AgentInfo, TargetSlots
from qgjet.store.suite_log import Submission, submit_suite
from qgjet.support.clock import utc_now
from qgjet_projections.web.pages.suites import ROWS
from web.stack import Stack, stack_in
from web.visits import Visits, column, findings, live

pytestmark = pytest.mark.asyncio(loop_scope="session")
MOST_BYTES = 150_000
JOBS, AGENTS = 1_000, 20
VERDICTS = (
    (Verdict.PASSED,) * 88
    + (Verdict.FAILED,) * 6
    + (Verdict.FLAKY,) * 4
    + (Verdict.INFRA_ERROR,) * 2
)
MESSAGE = (
    "expect(locator).toHaveText('$ 31.80')\n\n"
    + 'Expected: "$ 31.80"\nReceived: "$ 15.90"\n  at cart > shows the total\n' * 12
)
PAGES = (
    "/",
    "/ui/suites",
    "/ui/suites/big-1",
    "/ui/suites/big-1?agent=mac-mini-03",
    "/ui/suites/big-1?cursor=950",
    "/ui/jobs",
    "/ui/jobs?suite_id=big-1&verdict=failed",
    "/ui/tests?order=slowest",
    "/ui/tests/history?test=tests/area0/the-screen-of-the-cart-0000.spec.ts&days=366",
    "/ui/dead",
)


async def run(stack: Stack, suite_id: str, jobs: int, random: Random) -> None:
    """A suite on two targets, over the agents in turn."""
    began = utc_now() - timedelta(hours=1)
    specs = [spec(suite_id, number, began, random) for number in range(jobs)]
    ask = Submission(
        suite_id=suite_id,
        id=str(uuid.UUID(int=random.getrandbits(128))),
        specs=specs,
        modes=[OnDuplicate.ATTACH] * jobs,
        by="api:ci",
        tags={"branch": "main"},
    )
    await submit_suite(stack.log, ask)
    for number, one in enumerate(specs):
        agent, at = (
            f"mac-mini-{number % AGENTS:02d}",
            began + timedelta(seconds=number // AGENTS * 40 + random.random() * 9),
        )
        job = await stack.log.load(one.slot)
        assert job is not None
        stack.clock.at = at
        event, seq = await stack.log.execute(
            one.slot,
            Start(job.ticket, agent, device="Pixel 8, Android 15", warm=number >= AGENTS),
            job,
        )
        stack.clock.at = at + timedelta(seconds=28)
        await stack.log.execute(
            one.slot,
            EndAttempt(agent, 1, outcome(one, random.choice(VERDICTS))),
            state_of(event, seq),
        )
    stack.clock.at = None


def spec(suite_id: str, number: int, at: datetime, random: Random) -> JobSpec:
    return JobSpec(
        job_id=str(uuid.UUID(int=random.getrandbits(128), version=4)),
        org_id="shop",
        app_version_id=f"2.14.0-rc.{suite_id}",
        target=("emulator", "browserstack")[number % 2],
        test=f"tests/area{number // 2 % 20}/the-screen-of-the-cart-{number // 2:04d}.spec.ts",
        max_retries=0,
        infra_retries=0,
        submitted_at=at,
        submitted_by="api:ci",
        suite_ids=(suite_id,),
        tags={"branch": "main"},
    )


def outcome(one: JobSpec, verdict: Verdict) -> Outcome:
    tries = (Try(status="failed", error=TestError(message=MESSAGE, file=one.test, line=27)),)
    tests = tuple(
        TestResult(
            id=str(number),
            title=f"shows the total {number}",
            file=one.test,
            outcome="failed",
            tries=tries,
        )
        for number in range(3)
    )
    bad = verdict is Verdict.FAILED
    return Outcome(
        verdict=verdict,
        reason="tests_failed" if bad else "",
        message=MESSAGE if verdict is Verdict.INFRA_ERROR else "",
        duration_s=28.0,
        tests=tests if bad else (),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def full(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    random = Random(7)
    async with stack_in(tmp_path_factory.mktemp("full"), visibility_timeout_s=600.0) as stack:
        for number in range(60):
            await run(stack, f"small-{number}", 2, random)
        for number in range(2):
            await run(stack, f"big-{number}", JOBS, random)
        for number in range(80):
            await stack.submit(app_version_id=f"3.{number}.0")
        for number in range(AGENTS):
            slots = (TargetSlots(target="emulator", slots=8, running=0),)
            name = f"mac-mini-{number:02d}"
            await agent_registry.announce(
                stack.connection,
                AgentInfo(
                    instance=name,
                    name=name,
                    host=name,
                    pid=1,
                    version="1.0.0",
                    targets=slots,
                    slots=8,
                    since=utc_now(),
                    warm=("shop/2.14.0-rc.1/emulator",),
                ),
            )
        await stack.caught_up()
        yield stack


@pytest.mark.parametrize("path", PAGES)
async def test_a_full_page_is_small(full: Stack, path: str) -> None:
    async with full.client() as client:
        page = (await client.get(path)).raise_for_status()
        parts = {
            url: len((await client.get(url)).raise_for_status().content)
            for url in sorted(set(re.findall(r'(?:src|href)="(/ui/assets/[^"]+)"', page.text)))
        }
    assert len(parts) >= 5
    weight = len(page.content) + sum(parts.values())
    assert page.text.count("<tr") > 20
    assert weight <= MOST_BYTES, f"{len(page.content)} of the page, {parts}"


async def test_a_suite_of_a_thousand_jobs_tells_what_went_wrong_and_who_ran_what(
    full: Stack, visit: Visits
) -> None:
    page = await live(await visit(f"{full.url}/ui/suites/big-1"))
    async with full.client() as client:
        verdicts = (await client.get("/suites/big-1", params={"limit": 1})).json()["verdicts"]
    bad = verdicts["failed"] + verdicts["infra_error"]
    attention = page.locator("section[aria-labelledby=h-bad]")
    shown = await attention.locator("article").count()
    assert f"And {bad - shown} more" in await attention.inner_text()
    assert (await attention.locator("pre").first.inner_text()).startswith("expect(locator)")
    assert "the-screen-of-the-cart" in await attention.locator(".mono").first.inner_text()
    states: list[str] = []
    while True:
        states += await column(page, "State")
        if not await page.get_by_role("link", name="Next page").count():
            break
        await page.get_by_role("link", name="Next page").click()
        await page.wait_for_url(f"**cursor={len(states)}*")
        await live(page)
    assert len(states) == JOBS
    assert states == sorted(states, key=["failed", "infra error", "flaky", "passed"].index)
    lines = "".join(
        [
            await path.get_attribute("d") or ""
            for path in await page.locator("svg.timeline path").all()
        ]
    ).count("h")
    assert lines + await page.locator("svg.timeline rect.bar").count() == JOBS


async def test_an_agent_of_the_timeline_leads_to_what_it_ran_and_when(
    full: Stack, visit: Visits
) -> None:
    page = await live(await visit(f"{full.url}/ui/suites/big-1"))
    agent = page.locator("svg.timeline a", has_text="mac-mini-03")
    await agent.focus()
    await page.keyboard.press("Enter")
    await page.get_by_role("heading", name="What mac-mini-03 ran").wait_for()
    await live(page)
    assert "agent=mac-mini-03" in page.url
    began = [
        await one.get_attribute("datetime") or ""
        for one in await page.locator("td[data-label=Began] time").all()
    ]
    assert began == sorted(began)
    assert len(began) == ROWS
    assert await page.locator("svg.timeline .agent").all_text_contents() == ["mac-mini-03"]
    assert await page.locator("svg.timeline rect.bar").count() == 30
    await page.get_by_role("link", name="The jobs of all agents").click()
    await page.get_by_role("heading", name="All jobs").wait_for()
    await live(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_full_suite_can_be_read_by_everybody(
    full: Stack, visit: Visits, scheme: Literal["light", "dark"]
) -> None:
    page = await live(await visit(f"{full.url}/ui/suites/big-1"))
    await page.emulate_media(color_scheme=scheme)
    assert await findings(page) == []
    await page.set_viewport_size({"width": 375, "height": 812})
    assert (
        await page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        <= 0
    )
