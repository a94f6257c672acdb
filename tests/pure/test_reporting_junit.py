"""JUnit XML, read back by two others: expat (the standard library) and junitparser, which stands on
libxml2.
"""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import junitparser
from hypothesis import given

from qgjet.reporting import junit
from qgjet.reporting.cases import cases_of
from qgjet.reporting.model import SuiteReport
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

ORDER = ["failure", "rerunFailure", "flakyFailure", "skipped", "error", "system-out"]
"""Surefire's schema is a sequence: these elements of a testcase, in this order."""
OUTCOMES = {"failures": "failure", "errors": "error", "skipped": "skipped"}


def parsed(reported: SuiteReport) -> ElementTree.Element:
    root = ElementTree.fromstring(junit.render(reported))
    check(root)
    return root


def check(root: ElementTree.Element) -> None:
    """What Surefire's schema demands, and that the counts are those of the content."""
    assert root.tag == "testsuites"
    for suite in root:
        assert suite.tag == "testsuite"
        assert {"name", "tests", "failures", "errors", "skipped"} <= suite.attrib.keys()
        assert [child.tag for child in suite] == ["properties"] + ["testcase"] * (len(suite) - 1)
        assert all(
            set(one.attrib) == {"name", "value"} and one.tag == "property" for one in suite[0]
        )
        for case in suite.iter("testcase"):
            check_case(case)
    for element in (root, *root):
        cases = list(element.iter("testcase"))
        assert element.get("tests") == str(len(cases))
        for attribute, tag in OUTCOMES.items():
            assert element.get(attribute) == str(sum(case.find(tag) is not None for case in cases))
        assert abs(
            float(element.attrib["time"]) - sum(float(case.attrib["time"]) for case in cases)
        ) < 0.001 * (len(cases) + 1)


def check_case(case: ElementTree.Element) -> None:
    assert set(case.attrib) == {"name", "classname", "time", "file"}
    assert re.fullmatch(r"\d+\.\d{3}", case.attrib["time"])
    tags = [child.tag for child in case]
    assert tags == sorted(tags, key=ORDER.index)
    assert sum(tags.count(tag) for tag in ("failure", "error", "skipped")) <= 1
    assert "failure" in tags or "rerunFailure" not in tags
    for child in case:
        if child.tag in ("failure", "error", "rerunFailure", "flakyFailure"):
            assert child.attrib["type"]
        if child.tag in ("rerunFailure", "flakyFailure"):
            assert [one.tag for one in child] == ["stackTrace", "system-out"]


def case(reported: SuiteReport) -> ElementTree.Element:
    (found,) = parsed(reported).iter("testcase")
    return found


def test_each_target_and_app_version_is_a_testsuite() -> None:
    root = parsed(
        report(
            job("passed"),
            job("passed", target="device"),
            job("passed", app_version_id="2"),
            job("passed"),
        )
    )
    assert [(suite.get("name"), suite.get("tests")) for suite in root] == [
        ("emulator 1.0.0", "2"),
        ("device 1.0.0", "1"),
        ("emulator 2", "1"),
    ]
    assert {one.get("name"): one.get("value") for one in root[0][0]} == {
        "qgjet.suite_id": "suite-1",
        "org_id": "acme",
        "app_version_id": "1.0.0",
        "target": "emulator",
        "tag.commit": "abc123",
        "tag.branch": "main",
    }


def test_a_test_has_its_file_and_full_title() -> None:
    passed = case(report(job("passed", attempt(1, "passed", tried("cart > adds", "passed")))))
    assert passed.attrib == {
        "name": "cart > adds",
        "classname": FILE,
        "file": FILE,
        "time": "1.500",
    }
    assert [child.tag for child in passed] == ["system-out"]


def test_first_failed_then_passed_is_a_flaky_failure_within_an_attempt_and_over_attempts() -> None:
    within = case(report(job("flaky", attempt(1, "flaky", tried("a", "failed", "passed")))))
    over = case(
        report(
            job(
                "flaky",
                attempt(1, "failed", tried("a", "failed")),
                attempt(2, "passed", tried("a", "passed")),
            )
        )
    )
    for one in (within, over):
        flaky = one.find("flakyFailure")
        assert flaky is not None
        assert flaky.attrib == {"message": "expected 3, got 2", "type": "failed"}
        assert flaky.findtext("stackTrace") == f"{FILE}:12\nexpected 3, got 2"
    assert over.findtext("flakyFailure/system-out") == "attempt 1"


def test_a_test_that_failed_for_good_has_its_further_failures_as_reruns() -> None:
    failed = case(
        report(
            job(
                "failed",
                attempt(1, "failed", tried("a", "failed", "timed_out")),
                attempt(2, "failed", tried("a", "failed")),
            )
        )
    )
    assert [(child.tag, child.get("type")) for child in failed] == [
        ("failure", "failed"),
        ("rerunFailure", "timed_out"),
        ("rerunFailure", "failed"),
        ("system-out", None),
    ]
    assert failed.findtext("failure") == f"{FILE}:12\nexpected 3, got 2"


def test_a_job_without_a_statement_is_an_error_with_its_reason() -> None:
    error = case(
        report(job("infra_error", attempt(1, "infra_error", reason="session_lost", message="gone")))
    ).find("error")
    assert error is not None
    assert error.attrib == {
        "message": "session_lost: No verdict, infrastructure error: gone",
        "type": "session_lost",
    }


def test_the_story_of_a_job_is_in_system_out() -> None:
    story = mixed().jobs[1]
    text = case(report(story)).findtext("system-out")
    assert text is not None
    assert text.splitlines() == [
        "job job-1: failed",
        "attempt 1: failed (tests_failed) on agent mac-1, device pixel, 10.0 s",
        "  artifact stdout.log (text/plain, 1234 bytes)",
        "attempt 2: failed (tests_failed) on agent mac-1, device pixel, 10.0 s",
    ]


def test_tests_that_did_not_pass_again_are_failures_with_their_text_though_the_last_attempt_passed() -> (
    None
):
    root = parsed(report(not_passed_again()))
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == ("3", "2", "0")
    failures = {case.get("name"): case.find("failure") for case in root.iter("testcase")}
    assert {
        name: failure.get("message") for name, failure in failures.items() if failure is not None
    } == {"pays": "expected 3, got 2", "ships": "no parcel"}
    assert (
        root.findtext(".//testcase[@name='ships']/failure")
        == f"{FILE}:12\nno parcel\nIt failed in attempt 1 and did not pass in attempt 2 (absent)."
    )
    story = root.findtext(".//testcase[@name='pays']/system-out") or ""
    assert story.startswith(
        "job job-1: failed (not_passed_again): pays: failed in attempt 1 and did not pass in attempt 2 (skipped)"
    )


def test_a_job_that_passed_on_a_retry_keeps_the_text_of_its_first_failure() -> None:
    passed = case(report(flaky_by_retry()))
    assert passed.find("failure") is None
    flaky = passed.find("flakyFailure")
    assert flaky is not None
    assert flaky.get("message") == "expected 3, got 2"
    assert (passed.findtext("system-out") or "").startswith(
        "job job-1: flaky (flaky): pays: expected 3, got 2\n"
    )


def test_junitparser_reads_what_was_written() -> None:
    found = junitparser.JUnitXml.fromstring(junit.render(mixed()))
    assert (found.tests, found.failures, found.errors, found.skipped) == (13, 2, 5, 1)
    results = [type(one).__name__ for suite in found for case in suite for one in case.result]
    assert (results.count("Failure"), results.count("Error"), results.count("Skipped")) == (2, 5, 1)


def names(cases: Any) -> list[str]:
    return [re.sub("\\s", " ", one) for one in cases]


@given(any_reports)
def test_any_report_is_well_formed_and_its_counts_are_those_of_its_content(
    reported: SuiteReport,
) -> None:
    root = parsed(reported)
    assert len(list(root.iter("testcase"))) == sum(len(cases_of(one)) for one in reported.entries)
    second = junitparser.JUnitXml.fromstring(junit.render(reported))
    assert second.tests == int(root.attrib["tests"])
    assert names(one.name for suite in second for one in suite) == names(
        one.attrib["name"] for one in root.iter("testcase")
    )
