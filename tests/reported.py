"""Suites that have been run, for the tests of reports: a few lines per job, and any report at all
for Hypothesis.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import strategies as st

from factories import NOW
from qgjet.domain.attempts import AttemptRecord
from qgjet.domain.events import Artifact, Status, TestError, TestResult, Try, Verdict
from qgjet.reporting.model import JobReport, SuiteReport
from strategies import hostile_text, values

FILE = "tests/cart.spec.js"


def tried(
    title: str, *statuses: str, outcome: str = "", message: str = "expected 3, got 2", **fields: Any
) -> TestResult:
    """A test with a try per status; the last one is the outcome, unless it says otherwise."""
    tries = tuple(
        Try(
            status=one,
            duration_s=1.5,
            error=TestError(message=message, file=FILE, line=12) if one in BAD else None,
        )
        for one in statuses
    )
    flaky = statuses[-1] == "passed" and len(statuses) > 1
    return TestResult(
        **{
            "id": title,
            "title": title,
            "file": FILE,
            "line": 10,
            "outcome": outcome or ("flaky" if flaky else statuses[-1]),
            "tries": tries,
        }
        | fields
    )


BAD = ("failed", "timed_out")


def attempt(number: int, verdict: str, *tests: TestResult, **fields: Any) -> AttemptRecord:
    start = NOW + timedelta(seconds=20 * number)
    given: dict[str, Any] = {
        "attempt": number,
        "agent": "mac-1",
        "device": "pixel",
        "warm": False,
        "started_at": start,
        "ended_at": start + timedelta(seconds=10),
        "ended_by": "attempt_ended",
        "verdict": Verdict(verdict),
        "reason": "tests_failed" if verdict == "failed" else "",
        "duration_s": 10.0,
        "tests": tests,
    }
    return AttemptRecord(**given | fields)


def job(verdict: str | None, *attempts: AttemptRecord, **fields: Any) -> JobReport:
    given: dict[str, Any] = {
        "job_id": "job-1",
        "org_id": "acme",
        "app_version_id": "1.0.0",
        "target": "emulator",
        "test": FILE,
        "status": Status.DONE if verdict in ("passed", "flaky", "skipped") else Status.FAILED,
        "verdict": verdict and Verdict(verdict),
        "reason": attempts[-1].reason if attempts else "",
        "message": attempts[-1].message if attempts else "",
        "attempts": attempts,
        "submitted_at": NOW,
        "finished_at": attempts[-1].ended_at if attempts else None,
    }
    return JobReport(**given | fields)


def report(*jobs: JobReport, **fields: Any) -> SuiteReport:
    return SuiteReport(
        **{"suite_id": "suite-1", "jobs": jobs, "tags": {"commit": "abc123", "branch": "main"}}
        | fields
    )


def mixed() -> SuiteReport:
    """A job of every kind."""
    log = Artifact(name="stdout.log", content_type="text/plain", size=1234, sha256="0" * 64)
    return report(
        job("passed", attempt(1, "passed", tried("adds", "passed"), tried("empties", "passed"))),
        job(
            "failed",
            attempt(1, "failed", tried("pays", "failed", "failed"), artifacts=(log,)),
            attempt(2, "failed", tried("pays", "failed")),
        ),
        job(
            "flaky",
            attempt(1, "failed", tried("sorts", "failed")),
            attempt(2, "passed", tried("sorts", "passed")),
        ),
        job(
            "flaky",
            attempt(1, "flaky", tried("filters", "failed", "passed"), tried("counts", "passed")),
        ),
        job("timed_out", attempt(1, "timed_out", reason="deadline", message="stopped after 600 s")),
        job(
            "infra_error",
            attempt(
                1,
                "infra_error",
                tried("opens", "failed"),
                reason="session_lost",
                message="the session ended",
            ),
            target="browserstack",
        ),
        job(
            "config_error", attempt(1, "config_error", reason="no_tests", message="no tests found")
        ),
        job("cancelled", status=Status.CANCELLED, reason="replaced"),
        job("skipped", attempt(1, "skipped", tried("later", "skipped"), reason="all_skipped")),
        job(None, status=Status.RUNNING),
        job(None, job_id="", status=None, reason="refused", message="a live job holds the slot"),
    )


def not_passed_again() -> JobReport:
    """A job whose last attempt passed without the tests that failed before: one was skipped, one is
    absent.
    """
    first = attempt(
        1,
        "failed",
        tried("pays", "failed"),
        tried("ships", "failed", message="no parcel"),
        tried("adds", "passed"),
    )
    message = "pays: failed in attempt 1 and did not pass in attempt 2 (skipped) (and 1 more): expected 3, got 2"
    return job(
        "failed",
        first,
        attempt(2, "passed", tried("pays", "skipped"), tried("adds", "passed")),
        reason="not_passed_again",
        message=message,
    )


def flaky_by_retry() -> JobReport:
    first = attempt(1, "failed", tried("pays", "failed"), message="pays: expected 3, got 2")
    return job(
        "flaky",
        first,
        attempt(2, "passed", tried("pays", "passed")),
        reason="flaky",
        message="pays: expected 3, got 2",
    )


words = st.sampled_from(
    [
        "passed",
        "failed",
        "flaky",
        "skipped",
        "timed_out",
        "interrupted",
        "]]>",
        "<script>alert(1)</script>",
        "\"'><b>",
        "\x1b[31m",
    ]
)
any_reports: st.SearchStrategy[SuiteReport] = values(SuiteReport, str=words | hostile_text)
"""Also those that never are: any verdict with any attempts and tests."""
