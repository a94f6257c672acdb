"""Which testcases a job comes to."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from hypothesis import given

from qgjet.domain.attempts import CONCLUSIVE
from qgjet.domain.events import Status, Verdict
from qgjet.reporting import ctrf, junit
from qgjet.reporting.cases import Result, cases_of
from qgjet.reporting.model import JobReport, SuiteReport
from reported import FILE, any_reports, attempt, job, report, tried


def told(reported: JobReport) -> list[tuple[str, str, list[int]]]:
    """(title, result, attempts of its failed tries)"""
    return [
        (case.title, case.result.value, [one.attempt for one in case.failures])
        for case in cases_of(reported)
    ]


def test_each_test_is_a_case() -> None:
    assert told(
        job("passed", attempt(1, "passed", tried("a", "passed"), tried("b", "skipped")))
    ) == [("a", "passed", []), ("b", "skipped", [])]


def test_a_job_without_tests_is_a_case() -> None:
    assert told(job("passed", attempt(1, "passed"))) == [(FILE, "passed", [])]
    assert told(job("failed", attempt(1, "failed"), attempt(2, "failed"))) == [
        (FILE, "failed", [1, 2])
    ]
    assert told(job("flaky", attempt(1, "timed_out"), attempt(2, "passed"))) == [
        (FILE, "passed", [1])
    ]


def test_tries_of_earlier_attempts_count_for_the_same_test() -> None:
    first = attempt(1, "failed", tried("a", "failed", "failed"), tried("b", "passed"))
    second = attempt(2, "passed", tried("a", "passed"), tried("b", "passed"))
    assert told(job("flaky", first, second)) == [("a", "passed", [1, 1]), ("b", "passed", [])]
    assert [case.flaky for case in cases_of(job("flaky", first, second))] == [True, False]


def test_a_test_that_recovered_is_flaky_though_another_failed() -> None:
    first = attempt(1, "failed", tried("a", "failed"), tried("b", "passed"))
    second = attempt(2, "failed", tried("a", "passed"), tried("b", "failed"))
    assert told(job("failed", first, second)) == [("a", "passed", [1]), ("b", "failed", [2])]


def test_an_attempt_that_says_nothing_about_the_app_does_not_make_a_test_flaky() -> None:
    lost = attempt(1, "infra_error", tried("a", "failed"), reason="session_lost")
    assert told(job("passed", lost, attempt(2, "passed", tried("a", "passed")))) == [
        ("a", "passed", [])
    ]


def test_the_last_attempt_that_says_something_decides() -> None:
    first = attempt(1, "failed", tried("a", "failed"), tried("b", "passed"))
    assert told(
        job(
            "timed_out",
            first,
            attempt(2, "timed_out", tried("a", "timed_out"), tried("b", "skipped")),
        )
    ) == [
        ("a", "failed", [1, 2]),
        ("b", "skipped", []),
    ]


@pytest.mark.parametrize("last", ["passed", "skipped", "failed"])
def test_a_test_that_failed_and_was_skipped_later_is_failed_with_its_first_text(last: str) -> None:
    others = [tried("b", last)] if last != "skipped" else []
    reported = job(
        "failed",
        attempt(1, "failed", tried("a", "failed")),
        attempt(2, last, tried("a", "skipped"), *others),
    )
    assert told(reported)[0] == ("a", "failed", [1])
    case = cases_of(reported)[0]
    assert (case.reason, case.message) == (
        "not_passed_again",
        "expected 3, got 2\nIt failed in attempt 1 and did not pass in attempt 2 (skipped).",
    )
    assert [one.status for one in case.tries] == ["failed", "skipped"]


def test_a_test_that_failed_and_is_absent_later_is_a_failed_case_behind_those_of_the_last_attempt() -> (
    None
):
    first = attempt(
        1,
        "failed",
        tried("a", "failed"),
        tried("b", "passed"),
        tried("c", "interrupted", message="cut off"),
    )
    reported = job(
        "failed", first, attempt(2, "infra_error"), attempt(3, "passed", tried("b", "passed"))
    )
    assert told(reported) == [("b", "passed", []), ("a", "failed", [1]), ("c", "failed", [1])]
    assert (
        cases_of(reported)[1].note
        == "It failed in attempt 1 and did not pass in attempt 3 (absent)."
    )


def test_a_test_that_passed_in_between_is_no_failure_of_a_job_whose_last_attempt_failed() -> None:
    attempts = (
        attempt(1, "failed", tried("a", "failed")),
        attempt(2, "failed", tried("a", "passed"), tried("b", "failed")),
    )
    assert told(job("failed", *attempts, attempt(3, "failed", tried("b", "failed")))) == [
        ("b", "failed", [2, 3])
    ]


def test_without_the_earlier_attempts_the_job_tells_what_did_not_pass() -> None:
    reported = job(
        "failed",
        attempt(2, "passed", tried("b", "passed")),
        reason="not_passed_again",
        message="a: failed in attempt 1",
    )
    assert told(reported) == [(FILE, "failed", [0]), ("b", "passed", [])]
    assert (cases_of(reported)[0].reason, cases_of(reported)[0].message) == (
        "not_passed_again",
        "a: failed in attempt 1",
    )


def test_what_tests_do_not_explain_is_a_case_of_the_job() -> None:
    deadline = attempt(
        1, "timed_out", tried("a", "passed"), reason="deadline", message="stopped after 600 s"
    )
    failed = job("timed_out", deadline)
    assert told(failed) == [(FILE, "failed", [1]), ("a", "passed", [])]
    assert (cases_of(failed)[0].reason, cases_of(failed)[0].message) == (
        "deadline",
        "stopped after 600 s",
    )
    assert told(job("flaky", deadline, attempt(2, "passed", tried("a", "passed")))) == [
        (FILE, "passed", [1]),
        ("a", "passed", []),
    ]


def test_a_failure_that_a_test_expects_is_none() -> None:
    assert told(job("passed", attempt(1, "passed", tried("a", "failed", outcome="passed")))) == [
        ("a", "passed", [])
    ]


def test_a_failure_whose_tries_were_left_out_is_still_one() -> None:
    bare = tried("a", "failed", tries=())
    assert told(job("failed", attempt(1, "failed", bare))) == [("a", "failed", [1])]
    assert told(job("flaky", attempt(1, "flaky", tried("a", "failed", "passed", tries=())))) == [
        ("a", "passed", [1])
    ]


@pytest.mark.parametrize(
    ("reported", "reason", "message"),
    [
        (
            job("infra_error", attempt(1, "infra_error", reason="network", message="reset")),
            "network",
            "No verdict, infrastructure error: reset",
        ),
        (job("config_error", reason="no_tests"), "no_tests", "No verdict, configuration error"),
        (job("cancelled", status=Status.CANCELLED), "cancelled", "Cancelled"),
        (job(None, status=Status.QUEUED), "live", "Not ended yet"),
        (
            job(None, status=None, reason="refused", message="it is live"),
            "refused",
            "Not accepted by the queue: it is live",
        ),
    ],
)
def test_a_job_that_says_nothing_about_the_app_is_one_error(
    reported: JobReport, reason: str, message: str
) -> None:
    (case,) = cases_of(reported)
    assert (case.title, case.result, case.reason, case.message) == (
        FILE,
        Result.ERROR,
        reason,
        message,
    )


def test_an_error_tells_what_failed_in_it() -> None:
    (case,) = cases_of(
        job(
            "infra_error",
            attempt(
                1,
                "infra_error",
                tried("a", "failed", message="no device"),
                reason="device_unavailable",
            ),
        )
    )
    assert case.message.endswith("a: tests/cart.spec.js:12\nno device")


@given(any_reports)
def test_every_job_is_told_and_no_verdict_is_lost(reported: SuiteReport) -> None:
    for one in reported.jobs:
        cases = cases_of(one)
        results = {case.result for case in cases}
        assert cases
        conclusive = [a for a in one.attempts if a.verdict in CONCLUSIVE]
        assert any(case.of_job for case in cases) or len(cases) - sum(
            case.note.endswith("(absent).") for case in cases
        ) == len(conclusive[-1].tests)
        if one.verdict in (Verdict.FAILED, Verdict.TIMED_OUT):
            assert Result.FAILED in results
            assert all(case.failures for case in cases if case.result is Result.FAILED)
        if one.verdict is Verdict.FLAKY and results == {Result.PASSED}:
            assert any(case.flaky for case in cases)
        if one.verdict in (None, Verdict.INFRA_ERROR, Verdict.CONFIG_ERROR, Verdict.CANCELLED):
            assert results == {Result.ERROR}


def test_a_suite_with_missing_jobs_is_cancelled_at_best() -> None:
    assert report(job("passed"), missing=3).verdict is Verdict.CANCELLED
    assert report(job("passed"), job("failed"), missing=3).verdict is Verdict.FAILED
    assert report(missing=3).verdict is Verdict.CANCELLED


@pytest.mark.parametrize("absent", [{"missing": 3}, {"to_come": 3}])
def test_no_report_of_an_incomplete_suite_is_green(absent: dict[str, int]) -> None:
    incomplete = report(job("passed"), **absent)
    assert ElementTree.fromstring(junit.render(incomplete)).get("errors") == "1"
    found = json.loads(ctrf.render(incomplete))["results"]
    assert found["summary"]["tests"] == found["summary"]["passed"] + 1
    assert any("3 jobs" in test["name"] for test in found["tests"])


def test_there_is_no_verdict_while_jobs_are_to_come() -> None:
    assert report(job("passed")).verdict is Verdict.PASSED
    assert report(job("passed"), to_come=1).verdict is None
