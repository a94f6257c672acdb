"""The testcases that a job comes to, for formats that know tests and no jobs. Pure.

- A job that says something about the app has one case per test of its last attempt that did; tries of earlier attempts count for the test of the same id.
- A failed job also has a failed case per test that failed in an earlier attempt and was skipped or absent in the last one.
- One whose runner tells of no tests is one case.
- One that says nothing about the app (no verdict, infra or config error, cancelled) is one case, an error, whatever its tests came to.
- What the tests do not explain (a deadline, a failed attempt without tests) is a case of the job itself beside them. So no failed job is without a failure,
  and no flaky one without a flaky case.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from msgspec import Struct

from qgjet.domain.attempts import (
    CONCLUSIVE,
    AttemptRecord,
    NotPassedAgain,
    failure_text,
    not_passed_again,
)
from qgjet.domain.decide import NOT_PASSED_AGAIN
from qgjet.domain.events import ACTIVE, TestResult, Verdict
from qgjet.reporting.model import JobReport
from qgjet.reporting.text import bounded, located

_BAD = frozenset({Verdict.FAILED, Verdict.TIMED_OUT})
_BAD_TESTS = frozenset({"failed", "timed_out"})


class Result(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    """No statement about the app."""
    SKIPPED = "skipped"


class CaseTry(Struct, frozen=True, kw_only=True):
    """One run of a case: a try of a test, or an attempt of a job without tests."""

    attempt: int
    status: str
    failed: bool
    """It counts against the case. A failure that the test expects does not."""
    duration_s: float = 0.0
    message: str = ""
    file: str = ""
    line: int = 0

    @property
    def text(self) -> str:
        """Where and why it failed."""
        return "\n".join(part for part in (located(self.file, self.line), self.message) if part)


class Case(Struct, frozen=True, kw_only=True):
    job: JobReport
    title: str
    file: str
    line: int = 0
    result: Result
    reason: str = ""
    """Why it is an error, a failure or skipped: a word for machines."""
    message: str = ""
    tries: tuple[CaseTry, ...] = ()
    """Oldest first, over all attempts, as far as they are known."""
    duration_s: float = 0.0
    of_job: bool = False
    """It stands for the job, not for one of its tests."""
    note: str = ""
    """Why it failed although its last try did not."""

    @property
    def failures(self) -> list[CaseTry]:
        return [one for one in self.tries if one.failed]

    @property
    def flaky(self) -> bool:
        return self.result is Result.PASSED and any(one.failed for one in self.tries)


def cases_of(job: JobReport) -> list[Case]:
    """At least one."""
    if not says_something(job):
        return [_error(job)]
    attempts = [attempt for attempt in job.attempts if attempt.verdict in CONCLUSIVE]
    tests = _test_cases(job, attempts) if attempts else []
    return [*_job_case(job, attempts, tests), *tests]


def says_something(job: JobReport) -> bool:
    """Whether its verdict is one about the app."""
    return job.verdict in CONCLUSIVE


# -- a job without a statement -------------------------------------------------------------------------------------------


def _error(job: JobReport) -> Case:
    return Case(
        job=job,
        title=job.test,
        file=job.test,
        result=Result.ERROR,
        reason=job.reason or _state(job),
        message="\n".join(
            [
                f"{_STATEMENTS[_state(job)]}{f': {job.message}' if job.message else ''}",
                *_failed_tests(job),
            ]
        ),
        duration_s=bounded(job.duration_s),
        of_job=True,
    )


def _state(job: JobReport) -> str:
    """Why there is no statement, in one word."""
    if job.verdict is not None:
        return job.verdict.value
    return "live" if job.status in ACTIVE else "not_accepted" if job.status is None else "unknown"


_STATEMENTS = {
    "infra_error": "No verdict, infrastructure error",
    "config_error": "No verdict, configuration error",
    "cancelled": "Cancelled",
    "live": "Not ended yet",
    "not_accepted": "Not accepted by the queue",
    "unknown": "No verdict is known",
}


def _failed_tests(job: JobReport) -> Iterator[str]:
    for attempt in job.attempts[-1:]:
        for test in attempt.tests:
            for one in _tries(attempt, test):
                if one.failed:
                    yield f"{test.title}: {one.text}"


# -- tests ---------------------------------------------------------------------------------------------------------------


def _test_cases(job: JobReport, attempts: list[AttemptRecord]) -> list[Case]:
    """The tests of the last attempt in their order, then those that failed before and are absent in
    it.
    """
    failed = {one.test.id: one for one in not_passed_again(attempts)} if job.verdict in _BAD else {}
    cases = [
        _not_passed_again(job, attempts, failed.pop(test.id))
        if test.id in failed and test.outcome == "skipped"
        else _test_case(job, attempts, test)
        for test in attempts[-1].tests
    ]
    return cases + [_not_passed_again(job, attempts, one) for one in failed.values()]


def _not_passed_again(job: JobReport, attempts: list[AttemptRecord], found: NotPassedAgain) -> Case:
    test = found.test
    tries = tuple(
        one
        for attempt in attempts
        for same in attempt.tests
        if same.id == test.id
        for one in _tries(attempt, same)
    )
    text = failure_text(test)
    if not any(one.failed for one in tries):  # it was interrupted
        failure = CaseTry(
            attempt=found.attempt.attempt,
            status=test.outcome,
            failed=True,
            message=text,
            file=test.file,
            line=test.line,
        )
        tries = (failure, *tries)
    return Case(
        job=job,
        title=test.title or test.id or job.test,
        file=test.file or job.test,
        line=test.line,
        result=Result.FAILED,
        reason=NOT_PASSED_AGAIN,
        message=f"{text}\n{found.note}",
        tries=tries,
        duration_s=sum(one.duration_s for one in tries),
        note=found.note,
    )


def _test_case(job: JobReport, attempts: list[AttemptRecord], test: TestResult) -> Case:
    """`test` is from the last of `attempts`, which decides."""
    earlier = [
        one
        for attempt in attempts[:-1]
        for same in attempt.tests
        if same.id == test.id
        for one in _tries(attempt, same)
    ]
    tries = (*earlier, *_tries(attempts[-1], test))
    failed = test.outcome in _BAD_TESTS
    result = Result.FAILED if failed else _RESULTS.get(test.outcome, Result.ERROR)
    return Case(
        job=job,
        title=test.title or test.id or job.test,
        file=test.file or job.test,
        line=test.line,
        result=result,
        reason="" if result is Result.PASSED else test.outcome,
        message="" if result is Result.PASSED else _message(tries) or test.outcome,
        tries=tries,
        duration_s=sum(one.duration_s for one in tries),
    )


_RESULTS = {"passed": Result.PASSED, "flaky": Result.PASSED, "skipped": Result.SKIPPED}


def _message(tries: tuple[CaseTry, ...]) -> str:
    return next((one.message for one in reversed(tries) if one.message), "")


def _tries(attempt: AttemptRecord, test: TestResult) -> list[CaseTry]:
    """What is known of the test's tries. A test that failed, or was flaky, has one that failed,
    even where its tries were left out to save room.
    """
    unexpected = test.outcome in _BAD_TESTS or test.outcome == "flaky"
    last_good = len(test.tries) - 1 if test.outcome == "flaky" else -1
    tries = [
        CaseTry(
            attempt=attempt.attempt,
            status=one.status,
            failed=unexpected
            and number != last_good
            and (one.error is not None or one.status in _BAD_TESTS)
            and one.status not in ("skipped", "interrupted"),
            duration_s=bounded(one.duration_s),
            message=one.error.message if one.error else "",
            file=one.error.file if one.error else "",
            line=one.error.line if one.error else 0,
        )
        for number, one in enumerate(test.tries)
    ]
    if unexpected and not any(one.failed for one in tries):
        status = test.outcome if test.outcome in _BAD_TESTS else "failed"
        message = attempt.message or "The details of this failure were not kept."
        tries.insert(
            0,
            CaseTry(
                attempt=attempt.attempt,
                status=status,
                failed=True,
                message=message,
                file=test.file,
                line=test.line,
            ),
        )
    return tries


# -- the job itself ------------------------------------------------------------------------------------------------------


def _job_case(job: JobReport, attempts: list[AttemptRecord], tests: list[Case]) -> list[Case]:
    """A case of the job where its tests do not tell the whole story; none otherwise."""
    failed, flaky = job.verdict in _BAD, job.verdict is Verdict.FLAKY
    told = {
        one.attempt
        for case in tests
        if case.result is Result.FAILED or case.flaky
        for one in case.failures
    }
    untold = [
        attempt for attempt in attempts if attempt.verdict in _BAD and attempt.attempt not in told
    ]
    complete = (
        any(case.result is Result.FAILED for case in tests)
        if failed
        else not untold and bool(told or not flaky)
    )
    if tests and complete:
        return []
    shown = (
        untold
        if tests
        else [attempt for attempt in attempts if attempt.verdict is not Verdict.SKIPPED]
    )
    tries = tuple(_attempt_try(attempt) for attempt in shown)
    if (failed or flaky) and not any(one.failed for one in tries):
        tries = (
            CaseTry(
                attempt=0,
                status="failed",
                failed=True,
                message=job.message or job.reason or "The details were not kept.",
            ),
            *tries,
        )
    result = (
        Result.FAILED
        if failed
        else Result.SKIPPED
        if job.verdict is Verdict.SKIPPED
        else Result.PASSED
    )
    return [
        Case(
            job=job,
            title=job.test,
            file=job.test,
            result=result,
            reason="" if result is Result.PASSED else job.reason or str(job.verdict),
            message=""
            if result is Result.PASSED
            else job.message or _message(tries) or str(job.verdict),
            tries=tries,
            duration_s=0.0 if tests else bounded(job.duration_s),
            of_job=True,
        )
    ]


def _attempt_try(attempt: AttemptRecord) -> CaseTry:
    failed = attempt.verdict in _BAD
    message = (
        ": ".join(part for part in (attempt.reason, attempt.message) if part) if failed else ""
    )
    return CaseTry(
        attempt=attempt.attempt,
        status=str(attempt.verdict),
        failed=failed,
        duration_s=bounded(attempt.duration_s),
        message=message,
    )
