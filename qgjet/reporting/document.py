"""The report as one JSON document, for programs of one's own: everything that is known, nothing
interpreted. Pure.

Stable: within one `schema_version` fields are only added, and a reader ignores those it does not
know. Times are RFC 3339, durations seconds.
"""

from __future__ import annotations

from datetime import datetime

import msgspec
from msgspec import Struct

from qgjet.domain.attempts import AttemptRecord
from qgjet.domain.events import Status, Verdict
from qgjet.reporting.model import JobReport, SuiteReport
from qgjet.reporting.text import bounded, json_bytes

SCHEMA_VERSION = 1


class JobDocument(Struct, frozen=True, kw_only=True):
    """One job; the fields are those of `JobReport`."""

    job_id: str
    org_id: str
    app_version_id: str
    target: str
    test: str
    status: Status | None
    verdict: Verdict | None
    reason: str
    message: str
    submitted_at: datetime | None
    finished_at: datetime | None
    duration_s: float
    """Of all attempts together, without the time in the queue."""
    attached: bool
    priority: int | None
    tags: dict[str, str]
    attempts: tuple[AttemptRecord, ...]


class Document(Struct, frozen=True, kw_only=True):
    schema_version: int
    suite_id: str
    verdict: Verdict | None
    """Of the worst job; null while one has none."""
    exit_code: int | None
    """Of the command that wrote the report; null in one of the API."""
    total: int
    counts: dict[Verdict, int]
    """All verdicts, also those that no job has."""
    no_verdict: int
    """Jobs that have not ended, or were not accepted."""
    to_come: int
    """Jobs of a large submission that are not stored yet, so not in this report."""
    missing: int = 0
    """Jobs that never arrived because their submission ended half-way."""
    tags: dict[str, str]
    began_at: datetime | None
    ended_at: datetime | None
    """null while a job is live."""
    duration_s: float | None
    """From `began_at` to `ended_at`."""
    jobs: tuple[JobDocument, ...]


def render(report: SuiteReport, *, exit_code: int | None = None) -> bytes:
    return json_bytes(document_of(report, exit_code))


def read(data: bytes) -> Document:
    """What `render` has written. Raises msgspec.ValidationError for anything else."""
    return msgspec.json.decode(data, type=Document)


def document_of(report: SuiteReport, exit_code: int | None = None) -> Document:
    counts = report.counts
    began_at, ended_at = report.began_at, report.ended_at
    return Document(
        schema_version=SCHEMA_VERSION,
        suite_id=report.suite_id,
        verdict=report.verdict,
        exit_code=exit_code,
        total=len(report.jobs),
        counts={verdict: counts.get(verdict, 0) for verdict in Verdict},
        no_verdict=len(report.jobs) - sum(counts.values()),
        to_come=report.to_come,
        missing=report.missing,
        tags=report.tags,
        began_at=began_at,
        ended_at=ended_at,
        duration_s=(ended_at - began_at).total_seconds() if began_at and ended_at else None,
        jobs=tuple(_job(job) for job in report.jobs),
    )


def _job(job: JobReport) -> JobDocument:
    return JobDocument(
        duration_s=bounded(job.duration_s),
        **{name: getattr(job, name) for name in JobReport.__struct_fields__},
    )
