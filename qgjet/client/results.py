"""From answers to what is followed, and from that to a report. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from qgjet.client.base import SubmitResult
from qgjet.client.tracker import JobTracker, TrackedJob
from qgjet.domain.events import Slot, Status
from qgjet.reporting.model import JobReport, SuiteReport

REFUSED = "refused"


def slot_of(result: SubmitResult) -> Slot:
    request = result.request
    return Slot(request.org_id, request.app_version_id, request.target, request.test)


def tracked(result: SubmitResult) -> TrackedJob:
    """The job of an accepted request, as its submission has left it."""
    status = result.status or Status.QUEUED
    return TrackedJob(
        job_id=result.job_id,
        slot=slot_of(result),
        seq=result.seq - 1,
        status=status,
        attached=result.attached,
        replaced=result.replaced,
    )


def report_of(
    tracker: JobTracker, results: Sequence[SubmitResult] = (), *, tags: dict[str, str] | None = None
) -> SuiteReport:
    """All that is known of the jobs, for reports."""
    refused = [_refused_job(one) for one in results if not one.job_id]
    return SuiteReport(
        suite_id=tracker.suite_id,
        jobs=(*map(_job_report, tracker.tracks.values()), *refused),
        tags=tags or {},
        missing=tracker.missing,
    )


def _job_report(track: TrackedJob) -> JobReport:
    slot = track.slot
    return JobReport(
        job_id=track.job_id,
        org_id=slot.org_id,
        app_version_id=slot.app_version_id,
        target=slot.target,
        test=slot.test,
        status=track.status,
        verdict=track.verdict,
        reason=track.reason,
        message=track.message,
        attempts=tuple(track.attempts),
        submitted_at=track.submitted_at,
        finished_at=track.finished_at,
        attached=track.attached,
        priority=track.priority,
        tags=track.tags,
    )


def _refused_job(results: SubmitResult) -> JobReport:
    request = results.request
    return JobReport(
        job_id="",
        org_id=request.org_id,
        app_version_id=request.app_version_id,
        target=request.target,
        test=request.test,
        status=None,
        verdict=None,
        reason=REFUSED,
        message=str(results.error or ""),
        tags=request.tags,
    )
