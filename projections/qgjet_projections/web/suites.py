"""`/ui/suites`: runs as CI sees them."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Response, get
from litestar.params import FromPath
from markupsafe import Markup
from msgspec import Struct

from qgjet.events import GREEN, Status, Verdict
from qgjet.reporting import timeline
from qgjet_projections.api import commands
from qgjet_projections.api.access import READ
from qgjet_projections.api.answers import suite_answer
from qgjet_projections.api.jobs import job_answers
from qgjet_projections.api.reads import Cursor, OrgId, Reads, TheService
from qgjet_projections.api.suite_reports import report_of
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.views import JobQuery, JobView, SuiteView
from qgjet_projections.web import charts, text
from qgjet_projections.web.jobs import given
from qgjet_projections.web.page import AnyRequest, page, query

PAGE = 30
MOST_JOBS = 500
MOST_FAILURES = 3
"""Tests of one job that are shown with their message."""


@get("/ui/suites", opt=READ, include_in_schema=False)
async def suites(request: AnyRequest, service: TheService, reads: Reads, cursor: Cursor = None) -> Response[bytes]:
    values = given(request, "org_id")
    live = query({"after": service.applied_seq})
    found = await asyncio.to_thread(reads.suites, values.get("org_id"), PAGE, cursor or None)
    shown = [(suite_answer(one), charts.share(one.verdicts, one.statuses)) for one in found.items]
    return page(request, service, "suites.html", live=live, suites=shown, values=values, next_cursor=found.next_cursor)


class Failure(Struct, frozen=True, kw_only=True):
    """A test that failed in the last attempt of a job."""

    title: str
    file: str
    line: int
    message: str


class Change(Struct, frozen=True, kw_only=True):
    """A test whose verdict is another one than in the run before."""

    test: str
    target: str
    job_id: str
    before: str
    now: str


@get("/ui/suites/{suite_id:str}", opt=READ, include_in_schema=False)
async def suite(request: AnyRequest, service: TheService, reads: Reads, suite_id: FromPath[str], org_id: OrgId = None) -> Response[bytes]:
    seq = service.applied_seq
    found = await commands.known_suite(service, reads, suite_id, org_id or None)
    context = await asyncio.to_thread(_context, reads, found)
    answers = {job.job_id: job for job in await job_answers(service, context.pop("views"))}
    for name in ("jobs", "bad", "flaky"):
        context[name] = [answers[job.job_id] for job in context[name]]
    return page(request, service, "suite.html", live=query({"suite_id": suite_id, "after": seq}), suite=suite_answer(found), **context)


def _context(reads: ReadModel, found: SuiteView) -> dict[str, Any]:
    jobs = reads.jobs(JobQuery(org_id=found.org_id, suite_id=found.suite_id, limit=MOST_JOBS))
    order = {word: number for number, word in enumerate(text.VERDICTS)}
    views = sorted(jobs.items, key=lambda job: (order.get(str(job.verdict), -1), job.test, job.target))
    report = report_of(reads, found) if found.jobs <= MOST_JOBS else None
    previous = reads.suite_before(found)
    changes, fresh = _compared(reads, views, previous)
    attempts = [attempt for job in report.jobs for attempt in job.attempts] if report else []
    bad = [job for job in views if job.verdict is not None and job.verdict not in GREEN]
    return {
        "views": views,
        "jobs": views,
        "next_cursor": jobs.next_cursor,
        "bad": bad[:40],
        "flaky": [job for job in views if job.verdict is Verdict.FLAKY][:40],
        "failures": {job.job_id: _failures(reads, job) for job in bad[:40]},
        "share": charts.share(found.verdicts, found.statuses),
        "warm": sum(attempt.warm for attempt in attempts),
        "attempts": len(attempts),
        "timeline": Markup(timeline.render(report.jobs, {n: f"row-{job.job_id}" for n, job in enumerate(report.jobs)})) if report else "",
        "previous": previous,
        "changes": changes,
        "fresh": fresh,
    }


def _failures(reads: ReadModel, job: JobView) -> list[Failure]:
    attempts = reads.attempts(job.job_id)
    tests = attempts[-1].tests if attempts else ()
    found = [(test, try_.error) for test in tests for try_ in test.tries[-1:] if try_.error is not None]
    return [
        Failure(title=test.title, file=error.file or test.file, line=error.line or test.line, message=error.message) for test, error in found[:MOST_FAILURES]
    ]


def _compared(reads: ReadModel, now: list[JobView], previous: SuiteView | None) -> tuple[list[Change], int]:
    """Tests that ended in both runs with another verdict, worse ones first, and how many are new."""
    if previous is None:
        return [], 0
    items = reads.jobs(JobQuery(org_id=previous.org_id, suite_id=previous.suite_id, limit=MOST_JOBS)).items
    before = {(job.target, job.test): job for job in items}
    changes = [
        Change(test=job.test, target=job.target, job_id=job.job_id, before=str(old.verdict), now=str(job.verdict))
        for job in now
        if (old := before.get((job.target, job.test))) is not None and job.verdict and old.verdict and job.verdict is not old.verdict
    ]
    fresh = sum((job.target, job.test) not in before for job in now if job.status is not Status.CANCELLED)
    return changes, fresh
