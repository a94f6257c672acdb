"""What became of a suite: the one thing that all reports are made from, for files, pipelines and
people. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from msgspec import Struct

from qgjet.domain.attempts import AttemptRecord
from qgjet.domain.events import Status, Verdict

WORST_FIRST = (
    Verdict.FAILED,
    Verdict.TIMED_OUT,
    Verdict.INFRA_ERROR,
    Verdict.CONFIG_ERROR,
    Verdict.CANCELLED,
    Verdict.FLAKY,
    Verdict.PASSED,
    Verdict.SKIPPED,
)
"""A suite's verdict is that of its worst job, in the order of the exit codes."""


class JobReport(Struct, frozen=True, kw_only=True):
    """One job of a suite."""

    job_id: str
    """Empty: it was not accepted, and `message` says why."""
    org_id: str
    app_version_id: str
    target: str
    test: str
    """The file, relative to the test project."""
    status: Status | None
    """None: it was not accepted."""
    verdict: Verdict | None
    """None: it has not ended, or was not accepted."""
    reason: str = ""
    """Code of the last outcome, release, loss or refusal; `flaky` or `not_passed_again` where
    earlier attempts decide the verdict.
    """
    message: str = ""
    attempts: tuple[AttemptRecord, ...] = ()
    """Oldest first, as far as they are known: of a job that was live before, the earlier ones may
    be missing.
    """
    submitted_at: datetime | None = None
    finished_at: datetime | None = None
    attached: bool = False
    """It was live before this suite asked for it."""
    priority: int | None = None
    tags: dict[str, str] = {}

    @property
    def duration_s(self) -> float:
        """Of all attempts together, without the time in the queue."""
        return sum(attempt.duration_s or 0.0 for attempt in self.attempts)

    @property
    def last(self) -> AttemptRecord | None:
        return self.attempts[-1] if self.attempts else None


class SuiteReport(Struct, frozen=True, kw_only=True):
    suite_id: str
    """Empty: the jobs were asked for one by one."""
    jobs: tuple[JobReport, ...]
    tags: dict[str, str] = {}
    """What is known of the run: commit, branch, CI job and whatever else its submitter has said."""
    to_come: int = 0
    """Jobs of a large submission that are not stored yet: they are not among `jobs`, and there is
    no verdict without them.
    """
    missing: int = 0
    """Jobs that never arrived because their submission ended half-way: the suite is cancelled,
    unless a job of it came to something worse.
    """

    @property
    def verdict(self) -> Verdict | None:
        """Of the worst job; None while one has no verdict, and without jobs."""
        absent = [None] * bool(self.to_come) + [Verdict.CANCELLED] * bool(self.missing)
        return worst([*absent, *(job.verdict for job in self.jobs)])

    @property
    def entries(self) -> tuple[JobReport, ...]:
        """The jobs, and one more that stands for those that are absent: for formats whose readers
        know test cases only.
        """
        return (*self.jobs, *self._absent())

    def _absent(self) -> Iterator[JobReport]:
        if self.to_come:
            yield _stand_in(
                f"{self.to_come} jobs not submitted yet",
                "incomplete",
                "the submission of the suite has not ended",
                None,
            )
        if self.missing:
            yield _stand_in(
                f"{self.missing} jobs never submitted",
                "incomplete",
                "the submission of the suite ended half-way",
                Verdict.CANCELLED,
            )

    @property
    def counts(self) -> dict[Verdict, int]:
        """Only those that there are."""
        verdicts = [job.verdict for job in self.jobs]
        return {verdict: verdicts.count(verdict) for verdict in Verdict if verdict in verdicts}

    @property
    def began_at(self) -> datetime | None:
        times = [
            job.submitted_at or job.attempts[0].started_at
            for job in self.jobs
            if job.submitted_at or job.attempts
        ]
        return min(times, default=None)

    @property
    def ended_at(self) -> datetime | None:
        """None while a job is live."""
        times = [job.finished_at for job in self.jobs if job.job_id]
        ended = [at for at in times if at is not None]
        return max(ended, default=None) if len(ended) == len(times) and not self.to_come else None


def _stand_in(test: str, reason: str, message: str, verdict: Verdict | None) -> JobReport:
    return JobReport(
        job_id="",
        org_id="",
        app_version_id="",
        target="",
        test=test,
        status=None,
        verdict=verdict,
        reason=reason,
        message=message,
    )


def worst(verdicts: Sequence[Verdict | None]) -> Verdict | None:
    """None when one is missing, or there are none."""
    if None in verdicts:
        return None
    return next((verdict for verdict in WORST_FIRST if verdict in verdicts), None)
