"""Every page with a day's data: it renders, anybody can read it, it is small, and it complains
about nothing.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from itertools import product
from typing import Literal

import pytest
from playwright.async_api import Page, Response

from web.scene import Scene
from web.visits import ACTIVE, Visits, column, findings, live, until

pytestmark = pytest.mark.asyncio(loop_scope="session")
MOST_BYTES = 150_000
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
PAGES = (
    "overview",
    "suites",
    "suite",
    "running suite",
    "jobs",
    "job",
    "running job",
    "tests",
    "test",
    "dead",
    "login",
    "missing",
)


def path_of(scene: Scene, name: str) -> str:
    jobs = scene.jobs
    return {
        "overview": "/",
        "suites": "/ui/suites",
        "suite": "/ui/suites/main-3130?org_id=shop",
        "running suite": "/ui/suites/main-3132",
        "jobs": "/ui/jobs",
        "job": f"/ui/jobs/{jobs['main-3130/emulator/tests/cart.spec.ts']}",
        "running job": f"/ui/jobs/{scene.running['mac-mini-1'][0]}",
        "tests": "/ui/tests",
        "test": "/ui/tests/history?test=tests%2Fcart.spec.ts",
        "dead": "/ui/dead",
        "login": "/ui/login",
        "missing": "/ui/jobs/nobody",
    }[name]


@pytest.mark.parametrize("name", PAGES)
async def test_a_page_is_small_and_still_and_readable_for_everybody(
    scene: Scene, visit: Visits, name: str
) -> None:
    visit.expected = ["404 GET"] if name == "missing" else []
    page = await (await visit.context()).new_page()
    answers: list[Response] = []
    page.on("response", lambda answer: answers.append(answer))
    moves = name not in ("login", "missing")
    await page.goto(scene.stack.url + path_of(scene, name))
    await page.wait_for_selector(ACTIVE if moves else "h1")
    weights = {
        answer.url: len(await answer.body())
        for answer in answers
        if answer.request.resource_type in ("document", "script", "stylesheet", "other")
    }
    assert 0 < sum(weights.values()) <= MOST_BYTES, weights
    if (
        await page.evaluate("window.shifted") >= 0.01
    ):  # a busy machine may paint half of a page: what a page does by itself it does each time
        await page.reload()
        await page.wait_for_selector(ACTIVE if moves else "h1")
    assert await page.evaluate("window.shifted") < 0.01, await page.evaluate("window.shifters")
    assert await page.locator("h1").count() == 1
    assert await page.title() != " · qgjet"
    await page.evaluate("document.querySelector('details.ask')?.setAttribute('open', '')")
    for width, scheme in product((1440, 375), SCHEMES):
        await page.emulate_media(color_scheme=scheme)
        await page.set_viewport_size({"width": width, "height": 812})
        assert (
            await page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            <= 0
        ), (width, scheme)
        assert await findings(page) == [], (width, scheme)


async def test_pages_work_without_scripts(scene: Scene, visit: Visits) -> None:
    visit.expected = ["404 GET"]
    page = await visit(scene.stack.url, scripts=False)
    for name in PAGES:
        await page.goto(scene.stack.url + path_of(scene, name))
        assert await page.locator("h1").is_visible()
        if name in ("overview", "jobs", "running suite", "suites", "dead", "tests"):
            assert await page.locator("main tbody tr").count() > 0
    await page.goto(scene.stack.url)
    await page.get_by_role("link", name="main-3130").click()
    await page.get_by_role("link", name="tests/cart.spec.ts").first.click()
    await page.get_by_role("link", name="Plain text").click()
    assert "Running 3 tests" in await page.locator("body").inner_text()


async def test_the_overview_tells_what_runs_what_waits_and_why(scene: Scene, visit: Visits) -> None:
    page = await live(await visit(scene.stack.url))
    figures = dict(
        zip(
            await page.locator(".figures dt").all_inner_texts(),
            await page.locator(".figures dd").all_inner_texts(),
            strict=True,
        )
    )
    running = sum(map(len, scene.running.values()))
    assert figures["Running"] == str(running)
    assert figures["Dead letters"] == "1"
    assert await page.locator(
        "section[aria-labelledby=h-targets] td[data-label=Target]"
    ).all_inner_texts() == ["browserstack", "device", "emulator"]
    assert (await column(page, "Waits for"))[0] == "paused"
    assert await page.get_by_text("Target browserstack is paused").is_visible()
    assert [text.splitlines()[0] for text in await column(page, "Agent")] == [
        "mac-mini-1",
        "mac-mini-2",
    ]
    assert f"{len(scene.running['mac-mini-1'])} of 3" in (await column(page, "Slots"))[0]
    assert await page.locator("svg.chart rect").count() > 10


async def test_the_overview_tells_how_it_went_on_each_target_for_each_org(
    scene: Scene, visit: Visits
) -> None:
    page = await visit(scene.stack.url)
    rows = page.locator("section[aria-labelledby=h-places] tbody tr")
    shown = {
        (
            await row.locator("td").nth(0).inner_text(),
            await row.locator("td").nth(1).inner_text(),
        ): row
        for row in await rows.all()
    }
    answer = (await (await page.request.get(f"{scene.stack.url}/stats/hours")).json())["hours"]
    ended = [int(await row.locator("td").nth(2).inner_text()) for row in shown.values()]
    assert sum(ended) == sum(sum(one["verdicts"].values()) for one in answer) > 0
    assert all([await row.locator("svg rect").count() > 0 for row in shown.values()])


async def test_a_test_tells_how_it_went_for_each_version(scene: Scene, visit: Visits) -> None:
    page = await visit(scene.stack.url + "/ui/tests")
    await page.locator("section tbody td[data-label=Test] a").first.click()
    rows = page.locator("section[aria-labelledby=h-versions] tbody tr")
    await rows.first.wait_for()
    versions = {await row.locator("td").first.inner_text() for row in await rows.all()}
    assert versions == {
        await cell.inner_text()
        for cell in await page.locator(
            "section[aria-labelledby=h-runs] td[data-label=Version]"
        ).all()
    }
    await rows.first.locator("a").click()
    assert "app_version_id=" in page.url


async def test_a_suite_tells_failures_first_then_who_ran_what_and_what_is_new(
    scene: Scene, visit: Visits
) -> None:
    page = await visit(f"{scene.stack.url}/ui/suites/main-3130")
    attention = page.locator("section[aria-labelledby=h-bad]")
    assert await attention.locator("article").count() == 2
    assert "tests/cart.spec.ts:27" in await attention.inner_text()
    assert 'Expected: "$ 31.80"' in await attention.inner_text()
    flaky = await page.locator("section[aria-labelledby=h-flaky] li").all_inner_texts()
    assert [text.splitlines()[-1] for text in flaky if "2 attempts" in text] == [
        "refuses a wrong password: expected the screen to be shown"
    ]
    assert await page.locator("svg.timeline rect.bar").count() == 23
    assert await page.locator("section[aria-labelledby=h-before] li").count() == 3
    assert re.search(
        r"Installs avoided\s+\d+ of 23 attempts", await page.locator("dl.facts").inner_text()
    )
    states = await column(page, "State")
    assert states[:3] == ["failed", "failed", "flaky"]
    assert set(states[3:]) == {"passed"}


async def test_a_job_tells_its_story_and_shows_what_it_left(scene: Scene, visit: Visits) -> None:
    page = await visit(scene.stack.url + path_of(scene, "job"))
    assert [one.split()[0] for one in await page.locator("ol.story strong").all_inner_texts()] == [
        "submitted",
        "started",
        "attempt",
        "started",
        "finished",
    ]
    assert await page.locator("article.attempt").count() == 2
    picture = page.locator(".media img").first
    await picture.scroll_into_view_if_needed()
    await until(page, "document.querySelector('.media img').naturalWidth > 0")
    assert await picture.get_attribute("alt") == "test-results/test-failed-1.png"
    async with page.expect_download() as download:
        await page.get_by_role("link", name="output.log").first.click()
    assert b"Running 3 tests" in (await (await download.value).path()).read_bytes()


async def test_the_log_of_an_attempt_is_whole_and_can_be_searched(
    scene: Scene, visit: Visits
) -> None:
    page = await visit(scene.stack.url + path_of(scene, "job"))
    await until(page, "document.querySelector('[data-state]').textContent === 'complete'")
    whole = await page.locator("pre.log").inner_text()
    assert "Running 3 tests" in whole
    await page.get_by_label("Search").fill("SHOWS THE")
    assert (
        (await page.locator("pre.log").inner_text())
        .strip()
        .endswith("shows the total (" + whole.rpartition("shows the total (")[2].split("\n")[0])
    )
    assert await page.locator("pre.log mark").all_inner_texts() == ["shows the"]
    await page.get_by_label("Search").fill("")
    assert await page.locator("pre.log").inner_text() == whole


async def test_times_are_those_of_the_reader_with_the_exact_one_beside(
    scene: Scene, visit: Visits
) -> None:
    page: Page = await visit(scene.stack.url + path_of(scene, "job"))
    shown = page.locator("dl.facts time").first
    at = datetime.fromisoformat(await shown.get_attribute("datetime") or "")
    there = datetime.fromisoformat(f"{await shown.inner_text()}+05:30")
    assert abs((there - at).total_seconds()) < 1
    for name in ("job", "overview", "suites", "jobs"):
        await page.goto(scene.stack.url + path_of(scene, name))
        hovers = await page.evaluate(
            "[...document.querySelectorAll('time')].map(time => [time.dateTime, time.title])"
        )
        assert hovers
        for exact, hover in hovers:
            there = datetime.fromisoformat(exact).astimezone(timezone(timedelta(hours=5.5)))
            assert re.fullmatch(
                rf"{there:%F %T} \(Asia/(Kolkata|Calcutta)\), {re.escape(exact)}", hover
            ), name
    plain = await visit(scene.stack.url + path_of(scene, "job"), scripts=False)
    assert (await plain.locator("dl.facts time").first.inner_text()).endswith(" UTC")


async def test_a_drawing_has_the_readers_time_too(scene: Scene, visit: Visits) -> None:
    page = await visit(f"{scene.stack.url}/ui/suites/main-3130")
    tick = page.locator("svg.timeline text[data-at]")
    at = datetime.fromisoformat(await tick.get_attribute("data-at") or "")
    shown = await page.evaluate(
        "at => { const d = new Date(at); return [d.getHours(), d.getMinutes(), d.getSeconds()].map(n => String(n).padStart(2, '0')).join(':') }",
        at.isoformat(),
    )
    assert await tick.text_content() == shown
    assert shown != at.strftime("%H:%M:%S")


@pytest.mark.parametrize("path", ["/ui", "/ui/"])
async def test_what_is_left_of_an_address_is_the_overview(
    scene: Scene, visit: Visits, path: str
) -> None:
    page = await visit(scene.stack.url + path)
    assert await page.locator("h1").inner_text() == "Overview"


async def test_a_job_takes_little_of_a_phone(scene: Scene, visit: Visits) -> None:
    page = await visit(f"{scene.stack.url}/ui/jobs", width=375)
    heights = await page.evaluate(
        "[...document.querySelectorAll('main tbody tr')].map(row => row.offsetHeight)"
    )
    assert max(heights) < 190, heights
