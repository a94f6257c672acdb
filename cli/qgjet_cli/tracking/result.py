"""What `run` and `wait` end with: a table or one document, and the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from qgjet.client.base import SubmitResult
from qgjet.client.results import REFUSED
from qgjet.client.tracker import JobFailure, JobTracker, TrackedJob
from qgjet.domain.decide import FLAKY, NOT_PASSED_AGAIN
from qgjet.domain.events import LEGACY_STATUS, Status, Verdict
from qgjet_cli.exits import CannotWrite, Exit, of_verdicts
from qgjet_cli.output import console

COLUMNS = ("test", "target", "version", "verdict", "tries", "time", "reason")


class JobResult(Struct, frozen=True, kw_only=True):
    job_id: str | None
    """None: the job was not accepted."""
    org_id: str
    app_version_id: str
    target: str
    test: str
    status: Status | None
    legacy_status: str | None
    verdict: Verdict | None
    """None: it has not ended, or was not accepted."""
    attempts: int
    duration_s: float | None
    """Of the last attempt."""
    reason: str
    message: str
    first_failure: JobFailure | None
    attached: bool
    replaced: str | None
    seq: int | None


def of_track(track: TrackedJob) -> JobResult:
    slot = track.slot
    return JobResult(
        job_id=track.job_id,
        org_id=slot.org_id,
        app_version_id=slot.app_version_id,
        target=slot.target,
        test=slot.test,
        status=track.status,
        legacy_status=LEGACY_STATUS[track.status],
        verdict=track.verdict,
        attempts=track.attempt,
        duration_s=track.duration_s,
        reason=track.reason,
        message=track.message,
        first_failure=track.first_failure,
        attached=track.attached,
        replaced=track.replaced,
        seq=track.seq,
    )


def of_refused(placed: SubmitResult) -> JobResult:
    request = placed.request
    return JobResult(
        job_id=None,
        org_id=request.org_id,
        app_version_id=request.app_version_id,
        target=request.target,
        test=request.test,
        status=None,
        legacy_status=None,
        verdict=None,
        attempts=0,
        duration_s=None,
        reason=REFUSED,
        message=str(placed.error or ""),
        first_failure=None,
        attached=False,
        replaced=None,
        seq=None,
    )


def results_of(tracker: JobTracker, placed: Sequence[SubmitResult] = ()) -> list[JobResult]:
    """In the order in which they were asked for."""
    refused = [of_refused(one) for one in placed if not one.job_id]
    return [of_track(track) for track in tracker.tracks.values()] + refused


def exit_of(results: Sequence[JobResult], *, fail_on_flaky: bool, missing: int = 0) -> Exit:
    """`missing` jobs of the suite never arrived: they count as cancelled."""
    verdicts = [result.verdict for result in results]
    return of_verdicts(
        [*verdicts, Verdict.CANCELLED] if missing else verdicts, fail_on_flaky=fail_on_flaky
    )


def show(results: Sequence[JobResult], code: Exit, *, suite_id: str, json: bool) -> None:
    """Write the results to stdout. A stdout that cannot be written is reported on stderr and
    changes nothing else: the exit code is the verdict's.
    """
    try:
        if json:
            console.json(
                {"suite_id": suite_id or None, "summary": summary(results, code), "jobs": results}
            )
        elif results:
            console.table(COLUMNS, [_row(result) for result in results])
    except CannotWrite as error:
        console.fail(error)
    if results and all(result.verdict is Verdict.SKIPPED for result in results):
        console.warn("every test was skipped: nothing was tested")


def summary(results: Sequence[JobResult], code: Exit) -> dict[str, Any]:
    verdicts = [result.verdict for result in results]
    counts = {verdict.value: verdicts.count(verdict) for verdict in Verdict}
    return {
        "exit_code": int(code),
        "total": len(results),
        **counts,
        "no_result": verdicts.count(None),
    }


def _row(result: JobResult) -> tuple[str, ...]:
    verdict = result.verdict or result.status or REFUSED
    return (
        result.test,
        result.target,
        result.app_version_id,
        str(verdict),
        str(result.attempts),
        console.duration(result.duration_s),
        _why(result),
    )


def _why(result: JobResult) -> str:
    """The job's own reason and message where earlier attempts decide; otherwise those of the first
    failure, or of the end when there was none.
    """
    first = None if _is_own(result) else result.first_failure
    if result.verdict in (Verdict.PASSED, Verdict.SKIPPED) and first is None:
        return result.message if result.verdict is Verdict.SKIPPED else ""
    reason, message = (first.reason, first.message) if first else (result.reason, result.message)
    return console.one_line(": ".join(part for part in (reason, message) if part), 200)


def _is_own(result: JobResult) -> bool:
    """Whether reason and message describe an earlier attempt."""
    return bool(result.message) and (result.verdict, result.reason) in (
        (Verdict.FLAKY, FLAKY),
        (Verdict.FAILED, NOT_PASSED_AGAIN),
    )
