"""What tests, agents and clients say is text, whatever they say, and much of it does not stop a
page.
"""

from __future__ import annotations

import io

import pytest
from playwright.async_api import Page

from agents import eventually
from qgjet.domain.decide import EndAttempt, Start
from qgjet.domain.events import Artifact, Outcome, Slot, TestError, TestResult, Try, Verdict
from qgjet.domain.job import state_of
from qgjet.domain.subjects import log_subject
from qgjet.store import agent_registry
from qgjet.store.agent_registry import AgentInfo, TargetSlots
from qgjet.store.artifacts import ArtifactStore, object_name
from qgjet.support.clock import utc_now
from web.stack import Stack
from web.visits import Visits, live, until

pytestmark = pytest.mark.asyncio(loop_scope="session")
MARKUP = "<script>window.hit=1</script>\"'><img src=x onerror=window.hit=1>{{7*7}}</pre></script>"
OTHER_WAY = "\u202egnp.exe"
EVIL = f"{MARKUP}{OTHER_WAY}"
ORG, VERSION, TARGET = "<b>org", "<i>1.0", "<u>t'\""
TEST = "tests/<img src=x onerror=hit()>{{7*7}}.spec.ts"
LONG = "x" * 1_000_000


async def hostile(stack: Stack) -> str:
    """A suite of one job whose every word is an attack; gives the job's id."""
    (job_id,) = await stack.suite(
        '<s>{{7*7}}"ci',
        [TEST],
        org_id=ORG,
        app_version_id=VERSION,
        targets=[TARGET],
        tags={"branch": MARKUP[:60], "commit": "<a>"},
        max_retries=0,
    )
    slot, log = Slot(ORG, VERSION, TARGET, TEST), stack.log
    job = await log.load(slot)
    assert job is not None
    event, seq = await log.execute(slot, Start(job.ticket, "<script>agent", device=EVIL), job)
    job = state_of(event, seq)
    await stack.connection.request(
        log_subject(job_id, 1), f"{EVIL}\n\x1b[31mred\x00\x07\n".encode() + b"\xff\xfe\n"
    )
    for _ in range(2):
        await stack.connection.request(log_subject(job_id, 1), b"y" * 900_000)
    await stack.connection.request(log_subject(job_id, 1), b"\nthe end\n")
    name = "test-results/<img src=x onerror=hit()>.png"
    info = await ArtifactStore(stack.connection).put(
        object_name(job_id, 1, name), io.BytesIO(b"no picture")
    )
    files = (
        Artifact(
            name=name, content_type="text/html", size=info.size, sha256=info.sha256, note=EVIL
        ),
    )
    error = TestError(message=EVIL + LONG[:60_000], file=EVIL, line=7)
    tests = (
        TestResult(
            id="1",
            title=EVIL,
            file=EVIL,
            outcome="failed",
            tries=(Try(status="failed", error=error),),
        ),
    )
    outcome = Outcome(
        verdict=Verdict.FAILED, reason=EVIL, message=EVIL, tests=tests, artifacts=files
    )
    await log.execute(slot, EndAttempt("<script>agent", 1, outcome, 0.0), job)
    info = AgentInfo(
        instance="<i>1",
        name=EVIL,
        host="h",
        pid=1,
        version="1",
        targets=(TargetSlots(target=EVIL, slots=1),),
        slots=1,
        since=utc_now(),
        warm=(EVIL,),
    )
    await agent_registry.announce(stack.connection, info)
    await stack.submit("tests/<b>waits.spec.ts", org_id=ORG, target=TARGET)
    await stack.caught_up()
    return job_id


async def harmless(page: Page) -> None:
    assert await page.evaluate("window.hit") is None
    assert (
        await page.locator("main script, main b, main u, main s, main img:not([loading])").count()
        == 0
    )
    assert "49" not in (await page.locator("h1").inner_text())


async def test_words_of_others_are_text_on_every_page(stack: Stack, visit: Visits) -> None:
    visit.expected = ["404 GET"]
    job_id = await hostile(stack)
    page = await live(await visit(stack.url))
    main = page.locator("main")
    await page.get_by_text(MARKUP).locator("visible=true").first.wait_for()
    await harmless(page)
    for path, words in {
        "/ui/suites": MARKUP[:60],
        "/ui/jobs": TEST,
        "/ui/tests": TEST,
        "/ui/dead": "Nothing waits",
        f"/ui/jobs/{job_id}": MARKUP,
        "/ui/jobs?test=%22%3E%3Cscript%3Ewindow.hit%3D1%3C/script%3E": "No job fits",
        "/ui/jobs/%3Cscript%3Ewindow.hit%3D1": "<script>window.hit=1",
        "/ui/%3Cscript%3Ewindow.hit%3D1": "<script>window.hit=1",
        "/ui/tests/history?test=%3Cscript%3Ewindow.hit%3D1%3C/script%3E": "<script>window.hit=1</script>",
    }.items():
        await page.goto(stack.url + path)
        assert words in await main.inner_text(), path
        await harmless(page)
    await page.goto(f"{stack.url}/ui/suites")
    await page.locator("td[data-label=Suite] a").click()
    assert MARKUP in await main.inner_text()
    assert await page.locator("h1").inner_text() == '<s>{{7*7}}"ci'
    await harmless(page)
    await page.get_by_role("link", name=TEST).first.click()
    assert job_id in page.url
    await page.get_by_role("link", name="this test over days").click()
    assert await page.locator("h1").inner_text() == TEST
    await harmless(page)
    for width in (375, 1440):
        await page.set_viewport_size({"width": width, "height": 800})
        await page.goto(f"{stack.url}/ui/jobs/{job_id}")
        assert (
            await page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            <= 0
        )
    await page.get_by_text("Run again", exact=True).click()
    await page.get_by_role("button", name="Run it again").click()
    assert await page.locator("#said").inner_text() == "This is the new job."


async def test_long_lines_of_a_log_are_shown_and_the_page_still_answers(
    stack: Stack, visit: Visits
) -> None:
    job_id = await hostile(stack)
    page = await live(await visit(f"{stack.url}/ui/jobs/{job_id}"))
    await until(page, "document.querySelector('pre.log').textContent.includes('the end')")
    shown = str(await page.locator("pre.log").evaluate("pre => pre.textContent"))
    assert MARKUP in shown
    assert 2_000 < shown.count("y") < 100_000
    assert " more characters" in shown
    assert "\x1b" not in shown
    assert "\x00" not in shown
    await harmless(page)
    await page.get_by_label("Search").fill("the end")
    await until(page, "document.querySelector('pre.log').textContent === 'the end\\n'")
    await page.get_by_label("Search").fill("yy")
    await until(page, "document.querySelectorAll('pre.log mark').length > 100")
    await page.evaluate("new Promise(requestAnimationFrame)")


async def test_a_log_of_many_lines_keeps_the_last_of_them(stack: Stack, visit: Visits) -> None:
    job_id = await stack.submit()
    slot = Slot("acme", "1.0.0", "emulator", "tests/login.spec.ts")
    job = await stack.log.load(slot)
    assert job is not None
    await stack.log.execute(slot, Start(job.ticket, "agent-1"), job)
    text = "".join(f"line {number}\n" for number in range(50_000)).encode()
    for start in range(0, len(text), 500_000):
        await stack.connection.request(log_subject(job_id, 1), text[start : start + 500_000])
    page = await live(await visit(f"{stack.url}/ui/jobs/{job_id}"))
    await until(page, "document.querySelector('pre.log').textContent.endsWith('line 49999\\n')")
    shown = str(await page.locator("pre.log").evaluate("pre => pre.textContent")).splitlines()
    assert len(shown) <= 20_001
    assert (
        await page.evaluate(
            "(pre => pre.scrollHeight - pre.scrollTop - pre.clientHeight)(document.querySelector('pre.log'))"
        )
        < 40
    )
    await eventually(lambda: page.evaluate("document.readyState === 'complete'"))
