"""CTRF, the common test report format (https://ctrf.io, specification 1.0.0). Pure.

Durations and times are whole milliseconds. What CTRF has no field for is in the `extra` of a test:
job id, target, app version, verdict, reason, attempts.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from qgjet.domain.attempts import AttemptRecord
from qgjet.domain.events import ACTIVE
from qgjet.reporting.cases import Case, CaseTry, Result, cases_of
from qgjet.reporting.model import JobReport, SuiteReport
from qgjet.reporting.text import artifact_url, json_bytes
from qgjet.version import __version__

SPEC_VERSION = "1.0.0"
_STATUSES = {
    Result.PASSED: "passed",
    Result.FAILED: "failed",
    Result.SKIPPED: "skipped",
    Result.ERROR: "other",
}
_TRIES = {
    "passed": "passed",
    "flaky": "passed",
    "failed": "failed",
    "timed_out": "failed",
    "skipped": "skipped",
}
_ENVIRONMENT = {
    "commit": "commit",
    "branch": "branchName",
    "repository": "repositoryName",
    "run_id": "buildId",
    "run_url": "buildUrl",
}
"""Tags that CTRF has fields for."""


def render(report: SuiteReport, *, base_url: str = "") -> bytes:
    """`base_url` is the API's, for the paths of artifacts; without it they are relative to the API."""
    cases = [case for job in report.entries for case in cases_of(job)]
    artifacts = {job.job_id: _attachments(job, base_url) for job in report.entries}
    results = {
        "tool": {"name": "qgjet", "version": __version__},
        "summary": _summary(report, cases),
        "tests": [_test(case, artifacts[case.job.job_id]) for case in cases],
        "environment": _environment(report),
    }
    extra = {"suite_id": report.suite_id, "verdict": report.verdict}
    return json_bytes(
        {
            "reportFormat": "CTRF",
            "specVersion": SPEC_VERSION,
            "generatedBy": "qgjet",
            "results": results,
            "extra": extra,
        }
    )


def _summary(report: SuiteReport, cases: list[Case]) -> dict[str, Any]:
    statuses = [_status(case) for case in cases]
    times = [at for job in report.jobs for at in _times(job)]
    start, stop = (_ms(min(times)), _ms(max(times))) if times else (0, 0)
    return {
        "tests": len(cases),
        **{
            status: statuses.count(status)
            for status in ("passed", "failed", "pending", "skipped", "other")
        },
        "flaky": sum(case.flaky for case in cases),
        "suites": len({(job.org_id, job.target, job.app_version_id) for job in report.jobs}),
        "start": start,
        "stop": stop,
        "duration": stop - start,
    }


def _times(job: JobReport) -> list[datetime]:
    times = [
        job.submitted_at,
        job.finished_at,
        *(at for attempt in job.attempts for at in (attempt.started_at, attempt.ended_at)),
    ]
    return [at for at in times if at is not None]


def _environment(report: SuiteReport) -> dict[str, Any]:
    versions = {job.app_version_id for job in report.jobs}
    known: dict[str, Any] = {
        _ENVIRONMENT[key]: value for key, value in report.tags.items() if key in _ENVIRONMENT
    }
    return (
        known
        | ({"appVersion": versions.pop()} if len(versions) == 1 else {})
        | {"extra": {"tags": report.tags}}
    )


def _status(case: Case) -> str:
    return (
        "pending"
        if case.result is Result.ERROR and case.job.status in ACTIVE
        else _STATUSES[case.result]
    )


def _test(case: Case, attachments: list[dict[str, str]]) -> dict[str, Any]:
    job = case.job
    test: dict[str, Any] = {
        "name": case.title or "test",
        "status": _status(case),
        "duration": _whole_ms(case.duration_s),
        "suite": [job.target, job.app_version_id, case.file],
        "filePath": case.file,
        "rawStatus": case.reason or ("flaky" if case.flaky else case.result.value),
        "retries": max(len(case.tries) - 1, 0),
        "flaky": case.flaky,
        "extra": _extra(job) | {"stands_for_job": case.of_job},
    }
    if case.line > 0:
        test["line"] = case.line
    message = case.failures[0].message if case.flaky else case.message
    if message:
        test["message"] = message
    if case.failures:
        test["trace"] = case.failures[-1].text
    if len(case.tries) > 1:
        test["retryAttempts"] = [_retry(number, one) for number, one in enumerate(case.tries, 1)]
    if job.last is not None:
        test |= {"device": job.last.device, "threadId": job.last.agent}
    if (
        case.of_job or case.result is not Result.PASSED or case.flaky
    ):  # too much for each of a thousand tests that passed
        attempts = [_attempt(attempt) for attempt in job.attempts]
        test["extra"] |= {
            "job_reason": job.reason,
            "job_message": job.message,
            "job_attempts": attempts,
            "tags": job.tags,
        }
        test |= {"attachments": attachments} if attachments else {}
    return test


def _retry(number: int, one: CaseTry) -> dict[str, Any]:
    retry: dict[str, Any] = {
        "attempt": number,
        "status": "failed" if one.failed else _TRIES.get(one.status, "other"),
        "duration": _whole_ms(one.duration_s),
        "extra": {"job_attempt": one.attempt, "status": one.status},
    }
    return retry | ({"message": one.message, "trace": one.text} if one.failed else {})


def _extra(job: JobReport) -> dict[str, Any]:
    return {
        "job_id": job.job_id,
        "org_id": job.org_id,
        "app_version_id": job.app_version_id,
        "target": job.target,
        "job_file": job.test,
        "job_status": job.status,
        "job_verdict": job.verdict,
    }


def _attempt(attempt: AttemptRecord) -> dict[str, Any]:
    return {
        "attempt": attempt.attempt,
        "verdict": attempt.verdict,
        "reason": attempt.reason,
        "agent": attempt.agent,
        "device": attempt.device,
    }


def _attachments(job: JobReport, base_url: str) -> list[dict[str, str]]:
    return [
        {
            "name": f"attempt {attempt.attempt}: {one.name}",
            "contentType": one.content_type,
            "path": _path(base_url, job.job_id, attempt.attempt, one.name),
        }
        for attempt in job.attempts
        for one in attempt.artifacts
    ]


def _path(base_url: str, job_id: str, attempt: int, name: str) -> str:
    return artifact_url(base_url, job_id, attempt, name).removeprefix("" if base_url else "/")


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def _whole_ms(seconds: float) -> int:
    return round(seconds * 1000)
