"""What all pages have in common: errors, redirects, what was done, and that whatever they show is
text.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Awaitable, Callable
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar import Litestar, Request, get
from litestar.response import Redirect
from litestar.testing import TestClient

from factories import spec
from qgjet.config.settings import Settings
from qgjet.domain.events import Verdict
from qgjet.store.event_log import EventLog
from qgjet_projections.web.page import SAID, done, own_path, query, segment
from strategies import hostile_text

Json = dict[str, Any]
Submit = Callable[..., Awaitable[Json]]
HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{7*7}}{% raw %}‮"
HERE = "http://qgjet.example/ui/jobs"
targets = st.lists(
    st.sampled_from(
        [
            "/",
            "//",
            "\\",
            "/\\",
            "evil.example",
            "http:",
            "https://",
            "javascript:alert(1)",
            "\t",
            "\n",
            "\0",
            "@",
            "%2f",
            "%5c",
            "?",
            "#",
            "..",
            "é",
            " ",
        ]
    ),
    max_size=8,
).map("".join)


@given(targets | hostile_text)
def test_back_is_always_a_path_of_this_site(back: str) -> None:
    path = own_path(back)
    assert path in (back, "/")
    seen = (
        path.replace("\t", "").replace("\n", "").replace("\r", "").replace("\\", "/").strip()
    )  # as a browser reads it
    there = urlsplit(urljoin(HERE, seen))
    assert (there.scheme, there.netloc) == ("http", "qgjet.example")


def test_a_path_of_ours_is_kept_whole() -> None:
    for path in ("/", "/ui/jobs?test=a%2Fb&cursor=x", "/ui/suites/ä b"):
        assert own_path(path) == path


def test_what_was_done_cannot_add_a_cookie_or_a_header() -> None:
    @get("/do", sync_to_thread=False)
    def act(request: Request[Any, Any, Any]) -> Redirect:
        return done(request, said[0], "/ui/jobs")

    said = [""]
    with TestClient(Litestar([act])) as client:

        @given(
            st.sampled_from(
                ["; Domain=evil", "\r\nSet-Cookie: a=b", '"; Path=/x', ", b=c", "\0", HOSTILE]
            )
            | st.text(st.characters(exclude_categories=["Cs"]))
        )
        def look(text: str) -> None:
            said[0] = text
            answer = client.get("/do", follow_redirects=False)
            (header,) = answer.headers.get_list("set-cookie")
            (cookie,) = SimpleCookie(header).values()
            assert (cookie.key, unquote(cookie.value), cookie["domain"], cookie["path"]) == (
                SAID,
                text[:500],
                "",
                "/",
            )
            assert cookie["httponly"] is True
            assert cookie["samesite"].lower() == "strict"
            assert answer.headers["location"] == "/ui/jobs"

        look()


@given(hostile_text)
def test_parts_of_addresses_are_escaped(text: str) -> None:
    if text.isprintable() or ("\ud800" not in text and "\udfff" not in text):
        assert not set(segment(text)) & set("/?#\"'<>&\\ ")
        assert not set(query({"a": text})) & set("#\"'<>\\ ")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/ui/jobs/nobody", 404),
        ("/ui/suites/none", 404),
        ("/ui/jobs?cursor=x", 400),
        ("/ui/jobs?tag=x", 400),
        ("/ui/tests/history", 400),
        ("/ui/suites?cursor=!", 400),
    ],
)
async def test_errors_are_pages_with_the_status_and_the_words_of_the_api(
    api: httpx.AsyncClient, path: str, status: int
) -> None:
    page = await api.get(path)
    assert (page.status_code, page.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    same = await api.get(path.removeprefix("/ui"))
    assert same.status_code == status
    if status == 404:
        assert same.json()["title"] in page.text
    gone = await api.get("/ui/nowhere")
    assert gone.status_code == 404


async def test_actions_refuse_with_the_status_of_the_api(
    api: httpx.AsyncClient, submit: Submit, agent: Any
) -> None:
    job_id = (await submit(max_retries=0))["job_id"]
    await api.get("/jobs", params={"min_seq": await agent.run(Verdict.PASSED)})
    for path, data, status in (
        (f"/ui/jobs/{job_id}/cancel", {}, 409),
        (f"/ui/jobs/{job_id}/priority", {"priority": "11"}, 400),
        ("/ui/jobs/nobody/cancel", {}, 404),
        ("/ui/queue/pause", {}, 400),
        ("/ui/queue/pause", {"target": "emulator", "for_s": "-1"}, 400),
        ("/ui/agents/drain", {"agent": "nobody"}, 404),
    ):
        page = await api.post(
            path, data=data or {"reason": "x"}, headers={"Origin": str(api.base_url).rstrip("/")}
        )
        assert (page.status_code, page.headers["content-type"]) == (
            status,
            "text/html; charset=utf-8",
        ), (path, page.text)
        foreign = await api.post(
            path, data=data or {"reason": "x"}, headers={"Origin": "https://evil.example"}
        )
        assert foreign.status_code == 403


async def test_whatever_a_page_shows_is_text(
    api: httpx.AsyncClient, submit: Submit, agent: Any
) -> None:
    names = {
        "test_path": f"tests/{HOSTILE}.js",
        "target": "t<script>alert",
        "app_version_id": "v<script>alert",
        "org_id": "o<script>alert",
    }
    job = await submit(
        max_retries=0,
        suite_id="s<script>alert",
        tags={"branch": HOSTILE, "commit": HOSTILE},
        **names,
    )
    await agent.start(**names)
    failed = {
        "title": HOSTILE,
        "id": "1",
        "outcome": "failed",
        "file": HOSTILE,
        "tries": [{"status": "failed", "error": {"message": HOSTILE, "file": HOSTILE}}],
    }
    outcome = {
        "message": HOSTILE,
        "tests": [failed],
        "artifacts": [
            {"name": f"{HOSTILE}.png", "content_type": "image/png", "size": 1, "sha256": "0" * 64}
        ],
    }
    await api.get(
        "/jobs", params={"min_seq": await agent.end(Verdict.FAILED, outcome=outcome, **names)}
    )
    pages = [
        "/",
        "/ui/jobs",
        "/ui/suites",
        "/ui/tests",
        "/ui/dead",
        f"/ui/jobs/{job['job_id']}",
        f"/ui/suites/{segment('s<script>alert')}",
    ]
    pages += [
        f"/ui/tests/history{query({'test': names['test_path']})}",
        f"/ui/jobs{query(dict.fromkeys(('org_id', 'test', 'target'), HOSTILE))}",
    ]
    for path in pages:
        page = await api.get(path, headers={"Cookie": f"{SAID}={segment(HOSTILE)}"})
        assert page.status_code == 200, (path, page.text)
        assert "<script>alert" not in page.text, path
        assert "<img src=x" not in page.text, path
        assert "49" not in page.text.split("<main")[1].split("</main")[0] or "{{7*7}}" in page.text
        assert "&lt;script&gt;alert(1)" in page.text, path


async def test_every_page_and_list_renders_while_the_read_model_is_behind(
    api: httpx.AsyncClient,
    submit: Submit,
    agent: Any,
    settings: Settings,
    log: EventLog,
    eventually: Any,
) -> None:
    done = (await submit(suite_id="nightly", max_retries=0))["job_id"]
    await agent.start()
    read = await api.get(f"/jobs/{done}", params={"min_seq": await agent.end(Verdict.INFRA_ERROR)})
    assert read.status_code == 200
    waiting = (await submit(test_path="waiting.js", suite_id="nightly"))["job_id"]

    async def is_behind() -> bool:
        found = re.search(
            r"^qgjet_projection_lag_events (\S+)$", (await api.get("/metrics")).text, re.MULTILINE
        )
        return found is not None and float(found[1]) > 0

    pages = (
        "/",
        "/ui/jobs",
        f"/ui/jobs/{done}",
        f"/ui/jobs/{waiting}",
        "/ui/suites",
        "/ui/suites/nightly",
        "/ui/tests",
        "/ui/dead",
        "/ui/login",
        "/docs",
    )
    lists = (
        "/jobs",
        f"/jobs/{done}",
        f"/status/{done}",
        "/suites",
        "/suites/nightly",
        "/partitions",
        "/agents",
        "/tests",
        "/stats/hours",
        "/dead",
    )
    others = ("/ui/tests/history?test=waiting.js", "/queue/pauses", "/readyz")
    reports = [
        f"/suites/nightly/{name}"
        for name in ("junit.xml", "ctrf.json", "report.json", "report.html")
    ]
    with contextlib.closing(
        sqlite3.connect(settings.api.database, isolation_level=None)
    ) as elsewhere:
        elsewhere.execute("BEGIN IMMEDIATE")  # the read model stands still
        await log.submit(spec())
        await eventually(is_behind)
        answers = {
            path: (await api.get(path)).status_code for path in (*pages, *lists, *reports, *others)
        }
        elsewhere.execute("ROLLBACK")
    assert answers == dict.fromkeys(answers, 200)
