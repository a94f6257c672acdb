"""CTRF: what its schema demands, and what it says of retries."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given

from qgjet.reporting import ctrf
from qgjet.reporting.model import JobReport, SuiteReport
from reported import (
    FILE,
    any_reports,
    attempt,
    flaky_by_retry,
    job,
    mixed,
    not_passed_again,
    report,
    tried,
)

Json = dict[str, Any]
STATUSES = ("passed", "failed", "pending", "skipped", "other")
TEST = {
    "name": str,
    "status": str,
    "duration": int,
    "suite": list,
    "message": str,
    "trace": str,
    "line": int,
    "rawStatus": str,
    "filePath": str,
    "retries": int,
    "retryAttempts": list,
    "flaky": bool,
    "device": str,
    "threadId": str,
    "attachments": list,
    "extra": dict,
}
"""Fields of a test that the schema of CTRF 1.0.0 has, with their types; it allows no others."""


def rendered(reported: SuiteReport, **options: Any) -> Json:
    document: Json = msgspec.json.decode(ctrf.render(reported, **options))
    check(document)
    return document


def check(document: Json) -> None:
    assert (document["reportFormat"], document["specVersion"]) == ("CTRF", "1.0.0")
    assert document.keys() == {"reportFormat", "specVersion", "generatedBy", "results", "extra"}
    results = document["results"]
    assert results.keys() == {"tool", "summary", "tests", "environment"}
    for test in results["tests"]:
        assert {"name", "status", "duration"} <= test.keys() <= TEST.keys()
        assert all(type(value) is TEST[key] for key, value in test.items())
        assert test["name"]
        assert test["status"] in STATUSES
        for number, retry in enumerate(test.get("retryAttempts", ()), 1):
            assert retry.keys() <= {"attempt", "status", "duration", "message", "trace", "extra"}
            assert (retry["attempt"], retry["status"] in STATUSES) == (number, True)
        assert all(
            one.keys() == {"name", "contentType", "path"} for one in test.get("attachments", ())
        )
    summary = results["summary"]
    found = [test["status"] for test in results["tests"]]
    assert {status: summary[status] for status in STATUSES} == {
        status: found.count(status) for status in STATUSES
    }
    assert (summary["tests"], summary["flaky"]) == (
        len(found),
        sum(test["flaky"] for test in results["tests"]),
    )
    assert all(type(summary[key]) is int for key in ("start", "stop", "duration", "suites"))


def only(*jobs: JobReport, **options: Any) -> Json:
    (test,) = rendered(report(*jobs), **options)["results"]["tests"]
    found: Json = test
    return found


def test_a_flaky_test_has_its_retries() -> None:
    test = only(
        job(
            "flaky",
            attempt(1, "failed", tried("a", "failed")),
            attempt(2, "passed", tried("a", "passed")),
        )
    )
    assert (
        test["name"],
        test["status"],
        test["flaky"],
        test["retries"],
        test["duration"],
        test["filePath"],
    ) == ("a", "passed", True, 1, 3000, FILE)
    assert test["suite"] == ["emulator", "1.0.0", FILE]
    assert [
        (one["attempt"], one["status"], one.get("message")) for one in test["retryAttempts"]
    ] == [(1, "failed", "expected 3, got 2"), (2, "passed", None)]
    assert (
        test["extra"]["job_id"],
        test["extra"]["target"],
        test["extra"]["app_version_id"],
        test["extra"]["job_verdict"],
    ) == (
        "job-1",
        "emulator",
        "1.0.0",
        "flaky",
    )


def test_a_failed_test_has_message_and_trace() -> None:
    test = only(job("failed", attempt(1, "failed", tried("a", "failed"))))
    assert (test["status"], test["message"], test["trace"]) == (
        "failed",
        "expected 3, got 2",
        f"{FILE}:12\nexpected 3, got 2",
    )


def test_a_job_that_passed_on_a_retry_keeps_the_text_of_its_first_failure() -> None:
    test = only(flaky_by_retry())
    assert (test["status"], test["flaky"], test["message"]) == ("passed", True, "expected 3, got 2")
    assert (test["extra"]["job_reason"], test["extra"]["job_message"]) == (
        "flaky",
        "pays: expected 3, got 2",
    )


def test_tests_that_did_not_pass_again_are_failed_though_the_last_attempt_passed() -> None:
    results = rendered(report(not_passed_again()))["results"]
    assert (results["summary"]["failed"], results["summary"]["passed"]) == (2, 1)
    assert [(test["name"], test["status"], test["rawStatus"]) for test in results["tests"]] == [
        ("pays", "failed", "not_passed_again"),
        ("adds", "passed", "passed"),
        ("ships", "failed", "not_passed_again"),
    ]
    assert (
        results["tests"][0]["message"]
        == "expected 3, got 2\nIt failed in attempt 1 and did not pass in attempt 2 (skipped)."
    )


@pytest.mark.parametrize(
    ("number", "status"),
    list(
        enumerate(
            [
                "passed",
                "failed",
                "passed",
                "passed",
                "failed",
                "other",
                "other",
                "other",
                "skipped",
                "pending",
                "other",
            ]
        )
    ),
)
def test_each_verdict_has_its_status(number: int, status: str) -> None:
    tests = rendered(report(mixed().jobs[number]))["results"]["tests"]
    assert tests[0]["status"] == status


def test_artifacts_are_where_the_api_has_them() -> None:
    reported = mixed().jobs[1]
    assert [one["path"] for one in only(reported)["attachments"]] == [
        "jobs/job-1/artifacts/1/stdout.log"
    ]
    assert [one["path"] for one in only(reported, base_url="https://q/x")["attachments"]] == [
        "https://q/x/jobs/job-1/artifacts/1/stdout.log"
    ]


def test_what_is_known_of_the_run_is_its_environment() -> None:
    environment = rendered(mixed())["results"]["environment"]
    assert (environment["commit"], environment["branchName"], environment["appVersion"]) == (
        "abc123",
        "main",
        "1.0.0",
    )


@given(any_reports)
def test_any_report_fits_the_schema(reported: SuiteReport) -> None:
    rendered(reported)
