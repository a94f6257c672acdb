"""The page for people: read back by the standard library's parser. Nothing that others wrote is
ever markup.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given

from qgjet.domain.events import Artifact, Status
from qgjet.reporting import html
from qgjet.reporting.model import SuiteReport
from reported import (
    any_reports,
    attempt,
    flaky_by_retry,
    job,
    mixed,
    not_passed_again,
    report,
    tried,
)

VOID = {"meta", "link", "br"}
TAGS = {
    "html", "head", "meta", "link", "title", "style", "body", "header", "main", "footer", "section", "p", "h1", "h2", "h3", "small", "code", "pre",
    "span", "i", "b", "div", "ul", "ol", "li", "dl", "dt", "dd", "details", "summary", "table", "thead", "tbody", "tr", "th", "td", "time", "a",
    "svg", "rect", "line", "path", "text",
}  # fmt: skip


class Page(HTMLParser):
    """Fails for tags that the report does not have, and for tags that are not closed in turn (but
    for the cells of a heading).
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS
        values = dict(attrs)
        assert not any(name.startswith("on") for name in values)
        assert "src" not in values
        self.links += [values["href"] or ""] if tag == "a" else []
        self.ids += [values["id"] or ""] if "id" in values else []
        if tag not in VOID and tag != "th":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("rect", "line", "path")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def section(page: str, title: str) -> str:
    (found,) = re.findall(rf"<h2>{title}.*?</section>", page, re.S)
    return str(found)


def test_it_begins_with_what_went_wrong() -> None:
    page = html.render(mixed())
    text = Page(page).text
    assert (
        text.index("Needs attention")
        < text.index("Flaky")
        < text.index("Timeline")
        < text.index("Passed")
    )
    attention = section(page, "Needs attention")
    assert re.findall(r'class="badge \w+">([\w ]+)<', attention) == [
        "failed", "timed out", "infra error", "config error", "running", "not accepted", "cancelled",
    ]  # fmt: skip
    assert len(re.findall(r'class="job \w+" id="job-\d+" open>', attention)) == 7
    assert " open>" not in section(page, "Passed")
    assert "expected 3, got 2" in attention
    assert "tests/cart.spec.js:12" in attention


def test_its_head_says_what_there_is() -> None:
    text = Page(html.render(report(job("failed", attempt(1, "failed"))))).text
    assert text.startswith(
        "failed: suite suite-1 Suite suite-1 failed 1 failed App version 1.0.0 Target emulator Organisation acme Began 2026-01-02 03:04:05"
    )
    assert "commit abc123 branch main" in text


def test_a_job_that_passed_on_a_retry_keeps_the_text_of_its_first_failure() -> None:
    flaky = section(html.render(report(flaky_by_retry())), "Flaky")
    assert "expected 3, got 2" in flaky


def test_tests_that_did_not_pass_again_need_attention_with_their_text() -> None:
    attention = Page(html.render(report(not_passed_again()))).text
    assert (
        "not_passed_again pays: failed in attempt 1 and did not pass in attempt 2 (skipped) (and 1 more): expected 3, got 2"
        in attention
    )
    assert "no parcel" in attention
    assert "It failed in attempt 1 and did not pass in attempt 2 (absent)." in attention


@pytest.mark.parametrize(
    ("reported", "word"),
    [
        (report(), "no jobs"),
        (report(job(None, status=Status.RUNNING)), "running"),
        (report(job(None, status=None)), "no verdict"),
        (report(job("passed")), "passed"),
        (report(job("passed"), to_come=1), "running"),
    ],
)
def test_it_never_says_passed_before_it_is_so(reported: SuiteReport, word: str) -> None:
    page = html.render(reported)
    assert f"<title>{word}: " in page
    Page(page)


def test_an_artifact_that_was_left_out_has_a_reason_and_no_link() -> None:
    one = Artifact(
        name="video.webm",
        content_type="x",
        size=300_000_000,
        sha256="",
        note="larger than max_file",
    )
    page = Page(
        html.render(
            report(job("failed", attempt(1, "failed", artifacts=(one,)))), base_url="https://q/"
        )
    )
    assert any("larger than max_file" in text for text in page.texts)
    assert not [link for link in page.links if "video" in link]


def test_artifacts_are_links_when_there_is_an_api_and_names_otherwise() -> None:
    one = Artifact(name="a b/<trace>.zip", content_type="x", size=1, sha256="0")
    reported = report(job("failed", attempt(2, "failed", artifacts=(one,)), job_id="j/1"))
    assert [link for link in Page(html.render(reported)).links if not link.startswith("#")] == []
    for base, expected in (("https://q/", "https://q"), ("../..", "../.."), ("", "")):
        found = Page(html.render(reported, base_url=base)).links
        assert (f"{expected}/jobs/j%2F1/artifacts/2/a%20b/%3Ctrace%3E.zip" in found) is (base != "")
    assert "javascript" not in html.render(reported, base_url="javascript:alert(1)")


def test_an_address_among_the_tags_is_a_link() -> None:
    tags = {"run_url": 'https://ci/1?a=1&b="', "bad": "javascript:alert(1)", "worse": "https://a b"}
    assert Page(html.render(report(job("passed"), tags=tags))).links == ['https://ci/1?a=1&b="']


def test_an_error_that_repeats_itself_is_shown_once() -> None:
    page = html.render(
        report(
            job(
                "failed",
                attempt(1, "failed", tried("pays", "failed", "failed")),
                attempt(2, "failed", tried("pays", "failed")),
            )
        )
    )
    assert page.count("<pre>") == 1
    assert "attempt 1 · try 2 · failed · 1.5 s the same again" in Page(page).text


def test_the_time_axis_covers_the_whole_run() -> None:
    ticks = re.findall(
        r'class="tick"[^>]*>([^<]*)<',
        html.render(report(job("failed", attempt(1, "failed"), attempt(2, "failed")))),
    )
    assert ticks == ["03:04:25", "+5 s", "+10 s", "+15 s", "+20 s", "+25 s", "+30 s"]


def test_the_timeline_leads_to_the_jobs_and_an_agent_with_two_slots_has_two_rows() -> None:
    page = html.render(
        report(
            job("passed", attempt(1, "passed")),
            job("passed", attempt(1, "passed")),
            job("passed", attempt(1, "passed", agent="mac-2")),
        )
    )
    found = Page(page)
    assert sorted(link[1:] for link in found.links) == sorted(
        one for one in found.ids if one.startswith("job-")
    )
    assert len(set(re.findall(r'<rect [^>]*y="(\d+)"', page))) == 3
    assert re.findall(r'<text class="agent"[^>]*>([^<]*)<', page) == ["mac-1", "mac-2"]


def test_the_timeline_marks_where_the_app_was_installed() -> None:
    cold, warm = attempt(1, "failed", warm=False), attempt(2, "passed", warm=True)
    drawn = html.render(report(job("passed", cold, warm)))
    (marks,) = re.findall(r'<path class="installed" d="([^"]*)"', drawn)
    assert marks.count("m") == 1
    assert [
        ", after an installation" in tip
        for tip in re.findall(r"<title>(tests[^<]*)</title>", drawn)
    ] == [True, False]
    assert 'class="installed"' not in html.render(report(job("passed", warm)))


def test_hostile_texts_are_texts() -> None:
    evil = "</title></style></pre><script>alert(1)</script><img src=x onerror=alert(1)>\"'&lt;\x00\x1b[31m\ud800"
    bad = attempt(
        1,
        "failed",
        tried(evil, "failed", message=evil),
        agent=evil,
        device=evil,
        reason=evil,
        artifacts=(Artifact(name=evil, content_type=evil, size=1, sha256=""),),
    )
    page = html.render(
        report(
            job("failed", bad, test=evil, target=evil, app_version_id=evil, job_id=evil),
            suite_id=evil,
            tags={evil: evil},
        ),
        base_url="http://q",
    )
    found = Page(page)
    assert "<script" not in page
    assert "<img" not in page
    assert "alert(1)</script><img src=x onerror=alert(1)>\"'&lt;[31m" in found.text


@given(any_reports)
def test_any_report_is_a_page_of_our_own_tags(reported: SuiteReport) -> None:
    page = html.render(reported, base_url="../..")
    Page(page)
    assert "<script>" not in page
    assert "\"'><b>" not in page
    assert page.encode()
