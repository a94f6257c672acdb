"""`make screenshots`: every page of the dashboard with a day's data, light and dark, for the
documentation.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import tempfile
from pathlib import Path

from playwright.async_api import Browser

from qgjet.support.clock import utc_now
from web.scene import Scene, play
from web.stack import Stack, chromium, stack_in
from web.visits import until

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs/images"
WIDTH, PHONE = 1200, (375, 812)
HEIGHTS = {"overview": 1010, "suites": 640, "suite": 1130, "job": 1000, "dead": 420}
HEIGHT = 820
SCREEN = """<body style="margin:0;font:15px system-ui;background:#f4f5f7">
<div style="background:#2456c4;color:#fff;padding:34px 16px 12px;font-size:19px">Cart</div>
<div style="background:#fff;margin:12px;padding:12px;border-radius:10px">Coffee beans, 1 kg<br><b>$ 15.90</b> &nbsp; &times; 2</div>
<div style="background:#fff;margin:12px;padding:12px;border-radius:10px;display:flex;justify-content:space-between"><span>Total</span><b>$ 15.90</b></div>
<div style="background:#2456c4;color:#fff;margin:12px;padding:12px;border-radius:10px;text-align:center">Check out</div></body>"""


def pages(scene: Scene) -> dict[str, str]:
    bad = scene.jobs["main-3130/emulator/tests/cart.spec.ts"]
    return {
        "overview": "/",
        "suites": "/ui/suites",
        "suite": "/ui/suites/main-3130",
        "jobs": "/ui/jobs?target=emulator",
        "job": f"/ui/jobs/{bad}",
        "tests": "/ui/tests",
        "test": "/ui/tests/history?test=tests%2Fcart.spec.ts&days=14",
        "dead": "/ui/dead",
    }


async def shoot(browser: Browser, scene: Scene, directory: Path) -> None:
    for scheme in ("light", "dark"):
        await _shoot(browser, scene, directory, scheme, f"-{scheme}", (WIDTH, HEIGHT), pages(scene))
    await _shoot(browser, scene, directory, "light", "-phone", PHONE, {"overview": "/"})


async def _shoot(
    browser: Browser,
    scene: Scene,
    directory: Path,
    scheme: str,
    suffix: str,
    size: tuple[int, int],
    wanted: dict[str, str],
) -> None:
    viewport = {"width": size[0], "height": size[1]}
    context = await browser.new_context(
        color_scheme=scheme, viewport=viewport, timezone_id="Europe/Berlin", reduced_motion="reduce"
    )
    for name, path in wanted.items():
        page = await context.new_page()
        if suffix != "-phone":
            await page.set_viewport_size({"width": WIDTH, "height": HEIGHTS.get(name, HEIGHT)})
        await page.goto(scene.stack.url + path)
        await page.wait_for_selector("body[data-live=on]")
        if name == "job":
            await until(page, "document.querySelector('[data-state]').textContent === 'complete'")
        await page.screenshot(
            path=directory / f"{name}{suffix}.png", full_page="--whole" in sys.argv
        )
        await page.close()
    await context.close()


async def screen(browser: Browser) -> bytes:
    page = await browser.new_page(viewport={"width": 270, "height": 400})
    await page.set_content(SCREEN)
    return await page.screenshot()


async def caught_up(stack: Stack) -> None:
    import httpx

    async with httpx.AsyncClient(base_url=stack.url) as client:
        last = (await stack.log.state()).last_seq
        await client.get("/jobs", params={"min_seq": last, "limit": 1})


async def main(directory: Path) -> None:
    logging.disable(logging.WARNING)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        async with (
            chromium() as browser,
            stack_in(Path(place), visibility_timeout_s=600.0) as stack,
        ):
            scene = await play(stack, utc_now(), screen=await screen(browser), nights=12)
            keeping = asyncio.create_task(scene.keep_agents())
            try:
                await caught_up(stack)
                await shoot(browser, scene, directory)
            finally:
                keeping.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await keeping


if __name__ == "__main__":
    asyncio.run(
        main(IMAGES if len(sys.argv) < 2 or sys.argv[1].startswith("-") else Path(sys.argv[1]))
    )
