"""What attempts leave behind is looked at where it is: pictures and videos in the page of their
job.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, Response

from agents import running_agent, scripted
from qgjet.domain.events import Outcome, Partition
from qgjet.runners.base import Attempt, Runner, Session
from web.scene import picture
from web.stack import Stack
from web.video import SPREAD, spread, video
from web.visits import Visits, findings, live, sign_in, until

pytestmark = pytest.mark.asyncio(loop_scope="session")
SEEK = """async at => {
    const video = document.querySelector(".media video"), sought = new Promise(done => video.addEventListener("seeked", done, {once: true}));
    video.currentTime = at * video.duration;
    await sought;
}"""
COLOUR = """(video => {
    const brush = document.createElement("canvas").getContext("2d");
    brush.drawImage(video, 0, 0, 1, 1);
    const [red, , blue] = brush.getImageData(0, 0, 1, 1).data;
    return red > 100 ? "red" : blue > 100 ? "blue" : "";
})(document.querySelector(".media video"))"""


class Leaving:
    """Attempts leave these files, and come to what is scripted."""

    def __init__(self, scripted: Runner, files: Mapping[str, bytes]) -> None:
        self._scripted, self._files = scripted, files

    async def prepare(self, partition: Partition, directory: Path) -> Session:
        return LeavingSession(await self._scripted.prepare(partition, directory), self._files)


class LeavingSession:
    def __init__(self, session: Session, files: Mapping[str, bytes]) -> None:
        self._session, self._files = session, files
        self.device, self.redactor = session.device, session.redactor

    async def healthy(self) -> bool:
        return await self._session.healthy()

    async def run(self, attempt: Attempt) -> Outcome:
        for name, data in self._files.items():
            path = attempt.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return await self._session.run(attempt)

    async def release(self) -> None:
        await self._session.release()


def leaving(
    files: Mapping[str, bytes], *outcomes: str, gate: asyncio.Event | None = None
) -> dict[str, Runner]:
    return {
        target: Leaving(runner, files)
        for target, runner in scripted({"*": outcomes}, gate=gate).items()
    }


async def plays(page: Page) -> None:
    """Whoever presses the space bar on the video sees all of it, and can go anywhere in it."""
    await page.locator(".media video[controls]").press("Space")
    await until(page, "document.querySelector('.media video').ended")
    facts = "(video => [video.error, video.videoWidth, video.videoHeight, 0.5 < video.duration && video.duration < 60])(document.querySelector('.media video'))"
    assert await page.evaluate(facts) == [None, 180, 320, True]
    for at, colour in ((0.1, "red"), (0.9, "blue")):
        await page.evaluate(SEEK, at)
        await until(page, f"{COLOUR} === '{colour}'")


@pytest.mark.parametrize("kind", ["webm", "mp4"])
async def test_a_video_plays_in_the_page_of_its_job(
    stack: Stack, visit: Visits, browser: Browser, kind: str
) -> None:
    recorded = await video(browser, kind)
    name = f"test-results/cart total/video.{kind}"
    files = {
        name: spread(recorded) if kind == "mp4" else recorded,
        "test-results/test-failed-1.png": picture(),
    }
    job_id = await stack.submit(max_retries=0)
    async with running_agent(stack.log, stack.directory / "work", runners=leaving(files, "failed")):
        await stack.ended(job_id)
    page = await live(await visit(f"{stack.url}/ui/jobs/{job_id}"))
    answers: list[Response] = []
    page.on(
        "response", lambda answer: answers.append(answer) if answer.url.endswith(kind) else None
    )
    assert await page.locator(".media figcaption").all_inner_texts() == [
        "test-results/test-failed-1.png",
        name,
    ]
    await plays(page)
    assert {answer.status for answer in answers} == {206}
    starts = {
        int((await answer.request.all_headers())["range"].removeprefix("bytes=").partition("-")[0])
        for answer in answers
    }
    assert (max(starts) > SPREAD // 2) == (kind == "mp4"), starts  # what lies between was not read
    assert await page.evaluate("window.shifted") < 0.01, await page.evaluate("window.shifters")
    assert await findings(page) == []
    async with page.expect_download() as download:
        await page.get_by_role("link", name=name).click()
    assert (await (await download.value).path()).read_bytes() == files[name]

    await page.close()  # it would complain that it has no token
    token = stack.token("rob", "read")
    assert (await page.request.get(answers[0].url)).status == 401
    page = await visit(page.url)
    await sign_in(page, token)
    await plays(page)


async def test_a_video_stays_where_it_was_stopped_while_the_page_moves(
    stack: Stack, visit: Visits, browser: Browser
) -> None:
    job_id = await stack.submit(max_retries=1)
    runners = leaving({"test-results/video.webm": await video(browser, "webm")}, "failed", "hang")
    async with running_agent(stack.log, stack.directory / "work", runners=runners):
        page = await live(await visit(f"{stack.url}/ui/jobs/{job_id}"))
        await page.locator("#attempt-2").wait_for()
        await plays(page)
        place = "(video => [video.currentTime, video.readyState])(document.querySelector('#attempt-1 video'))"
        before = await page.evaluate(place)
        assert before[0] > 0.5
        async with stack.client() as client:
            await client.post(f"/jobs/{job_id}/cancel")
        await page.locator("h1 + .badge", has_text="cancelled").wait_for()
    assert await page.evaluate(place) == before
