"""The report as a document of JSON: everything that is known, under names that stay."""

from __future__ import annotations

import msgspec
from hypothesis import given

from qgjet.reporting import document
from qgjet.reporting.model import SuiteReport
from reported import any_reports, attempt, job, mixed, report
from strategies import values

NAMES = {
    "schema_version", "suite_id", "verdict", "exit_code", "total", "counts", "no_verdict", "to_come", "missing",
    "tags", "began_at", "ended_at", "duration_s", "jobs",
}  # fmt: skip
JOB_NAMES = {
    "job_id", "org_id", "app_version_id", "target", "test", "status", "verdict", "reason", "message", "submitted_at", "finished_at", "duration_s", "attached",
    "priority", "tags", "attempts",
}  # fmt: skip


def test_its_names_are_those_of_the_documentation() -> None:
    found = msgspec.json.decode(document.render(mixed(), exit_code=1))
    assert (found.keys(), found["jobs"][0].keys()) == (NAMES, JOB_NAMES)
    assert (
        found["schema_version"],
        found["verdict"],
        found["exit_code"],
        found["total"],
        found["no_verdict"],
    ) == (1, None, 1, 11, 2)
    assert found["counts"] == {
        "passed": 1, "flaky": 2, "failed": 1, "timed_out": 1, "infra_error": 1, "config_error": 1, "cancelled": 1, "skipped": 1,
    }  # fmt: skip


def test_durations_are_seconds() -> None:
    found = document.read(
        document.render(report(job("failed", attempt(1, "failed"), attempt(2, "failed"))))
    )
    assert (found.duration_s, found.jobs[0].duration_s, found.verdict, found.exit_code) == (
        50.0,
        20.0,
        "failed",
        None,
    )


plain_reports = values(SuiteReport)


@given(plain_reports)
def test_it_can_be_read_back(reported: SuiteReport) -> None:
    assert document.read(document.render(reported, exit_code=3)) == document.document_of(
        reported, 3
    )


@given(any_reports)
def test_any_report_can_be_written_and_read(reported: SuiteReport) -> None:
    found = document.read(document.render(reported))
    assert [one.verdict for one in found.jobs] == [one.verdict for one in reported.jobs]
