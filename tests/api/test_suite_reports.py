"""The reports of a suite over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import junitparser
import msgspec
import pytest

from qgjet.domain.events import TestError, Verdict
from qgjet.reporting import document

Json = dict[str, Any]
SHARED: Json = {"org_id": "qualgent", "app_version_id": "xyz123", "target": "emulator"}
A, B = "tests/a.spec.js", "tests/b.spec.js"
FAILED: Json = {
    "reason": "tests_failed",
    "message": "1 of 1 failed",
    "tests": [
        {
            "id": "1",
            "title": "pays <b>",
            "outcome": "failed",
            "tries": [
                {
                    "status": "failed",
                    "duration_s": 1.5,
                    "error": {"message": "expected 3", "file": B, "line": 12},
                }
            ],
        }
    ],
    "artifacts": [
        {"name": "trace 1.zip", "content_type": "application/zip", "size": 5, "sha256": "0" * 64}
    ],
}
KINDS = ("junit.xml", "ctrf.json", "report.json", "report.html")


@pytest.fixture
async def seq(api: httpx.AsyncClient, agent: Any) -> int:
    """A suite `s 1` with a passed and a failed job; the sequence that tells all of it."""
    await api.post(
        "/suites",
        json={**SHARED, "tests": [A, B], "suite_id": "s 1", "max_retries": 1, "tags": {"pr": "7"}},
    )
    await agent.run(Verdict.PASSED, test_path=A)
    await agent.run(Verdict.FAILED, test_path=B)
    await agent.start(test_path=B)
    last: int = await agent.end(Verdict.FAILED, test_path=B, outcome=FAILED)
    return last


async def test_junit_xml(api: httpx.AsyncClient, seq: int) -> None:
    answer = await api.get("/suites/s%201/junit.xml", params={"min_seq": seq})
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (
        200,
        "application/xml",
    )
    found = junitparser.JUnitXml.fromstring(answer.content)
    assert (found.name, found.tests, found.failures, found.errors) == ("s 1", 2, 1, 0)
    (suite,) = found
    assert [(case.name, case.classname) for case in suite] == [(A, A), ("pays <b>", B)]


async def test_ctrf(api: httpx.AsyncClient, seq: int) -> None:
    answer = await api.get("/suites/s%201/ctrf.json", params={"min_seq": seq})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    results = answer.json()["results"]
    assert (
        results["tool"]["name"],
        results["summary"]["passed"],
        results["summary"]["failed"],
    ) == ("qgjet", 1, 1)
    failed = results["tests"][1]
    path = failed["attachments"][0]["path"]
    assert path == f"jobs/{failed['extra']['job_id']}/artifacts/2/trace%201.zip"


async def test_the_document(api: httpx.AsyncClient, seq: int) -> None:
    answer = await api.get("/suites/s%201/report.json", params={"min_seq": seq})
    assert answer.headers["content-type"] == "application/json"
    found = document.read(answer.content)
    assert (found.suite_id, found.verdict, found.exit_code, found.total, found.tags["pr"]) == (
        "s 1",
        "failed",
        None,
        2,
        "7",
    )
    assert [(job.test, [one.verdict for one in job.attempts]) for job in found.jobs] == [
        (A, ["passed"]),
        (B, ["failed", "failed"]),
    ]
    assert found.jobs[1].attempts[1].tests[0].tries[0].error == msgspec.convert(
        FAILED["tests"][0]["tries"][0]["error"], TestError
    )


async def test_the_page_may_load_and_run_nothing(api: httpx.AsyncClient, seq: int) -> None:
    answer = await api.get("/suites/s%201/report.html", params={"min_seq": seq})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith(
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    )
    assert "pays &lt;b&gt;" in answer.text
    job_id = (await api.get("/suites/s%201")).json()["jobs"][0]["job_id"]
    assert f'href="../../jobs/{job_id}/artifacts/2/trace%201.zip"' in answer.text


@pytest.fixture
async def retried(api: httpx.AsyncClient, agent: Any) -> int:
    """A suite `again`: in A the test that failed passes on the retry, in B it is absent."""
    await api.post(
        "/suites", json={**SHARED, "tests": [A, B], "suite_id": "again", "max_retries": 1}
    )
    last = 0
    for test, tests in (
        (A, [{"id": "1", "title": "pays <b>", "outcome": "passed"}]),
        (B, [{"id": "2", "title": "adds", "outcome": "passed"}]),
    ):
        await agent.start(test_path=test)
        await agent.end(
            Verdict.FAILED, test_path=test, outcome={**FAILED, "message": "pays <b>: expected 3"}
        )
        await agent.start(test_path=test)
        last = await agent.end(Verdict.PASSED, test_path=test, outcome={"tests": tests})
    return last


NOT_PASSED = "pays <b>: failed in attempt 1 and did not pass in attempt 2 (absent): expected 3"


async def test_verdicts_over_attempts_are_in_every_report_and_in_the_job(
    api: httpx.AsyncClient, retried: int
) -> None:
    found = document.read(
        (await api.get("/suites/again/report.json", params={"min_seq": retried})).content
    )
    assert (found.verdict, [(job.verdict, job.reason, job.message) for job in found.jobs]) == (
        "failed",
        [("flaky", "flaky", "pays <b>: expected 3"), ("failed", "not_passed_again", NOT_PASSED)],
    )
    job = (await api.get(f"/jobs/{found.jobs[1].job_id}")).json()
    assert (job["reason"], job["message"], job["attempts"][1]["reason"]) == (
        "not_passed_again",
        NOT_PASSED,
        "",
    )
    junit = junitparser.JUnitXml.fromstring((await api.get("/suites/again/junit.xml")).content)
    assert (junit.tests, junit.failures) == (3, 1)
    summary = (await api.get("/suites/again/ctrf.json")).json()["results"]["summary"]
    assert (summary["passed"], summary["failed"], summary["flaky"]) == (2, 1, 1)
    page = (await api.get("/suites/again/report.html")).text
    assert page.count("expected 3") == 3, (
        "in both failed tries, and in the reason of the failed job"
    )


async def test_the_page_of_a_suite_shows_the_first_failure_of_jobs_that_earlier_attempts_decide(
    api: httpx.AsyncClient, retried: int
) -> None:
    await api.get("/suites/again", params={"min_seq": retried})
    page = (await api.get("/ui/suites/again", headers={"accept": "text/html"})).text
    bad, flaky = page.partition("Needs attention")[2].partition("h-flaky")[::2]
    assert "pays &lt;b&gt;" in bad
    assert "It failed in attempt 1 and did not pass in attempt 2 (absent).\nexpected 3" in bad
    assert "pays &lt;b&gt;: expected 3" in flaky.partition("</section>")[0]


async def test_a_live_suite_has_reports_without_a_verdict(
    api: httpx.AsyncClient, submit: Any
) -> None:
    await submit(suite_id="live")
    found = document.read((await api.get("/suites/live/report.json")).content)
    assert (found.verdict, found.no_verdict, found.ended_at) == (None, 1, None)
    assert 'errors="1"' in (await api.get("/suites/live/junit.xml")).text


async def test_all_pages_of_a_large_suite_are_in_them(api: httpx.AsyncClient) -> None:
    tests = [f"tests/{number}.spec.js" for number in range(501)]
    seq = (await api.post("/suites", json={**SHARED, "tests": tests, "suite_id": "large"})).json()[
        "seq"
    ]
    found = document.read(
        (await api.get("/suites/large/report.json", params={"min_seq": seq})).content
    )
    assert sorted(job.test for job in found.jobs) == sorted(tests)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_not_there_is_a_404_and_no_browser_guesses(
    api: httpx.AsyncClient, seq: int, kind: str
) -> None:
    answer = await api.get(f"/suites/nope/{kind}", params={"min_seq": seq})
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:qgjet:problem:unknown-suite")
    assert (await api.get(f"/suites/s%201/{kind}", params={"org_id": "other"})).status_code == 404
    assert (await api.get(f"/suites/s%201/{kind}")).headers["x-content-type-options"] == "nosniff"


async def test_they_are_in_the_schema(api: httpx.AsyncClient) -> None:
    paths = (await api.get("/docs/openapi.json")).json()["paths"]
    described = {
        kind: paths[f"/v1/suites/{{suite_id}}/{kind}"]["get"]["responses"] for kind in KINDS
    }
    assert {kind: next(iter(answers["200"]["content"])) for kind, answers in described.items()} == {
        "junit.xml": "application/xml",
        "ctrf.json": "application/json",
        "report.json": "application/json",
        "report.html": "text/html",
    }
    assert all(answers.keys() >= {"400", "404", "503"} for answers in described.values())
