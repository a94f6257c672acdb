"""A filter is an address: what a form asks for is in it, the list is what it says, and the pages of
a list are all of it.
"""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.async_api import Page

from web.scene import TESTS, Scene
from web.visits import Visits, column

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def ask(page: Page, **fields: str) -> dict[str, list[str]]:
    """Fill in the form and send it; gives what the address says then."""
    for name, value in fields.items():
        field = page.locator(f"form.filters [name={name}]")
        if await field.evaluate("field => field.tagName") == "SELECT":
            await field.select_option(value)
        else:
            await field.fill(value)
    await page.locator("form.filters button").click()
    await page.wait_for_url("**?**")
    return parse_qs(urlsplit(page.url).query)


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without"])
async def test_jobs_are_filtered_by_what_they_are(
    scene: Scene, visit: Visits, scripts: bool
) -> None:
    page = await visit(f"{scene.stack.url}/ui/jobs", scripts=scripts)
    for name, value, label in (
        ("org_id", "shop", "Org"),
        ("app_version_id", "2.14.10", "Version"),
        ("target", "device", "Target"),
        ("test", "tests/cart.spec.ts", "Test"),
        ("status", "running", "State"),
        ("verdict", "flaky", "State"),
    ):
        await page.goto(f"{scene.stack.url}/ui/jobs")
        assert await ask(page, **{name: value}) == {name: [value]}
        assert set(await column(page, label)) == {value}
        assert await page.locator(f"form.filters [name={name}]").input_value() == value


async def test_jobs_are_filtered_by_where_they_belong(scene: Scene, visit: Visits) -> None:
    page = await visit(f"{scene.stack.url}/ui/jobs")
    for name, value, jobs in (
        ("suite_id", "main-3130", 20),
        ("tag", "branch:cart-total", 20),
        ("org_id", "nobody", 0),
        ("test", "cart", 0),
    ):
        assert await ask(page, **{name: value}) == {name: [value]}
        assert len(await column(page, "Test")) == jobs
        assert await page.get_by_text("No job fits.").count() == (not jobs)
        await page.get_by_role("link", name="ll jobs").first.click()
        assert urlsplit(page.url).query == ""


async def test_filters_go_together(scene: Scene, visit: Visits) -> None:
    page = await visit(f"{scene.stack.url}/ui/jobs")
    await ask(page, suite_id="main-3130", target="device", verdict="failed")
    assert await column(page, "Test") == ["tests/cart.spec.ts"]


async def test_the_pages_of_a_list_are_all_of_it(scene: Scene, visit: Visits) -> None:
    page = await visit(f"{scene.stack.url}/ui/jobs?org_id=shop")
    seen: list[str] = []
    while True:
        seen += await page.locator("main td[data-label=Test] a").evaluate_all(
            "links => links.map(link => link.href)"
        )
        following = page.get_by_role("link", name="Next page")
        if not await following.count():
            break
        await following.click()
        await page.wait_for_load_state()
        assert "org_id=shop" in page.url
    assert len(seen) == len(set(seen)) == len(scene.jobs)
    await page.get_by_role("link", name="First page").click()
    assert "cursor" not in page.url
    assert (
        await page.locator("main td[data-label=Test] a").first.evaluate("link => link.href")
        == seen[0]
    )


async def test_a_bad_value_in_an_address_is_told(scene: Scene, visit: Visits) -> None:
    visit.expected = ["400 GET"]
    page = await visit(f"{scene.stack.url}/ui/jobs?cursor=nonsense")
    assert "cursor" in (await page.locator("main").inner_text()).lower()


async def test_dead_letters_are_filtered(scene: Scene, visit: Visits) -> None:
    page = await visit(f"{scene.stack.url}/ui/dead")
    for name, value, letters in (
        ("target", "device", 1),
        ("target", "emulator", 0),
        ("reason", "device_lost", 1),
        ("verdict", "config_error", 0),
        ("org_id", "shop", 1),
        ("settled", "true", 0),
    ):
        await page.goto(f"{scene.stack.url}/ui/dead")
        assert await ask(page, **{name: value}) == {name: [value]}
        assert len(await column(page, "Test")) == letters


async def test_tests_are_ordered_and_filtered(scene: Scene, visit: Visits) -> None:
    page = await visit(f"{scene.stack.url}/ui/tests")
    assert (await column(page, "Test"))[0] == "tests/cart.spec.ts"
    found = await ask(page, order="flakiest", days="7", target="emulator")
    assert found == {"order": ["flakiest"], "days": ["7"], "target": ["emulator"]}
    assert (await column(page, "Test"))[0] == "tests/search.spec.ts"
    assert set(await column(page, "Target")) == {"emulator"}
    await ask(page, order="name")
    assert await column(page, "Test") == sorted(TESTS)
    await page.get_by_role("link", name="tests/cart.spec.ts").click()
    assert await page.locator("h1").inner_text() == "tests/cart.spec.ts"
    assert await page.locator("svg.chart").count() >= 2


async def test_suites_are_filtered_by_org(scene: Scene, visit: Visits) -> None:
    page = await visit(f"{scene.stack.url}/ui/suites")
    assert len(await column(page, "Suite")) == len(scene.suites)
    assert await ask(page, org_id="nobody") == {"org_id": ["nobody"]}
    assert await column(page, "Suite") == []


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "/ui/jobs?status=waiting",
            "status: waiting is not one of queued, running, done, failed, cancelled",
        ),
        ("/ui/jobs?verdict=red", "verdict: red is not one of passed,"),
        ("/ui/jobs?tag=main", "tag: must be key:value"),
        ("/ui/dead?verdict=red", "verdict: red is not one of"),
        ("/ui/tests?order=best", "order: best is not one of"),
        ("/ui/tests?days=9999", "days: must be a number from 1 to 366"),
        ("/ui/tests/history?test=tests%2Fcart.spec.ts&days=week", "days: must be a number"),
    ],
)
async def test_a_filter_that_is_not_understood_is_refused_and_not_left_out(
    scene: Scene, visit: Visits, path: str, words: str
) -> None:
    visit.expected = ["answer: 400 GET"]
    page = await visit(scene.stack.url + path)
    text = await page.locator("main").inner_text()
    assert words in text
    assert "Go back and correct it" in text


async def test_the_way_back_leads_to_a_form_that_says_what_is_listed(
    scene: Scene, visit: Visits
) -> None:
    page = await visit(f"{scene.stack.url}/ui/jobs")
    await ask(page, target="device", status="queued")
    assert set(await column(page, "Target")) == {"device"}
    await page.go_back()
    assert urlsplit(page.url).query == ""
    assert len(set(await column(page, "Target"))) > 1
    assert [
        await page.locator(f"form.filters [name={name}]").input_value()
        for name in ("target", "status")
    ] == ["", ""]
    await page.go_forward()
    assert set(await column(page, "Target")) == {"device"}
    assert await page.locator("form.filters [name=target]").input_value() == "device"


async def test_dead_letters_are_filtered_by_test_and_version_too(
    scene: Scene, visit: Visits
) -> None:
    page = await visit(f"{scene.stack.url}/ui/dead?test=tests%2Fprofile.spec.ts")
    (version,) = await column(page, "Version")
    assert await ask(page, app_version_id=version) == {
        "test": ["tests/profile.spec.ts"],
        "app_version_id": [version],
    }, "the form holds what the address said"
    assert await column(page, "Test") == ["tests/profile.spec.ts"]
    assert await ask(page, app_version_id="0.0.0") == {
        "test": ["tests/profile.spec.ts"],
        "app_version_id": ["0.0.0"],
    }
    await page.get_by_role("link", name="All dead letters").click()
    assert urlsplit(page.url).query == ""


async def test_an_attempt_that_there_was_not_is_said_to_be_none(
    scene: Scene, visit: Visits
) -> None:
    visit.expected = ["answer: 400 GET"]
    page = await visit(
        f"{scene.stack.url}/ui/jobs/{scene.jobs['main-3130/emulator/tests/cart.spec.ts']}?attempt=3"
    )
    assert "attempt: it has had 2 so far" in await page.locator("main").inner_text()
