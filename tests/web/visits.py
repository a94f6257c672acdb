"""Pages of one test in a real browser. Whatever the browser complains about, the test fails."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Error, Page, Response

from agents import eventually
from patience import patience

ASSETS = Path(__file__).resolve().parents[2] / "projections/assets"
AXE = ASSETS / "node_modules/axe-core/axe.min.js"
WATCH = """
window.shifted = 0;
window.shifters = [];
new PerformanceObserver(list => {
    for (const one of list.getEntries()) if (!one.hadRecentInput) {
        window.shifted += one.value;
        for (const {node, previousRect, currentRect} of one.sources)
            window.shifters.push([node?.outerHTML?.slice(0, 90) ?? node?.data, previousRect, currentRect]);
    }
}).observe({type: "layout-shift", buffered: true});
document.addEventListener("securitypolicyviolation", one => console.error(`policy: ${one.violatedDirective} ${one.blockedURI}`));
"""
ACTIVE = "body[data-live=on]"
FINDINGS = """async () => (await axe.run(document, {resultTypes: ["violations"]})).violations
    .filter(one => ["serious", "critical"].includes(one.impact))
    .map(one => `${one.id}: ${one.nodes.slice(0, 3).map(node => node.html.slice(0, 160) + " " + node.failureSummary).join(" | ")}`)"""


class Visits:
    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self.complaints: list[str] = []
        self.expected: list[str] = []
        """Parts of complaints that belong to what is tested."""

    async def context(
        self,
        *,
        width: int = 1440,
        height: int = 820,
        scheme: Any = "light",
        scripts: bool = True,
        **options: Any,
    ) -> BrowserContext:
        context = await self._browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            java_script_enabled=scripts,
            timezone_id="Asia/Kolkata",
            **options,
        )
        context.set_default_timeout(patience(15_000))
        if scripts:
            await context.add_init_script(WATCH)
        context.on("console", self._said)
        context.on("weberror", lambda error: self.complaints.append(f"thrown: {error.error}"))
        context.on("response", self._answered)
        self._contexts.append(context)
        return context

    async def __call__(self, url: str, **options: Any) -> Page:
        """A page in a context of its own."""
        page = await (await self.context(**options)).new_page()
        await page.goto(url)
        return page

    def _said(self, message: ConsoleMessage) -> None:
        if (
            message.type in ("error", "warning") and "Failed to load resource" not in message.text
        ):  # that is an answer below
            self.complaints.append(f"console: {message.text}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self.complaints.append(
                f"answer: {response.status} {response.request.method} {response.url}"
            )

    async def close(self) -> None:
        for context in self._contexts:
            with contextlib.suppress(Error):
                await context.close()

    def unexpected(self) -> list[str]:
        return [one for one in self.complaints if not any(part in one for part in self.expected)]


async def live(page: Page) -> Page:
    """Once it follows what happens; from then on shifts count. A busy machine may paint a page
    before all of it has come.
    """
    await page.wait_for_selector(ACTIVE)
    await page.evaluate("window.shifted = 0; window.shifters = []")
    return page


async def mark(page: Page) -> None:
    """So that a document that was loaded anew can be told."""
    await page.evaluate("window.marked = true")


async def is_marked(page: Page) -> bool:
    return bool(await page.evaluate("window.marked === true"))


async def findings(page: Page) -> list[str]:
    """Serious and critical ones, of axe."""
    assert AXE.is_file(), "axe-core is not there: make assets"
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(AXE.read_text())
    return list(await page.evaluate(FINDINGS))


async def sign_in(page: Page, token: str) -> None:
    await page.get_by_label("Token").fill(token)
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_load_state()


async def act(page: Page, title: str, button: str, **fields: str) -> None:
    """Open the question `title`, fill in its fields, and say yes."""
    ask = page.locator("details.ask", has=page.get_by_text(title, exact=True))
    await ask.locator("summary").click()
    for name, value in fields.items():
        field = ask.locator(f"[name={name}]")
        if await field.evaluate("field => field.tagName") == "SELECT":
            await field.select_option(value)
        elif await field.get_attribute("type") == "checkbox":
            await field.check()
        else:
            await field.fill(value)
    await ask.get_by_role("button", name=button).click()
    await page.wait_for_load_state()


async def said(page: Page) -> str:
    """What the last action did."""
    return (await page.locator("#said").inner_text()).strip()


async def column(page: Page, label: str) -> list[str]:
    """Texts of a table's column."""
    return [
        text.strip()
        for text in await page.locator(f"main td[data-label='{label}']").all_inner_texts()
    ]


async def until(page: Page, expression: str) -> None:
    """Until it is true there. Playwright's own way evaluates strings inside the page, which its
    policy forbids.
    """
    await eventually(lambda: page.evaluate(expression), within_s=15, what=expression)
