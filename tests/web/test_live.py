"""Pages move by themselves while agents work, and nobody loses their place."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path

import pytest
from playwright.async_api import Page

from agents import running_agent, scripted
from cli.commandline import Cli
from patience import patience
from qgjet.domain.subjects import log_subject
from web.scene import Scene
from web.stack import Stack
from web.visits import Visits, column, is_marked, live, mark, until

pytestmark = pytest.mark.asyncio(loop_scope="session")
TESTS = [f"tests/{number:02d}.spec.ts" for number in range(12)]


async def figure(page: Page, name: str) -> str:
    return (
        await page.locator(".figures div", has=page.locator("dt", has_text=name))
        .locator("dd")
        .inner_text()
    )


async def test_the_overview_moves_without_losing_the_place_or_what_somebody_writes(
    stack: Stack, visit: Visits
) -> None:
    await stack.suite("ci-1", TESTS)
    page = await live(await visit(stack.url, height=420))
    await mark(page)
    await page.get_by_text("Pause emulator").first.click()
    await page.locator("details[open] [name=reason]").fill("half a sen")
    await page.evaluate("window.scrollTo(0, 160)")
    place = await page.evaluate("window.scrollY")
    assert place == 160
    gate = asyncio.Event()
    async with running_agent(
        stack.log, stack.directory / "work", runners=scripted(gate=gate), slots=3, name="mac-1"
    ):
        await until(page, "document.querySelector('.figures dd').innerText === '3'")
        await page.get_by_text("3 of 3").wait_for()
        gate.set()
        await until(page, "document.querySelectorAll('.figures dd')[3].innerText === '12'")
    assert await is_marked(page)
    assert await page.evaluate("window.scrollY") == place
    assert await page.evaluate("window.shifted") < 0.01, await page.evaluate("window.shifters")


async def test_an_open_question_stays_while_its_row_lives(stack: Stack, visit: Visits) -> None:
    await stack.suite("ci-1", TESTS)
    page = await live(await visit(stack.url))
    await page.get_by_text("Pause emulator").first.click()
    await page.locator("details[open] [name=for_s]").select_option("3600")
    reason = page.locator("details[open] [name=reason]")
    await reason.fill("half a sen")
    await stack.suite(
        "ci-2", ["tests/other.spec.ts"], targets=["device", "emulator"], app_version_id="0.9.0"
    )  # rows above it
    await page.get_by_text("Pause device").first.wait_for()
    assert await reason.input_value() == "half a sen"
    assert await reason.evaluate("field => field === document.activeElement")
    assert await page.locator("details[open]").count() == 1
    assert await page.locator("details[open] [name=target]").input_value() == "emulator"
    assert await page.locator("details[open] [name=for_s]").input_value() == "3600"


async def test_a_suite_and_its_jobs_move_until_they_have_ended(stack: Stack, visit: Visits) -> None:
    jobs = await stack.suite("ci-1", TESTS[:3], max_retries=0)
    page = await live(await visit(f"{stack.url}/ui/suites/ci-1"))
    other = await live(await visit(f"{stack.url}/ui/jobs/{jobs[0]}"))
    assert "no agent that takes new jobs" in await other.locator("article.attempt").inner_text()
    for one in (page, other):
        await mark(one)
    gate = asyncio.Event()
    async with running_agent(
        stack.log, stack.directory / "work", runners=scripted({TESTS[1]: ("failed",)}, gate=gate)
    ):
        await page.locator("td .badge", has_text="running").wait_for()
        assert await page.locator("h1 + .badge").inner_text() == "running"
        gate.set()
        await page.locator("h1 + .badge", has_text="failed").wait_for()
        await other.locator("h1 + .badge", has_text="passed").wait_for()
    assert sorted(await column(page, "State")) == ["failed", "passed", "passed"]
    assert await page.locator("section[aria-labelledby=h-bad] article").count() == 1
    assert await page.locator("summary").all_inner_texts() == ["Run failed again"]
    assert "It waits" not in await other.locator("main").inner_text()
    assert await is_marked(page)
    assert await is_marked(other)


async def test_a_job_moves_without_moving_what_somebody_reads(stack: Stack, visit: Visits) -> None:
    job_id = await stack.submit(max_retries=1)
    page = await live(await visit(f"{stack.url}/ui/jobs/{job_id}"))
    reader = await live(await visit(page.url, height=420))
    await reader.evaluate("window.scrollTo(0, document.getElementById('log').offsetTop)")
    top = "document.getElementById('log').getBoundingClientRect().top"
    place = await reader.evaluate(top)
    assert place < 100
    gate = asyncio.Event()
    async with running_agent(
        stack.log, stack.directory / "work", runners=scripted({"*": ("failed", "hang")}, gate=gate)
    ):
        await page.locator("#attempt-1").wait_for()
        await stack.connection.request(log_subject(job_id, 1), b"one\ntwo\n")
        await until(page, "document.querySelector('pre.log').innerText.includes('two')")
        gate.set()
        await page.locator("#attempt-2").wait_for()
        assert await page.evaluate("window.shifted") < 0.01, await page.evaluate("window.shifters")
        async with stack.client() as client:
            await client.post(f"/jobs/{job_id}/cancel")
        await reader.locator("h1 + .badge", has_text="cancelled").wait_for()
    assert await reader.evaluate("window.shifted") < 0.01, await reader.evaluate("window.shifters")
    assert abs(await reader.evaluate(top) - place) < 1


async def test_a_page_goes_on_after_the_api_was_started_anew(stack: Stack, visit: Visits) -> None:
    visit.expected = ["console: ", "answer: 503"]
    await stack.submit(TESTS[0])
    page = await live(await visit(stack.url))
    await mark(page)
    await stack.stop()
    await page.wait_for_selector("body[data-live=off]")
    await stack.start()
    await page.wait_for_selector("body[data-live=on]", timeout=patience(20_000))
    await stack.submit(TESTS[1])
    await until(page, "document.querySelectorAll('.figures dd')[1].innerText === '2'")
    assert await is_marked(page)


async def test_pages_say_that_the_server_is_gone_and_take_it_back(
    stack: Stack, visit: Visits, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = await stack.submit()
    quiet = [
        await live(await visit(stack.url + path))
        for path in ("/ui/jobs", "/ui/dead", f"/ui/jobs/{job_id}")
    ]
    stack.server.kill()
    for page in quiet:
        await page.get_by_role("alert").wait_for()
        assert "What is shown may be old" in await page.get_by_role("alert").inner_text()
    quiet.append(await live(await visit(f"{stack.url}/ui/jobs")))
    assert await quiet[-1].get_by_role("alert").count() == 1
    await stack.server.start()
    for page in quiet:
        await page.get_by_role("alert").wait_for(state="detached")
    await stack.connection.request(log_subject(job_id, 1), b"here again\n")
    await until(
        quiet[2], "document.querySelector('pre.log').innerText.includes('here again')"
    )  # the stream of its output was never cut
    assert [record for record in caplog.records if record.exc_info] == []


TOUCHED = """element => {
    window.touched = [];
    new MutationObserver(found => window.touched.push(...found.map(one => `${one.type} ${one.target.nodeName}`)))
        .observe(element, {subtree: true, childList: true, attributes: true});
}"""


async def test_a_row_that_did_not_change_is_not_touched(stack: Stack, visit: Visits) -> None:
    await stack.suite("ci-1", TESTS[:3])
    page = await live(await visit(f"{stack.url}/ui/jobs"))
    row = page.locator("main tbody tr", has_text=TESTS[1])
    await row.evaluate(TOUCHED)
    await row.evaluate("row => getSelection().selectAllChildren(row.querySelector('a'))")
    await stack.submit("tests/other.spec.ts")
    await until(page, "document.querySelectorAll('main tbody tr').length === 4")
    assert await page.evaluate("window.touched") == []
    assert await page.evaluate("getSelection().toString()") == TESTS[1]


async def test_time_goes_by_without_touching_what_reads_as_before(
    scene: Scene, visit: Visits
) -> None:
    page = await (await visit.context()).new_page()
    await page.clock.install()
    await page.goto(f"{scene.stack.url}/ui/suites/main-3130")
    when = page.locator("time[data-show=day]").first
    await page.locator("main").evaluate(TOUCHED)
    await when.evaluate(
        "time => getSelection().setBaseAndExtent(time.firstChild, 2, time.firstChild, 7)"
    )
    selected = await page.evaluate("getSelection().toString()")
    await page.clock.run_for(6_000)  # ages are reckoned anew every five seconds
    assert await page.evaluate("window.touched") == []
    assert await page.evaluate("getSelection().toString()") == selected


async def test_one_event_asks_for_a_page_once(stack: Stack, visit: Visits) -> None:
    page = await live(await visit(f"{stack.url}/ui/jobs"))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for number, test in enumerate(TESTS[:4], 1):
        await stack.submit(test)
        await until(page, f"document.querySelectorAll('main tbody tr').length === {number}")
    pages = [url for url in asked if url.endswith("/ui/jobs")]
    assert len(pages) == 4, asked


async def test_a_log_follows_and_keeps_what_is_searched(stack: Stack, visit: Visits) -> None:
    job_id = await stack.submit(max_retries=1)
    gate = asyncio.Event()
    async with running_agent(
        stack.log,
        stack.directory / "work",
        runners=scripted({"*": ("failed", "passed")}, gate=gate),
    ):
        page = await live(await visit(f"{stack.url}/ui/jobs/{job_id}"))
        await page.locator("h1 + .badge.live").wait_for()
        await stack.connection.request(log_subject(job_id, 1), b"one\n\x1b[31mtwo\x1b[0m\nthree")
        await until(
            page, "document.querySelector('pre.log').innerText === 'one\\ntwo\\n'"
        )  # without colours, and the last line is not whole yet
        await page.get_by_label("Search").fill("e")
        await stack.connection.request(log_subject(job_id, 1), b" is here\nbut not this\n")
        await until(
            page, "document.querySelector('pre.log').innerText === 'one\\nthree is here\\n'"
        )
        await page.get_by_label("Search").fill("")
        gate.set()
        await page.get_by_text(
            "Output of attempt 2"
        ).wait_for()  # the next one is followed by itself
        await until(
            page, "document.querySelector('[data-state]').textContent === 'it has written nothing'"
        )
    await page.locator("#attempt-1").get_by_role("link", name="Output").click()
    await until(page, "document.querySelector('[data-state]').textContent === 'complete'")
    await until(page, "document.querySelector('pre.log').innerText.includes('three is here')")


async def test_what_an_action_did_stays_while_the_page_moves(stack: Stack, visit: Visits) -> None:
    await stack.submit(TESTS[0])
    page = await live(await visit(stack.url))
    await page.get_by_text("Pause emulator").first.click()
    await page.get_by_role("button", name="Pause emulator").click()
    await live(page)
    await stack.submit(TESTS[1])
    await until(page, "document.querySelectorAll('.figures dd')[1].innerText === '2'")
    assert await page.locator("#said").inner_text() == "Paused target emulator."
    assert await page.locator("h1").inner_text() == "Overview"


async def test_agents_come_and_go_by_themselves(stack: Stack, visit: Visits) -> None:
    page = await live(await visit(stack.url))
    assert await page.get_by_text("No agent is alive").is_visible()
    async with running_agent(stack.log, stack.directory / "work", name="mac-1"):
        await page.get_by_text("mac-1").first.wait_for()
    await page.get_by_text("No agent is alive").wait_for()


async def test_keyboard_alone_is_enough(scene: Scene, visit: Visits) -> None:
    page = await live(await visit(f"{scene.stack.url}/ui/jobs"))
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.innerText") == "Skip to content"
    assert await page.locator(".skip").bounding_box() is not None
    await page.keyboard.press("Enter")
    assert await page.evaluate("document.activeElement.id") == "main"
    await page.keyboard.press("Tab")
    assert (
        await page.evaluate("document.activeElement.name") == "test"
    )  # the first thing of the page, not its menu
    await page.keyboard.press("Escape")
    await page.evaluate("document.activeElement.blur()")
    await page.keyboard.press("/")
    assert await page.evaluate("[document.activeElement.name, document.activeElement.value]") == [
        "test",
        "",
    ]
    await page.keyboard.type("tests/cart.spec.ts")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/ui/jobs?test=tests%2Fcart.spec.ts")
    order = []
    for _ in range(40):
        await page.keyboard.press("Tab")
        order.append(
            await page.evaluate(
                "(e => [e.tagName, (e.innerText || e.name || '').trim(), getComputedStyle(e).outlineStyle])(document.activeElement)"
            )
        )
    names = [name for _, name, _ in order]
    assert (
        names.index("Overview")
        < names.index("API")
        < names.index("Filter")
        < names.index("tests/cart.spec.ts")
    )
    assert all(outline != "none" for tag, _, outline in order if tag not in ("BODY", "HTML"))


async def test_from_the_overview_to_a_line_of_output_by_keys(scene: Scene, visit: Visits) -> None:
    page = await live(await visit(scene.stack.url))
    for name, heading in (
        ("Suites", "Suites"),
        ("main-3130", "main-3130"),
        ("tests/cart.spec.ts", "tests/cart.spec.ts"),
    ):
        await tab_to(page, name)
        await page.keyboard.press("Enter")
        await page.locator("h1", has_text=heading).wait_for()
    await until(page, "document.querySelector('[data-state]').textContent === 'complete'")
    await tab_to(page, "output.log")
    await tab_to(page, "search")
    await page.keyboard.type("shows the")
    await until(page, "document.querySelectorAll('pre.log mark').length > 0")
    await tab_to(page, "Plain text")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/log?attempt=*")


async def tab_to(page: Page, name: str) -> None:
    """Tab by tab, and each stop can be seen."""
    stops: list[str] = []
    while name not in stops:
        await page.keyboard.press("Tab")
        focus = "(e => [(e.innerText || e.name || '').trim(), e.tagName === 'BODY' || getComputedStyle(e).outlineStyle !== 'none'])(document.activeElement)"
        stop, visible = await page.evaluate(focus)
        assert visible, stop
        stops.append(stop)
        assert len(stops) < 80, stops


async def test_a_question_is_opened_answered_and_taken_back_with_keys(
    stack: Stack, visit: Visits
) -> None:
    job_id = await stack.submit()
    page = await live(await visit(f"{stack.url}/ui/jobs/{job_id}"))
    await page.locator("summary", has_text="Cancel").focus()
    await page.keyboard.press("Enter")
    assert await page.locator("details[open]").count() == 1
    await page.keyboard.press("Escape")
    assert await page.locator("details[open]").count() == 0
    assert await page.evaluate("document.activeElement.innerText") == "Cancel"
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    await page.keyboard.type("by hand")
    await page.keyboard.press("Enter")
    await page.locator("#said").wait_for()
    assert [
        event["reason"]
        for event in await stack.events(job_id)
        if event["type"] == "cancel_requested"
    ] == ["by hand"]


@pytest.mark.parametrize("width", [1440, 375])
@pytest.mark.parametrize(
    ("path", "asks"),
    [
        ("/", ("Pause a target", "Pause an org", "Pause device", "Drain")),
        ("/ui/suites/main-3132", ("Cancel",)),
        ("/ui/suites/main-3130", ("Run failed again",)),
        ("/ui/jobs/{queued}", ("Cancel", "Priority")),
        ("/ui/dead", ("Redrive all", "Discard all", "Redrive", "Discard")),
    ],
)
async def test_a_question_is_wholly_visible_where_it_opens(
    scene: Scene, visit: Visits, path: str, asks: tuple[str, ...], width: int
) -> None:
    page = await visit(
        scene.stack.url
        + path.format(queued=scene.jobs["main-3132/browserstack/tests/cart.spec.ts"]),
        width=width,
        height=1600,
    )
    for ask in asks:
        await page.locator("summary").get_by_text(ask, exact=True).first.click()
        form = page.locator("details[open] form")
        box = await form.bounding_box()
        assert box is not None
        assert box["x"] >= 0, ask
        assert box["x"] + box["width"] <= width, ask
        corner = await page.evaluate(
            "([x, y]) => !!document.elementFromPoint(x, y)?.closest('details[open]')",
            [box["x"] + 4, box["y"] + box["height"] - 4],
        )
        assert corner, f"{ask} is cut off at {width}"
        await page.keyboard.press("Escape")


async def test_an_empty_server_teaches_the_next_command(stack: Stack, visit: Visits) -> None:
    page = await visit(stack.url)
    for path, words in {
        "/": ("qgjet run", "qgjet agent"),
        "/ui/suites": ("qgjet run",),
        "/ui/jobs": ("qgjet submit",),
        "/ui/tests": ("qgjet run",),
        "/ui/dead": ("Nothing waits here",),
        "/ui/tests/history?test=tests%2Fnone.spec.ts": ("qgjet submit",),
    }.items():
        await page.goto(stack.url + path)
        text = await page.locator("main").inner_text()
        assert all(word in text for word in words), path


async def test_a_target_that_no_agent_serves_teaches_how_to_start_one(
    stack: Stack, visit: Visits
) -> None:
    async with running_agent(stack.log, stack.directory / "work"):
        await stack.suite("ci-1", TESTS[:2], targets=["device"])
        page = await visit(stack.url)
        assert await column(page, "Waits for") == ["no agent"]
        assert await page.locator(".hint code").all_inner_texts() == [
            f"qgjet agent --target device --nats {stack.server.url}"
        ]


async def test_the_commands_of_an_empty_server_run_as_they_are_printed(
    stack: Stack, visit: Visits, tmp_path: Path
) -> None:
    for name in ("cart", "login"):
        (tmp_path / f"tests/{name}.spec.ts").parent.mkdir(exist_ok=True)
        (tmp_path / f"tests/{name}.spec.ts").touch()
    (tmp_path / "qgjet.toml").write_text(
        '[targets.emulator]\nrunner = "command"\ncommand = ["true"]\n'
    )
    qgjet = Cli(tmp_path)
    page = await visit(stack.url)
    printed = {}
    for path in (
        "/",
        "/ui/suites",
        "/ui/jobs",
        "/ui/tests",
        "/ui/tests/history?test=tests%2Flogin.spec.ts%3B%20exit%203",
    ):
        await page.goto(stack.url + path)
        printed[path] = [
            shlex.split(text) for text in await page.locator("main code").all_inner_texts()
        ]
    assert (
        printed["/ui/tests/history?test=tests%2Flogin.spec.ts%3B%20exit%203"][0][7]
        == "tests/login.spec.ts; exit 3"
    ), "one word for a shell"
    queued = await qgjet(*printed["/ui/jobs"][0][1:])
    assert queued.code == 0, queued.err
    await stack.caught_up()
    await page.goto(f"{stack.url}/ui/jobs")
    await page.locator("main td a").click()
    (alone,) = await page.locator(".attempt.calm code").all_inner_texts()
    submit, agent, _ = printed["/"]
    assert alone == f"{shlex.join(agent[:2])} --target emulator {shlex.join(agent[2:])}"
    async with qgjet.start(*agent[1:]):
        for command in (submit, printed["/ui/suites"][0], printed["/ui/tests"][0]):
            ran = await qgjet(*command[1:])
            assert ran.code == 0, ran.err
    await page.goto(f"{stack.url}/ui/suites")
    assert set(await column(page, "State")) == {"passed"}
