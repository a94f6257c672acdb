"""With tokens: who comes in, what they see, what they may do, and when that ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page

from patience import patience
from web.stack import Stack, stack_in
from web.visits import Visits, act, column, is_marked, live, mark, said, sign_in

pytestmark = pytest.mark.asyncio(loop_scope="session")


class Guarded:
    """Two orgs with a job each, and a token for every purpose."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.operator = stack.token("ana", "operate")
        self.reader = stack.token("rob", "read")
        self.bound = stack.token("acme-ci", "submit", "acme")

    async def fill(self) -> None:
        self.mine = (
            await self.stack.suite(
                "ci-acme", ["tests/mine.spec.ts"], org_id="acme", token=self.operator
            )
        )[0]
        self.theirs = (
            await self.stack.suite(
                "ci-globex", ["tests/theirs.spec.ts"], org_id="globex", token=self.operator
            )
        )[0]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    async with stack_in(Path(tmp_path_factory.mktemp("guarded"))) as stack:
        guarded = Guarded(stack)
        await guarded.fill()
        yield guarded


async def signed_in(
    visit: Visits, guarded: Guarded, token: str, path: str = "/", **options: Any
) -> Page:
    page = await visit(guarded.stack.url + path, **options)
    await sign_in(page, token)
    return page


async def test_whoever_comes_without_a_token_signs_in_and_goes_on(
    guarded: Guarded, visit: Visits
) -> None:
    visit.expected = ["401 POST"]
    page = await visit(f"{guarded.stack.url}/ui/jobs?org_id=acme")
    assert "/ui/login?next=%2Fui%2Fjobs%3Forg_id%3Dacme" in page.url
    await sign_in(page, "qgjet_000000000000_wrong")
    assert "not known here" in await page.get_by_role("alert").inner_text()
    await sign_in(page, guarded.operator)
    assert page.url.endswith("/ui/jobs?org_id=acme")
    (cookie,) = [one for one in await page.context.cookies() if one.get("name") == "qgjet_token"]
    assert (cookie.get("httpOnly"), cookie.get("sameSite")) == (True, "Strict")
    assert "qgjet_token" not in await page.evaluate("document.cookie")
    assert await page.get_by_text("ana").is_visible()
    await page.get_by_role("button", name="Sign out").click()
    assert page.url.endswith("/ui/login")
    assert [one for one in await page.context.cookies() if one.get("name") == "qgjet_token"] == []
    await page.goto(guarded.stack.url)
    assert "/ui/login" in page.url


async def test_whoever_guesses_has_to_wait(
    tmp_path: Path, visit: Visits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qgjet_projections.api.access.FAILURES_PER_S", 0.001)
    visit.expected = ["401 POST", "429 POST"]
    async with stack_in(tmp_path) as stack:
        stack.token("ana", "operate")
        page = await visit(f"{stack.url}/ui/login")
        async with stack.client() as client:
            await asyncio.gather(
                *(client.post("/ui/login", data={"token": "wrong", "next": "/"}) for _ in range(20))
            )
        await sign_in(page, "qgjet_000000000000_wrong")
        assert "too many tokens" in await page.locator("main").inner_text()


async def test_who_may_only_read_sees_everything_and_no_action(
    guarded: Guarded, visit: Visits
) -> None:
    visit.expected = ["403 POST"]
    page = await signed_in(visit, guarded, guarded.reader)
    assert {"acme", "globex"} == set(await column(page, "Org"))
    for path in ("/", f"/ui/jobs/{guarded.mine}", "/ui/suites/ci-acme", "/ui/dead"):
        await page.goto(guarded.stack.url + path)
        assert await page.locator("details.ask").count() == 0
        assert await page.locator("main form:not(.filters)").count() == 0
    forged = f"<form method=post action=/ui/jobs/{guarded.mine}/cancel></form>"
    await page.evaluate(
        "text => { document.body.innerHTML += text; document.forms[document.forms.length - 1].submit() }",
        forged,
    )
    await page.wait_for_url("**/cancel")
    assert "scope submit" in await page.locator("main").inner_text()
    assert await page.get_by_role("link", name="Overview").count() == 2


async def test_who_is_bound_to_an_org_sees_nothing_of_another(
    guarded: Guarded, visit: Visits
) -> None:
    visit.expected = ["404 GET"]
    page = await signed_in(visit, guarded, guarded.bound)
    for path in ("/", "/ui/jobs", "/ui/suites", "/ui/tests", "/ui/dead", "/ui/jobs?org_id=globex"):
        await page.goto(guarded.stack.url + path)
        assert "theirs" not in await page.content()
        assert "globex" not in (await page.content()).replace("org_id=globex", "").replace(
            'value="globex"', ""
        )
    assert await page.locator("summary", has_text="Pause").count() == 0
    for path in (f"/ui/jobs/{guarded.theirs}", "/ui/suites/ci-globex"):
        await page.goto(guarded.stack.url + path)
        assert "404" in str(visit.complaints[-1])
        assert "theirs" not in await page.locator("main").inner_text()


async def test_what_happens_in_another_org_moves_nothing(guarded: Guarded, visit: Visits) -> None:
    page = await live(await signed_in(visit, guarded, guarded.bound, "/ui/jobs"))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await guarded.stack.submit("tests/silent.spec.ts", org_id="globex", token=guarded.operator)
    await guarded.stack.submit("tests/heard.spec.ts", org_id="acme", token=guarded.operator)
    await page.get_by_text("tests/heard.spec.ts").wait_for()

    assert len([url for url in asked if url.endswith("/ui/jobs")]) == 1
    assert "silent" not in await page.content()


async def test_what_they_may_do_they_can(guarded: Guarded, visit: Visits) -> None:
    job_id = await guarded.stack.submit("tests/doomed.spec.ts", token=guarded.operator)
    page = await signed_in(visit, guarded, guarded.bound, f"/ui/jobs/{job_id}")
    assert await page.locator("summary").all_inner_texts() == ["Cancel"]
    await act(page, "Cancel", "Cancel this job")
    assert await said(page) == "The job is cancelled."
    (event,) = [
        one for one in await guarded.stack.events(job_id) if one["type"] == "cancel_requested"
    ]
    assert event["by"] == "api:acme-ci"


async def test_a_revoked_token_leads_to_the_sign_in_page_by_itself(
    guarded: Guarded, visit: Visits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "qgjet_projections.web.live.KEEP_ALIVE_S", 0.5
    )  # how often a stream in which nothing happens looks at its token
    visit.expected = ["console: ", "401 GET"]
    token = guarded.stack.token("leaver", "operate")
    page = await live(await signed_in(visit, guarded, token, "/ui/jobs"))
    await mark(page)
    guarded.stack.revoke(token)
    await page.wait_for_url("**/ui/login?next=%2Fui%2Fjobs", timeout=patience(40_000))
    assert not await is_marked(page)


async def test_a_page_of_another_site_can_do_nothing(guarded: Guarded, visit: Visits) -> None:
    context = await visit.context()
    page = await context.new_page()
    await page.goto(f"{guarded.stack.url}/ui/login")
    await sign_in(page, guarded.operator)
    visit.expected = ["console: ", "answer: "]
    async with stack_in(
        guarded.stack.directory / "other"
    ) as other:  # as its own site: another name of this machine
        foreign = await context.new_page()
        form = f"<form method=post action='{guarded.stack.url}/ui/queue/pause'><input name=target value=emulator></form>"
        await foreign.route(
            "**/evil",
            lambda route: route.fulfill(
                content_type="text/html", body=f"{form}<script>document.forms[0].submit()</script>"
            ),
        )
        await foreign.goto(other.url.replace("127.0.0.1", "localhost") + "/evil")
        await foreign.wait_for_url("**/ui/**")
    assert not [event for event in await guarded.stack.events() if event["type"] == "paused"]
