"""`/ui/suites`: runs as CI sees them."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any

from litestar import Response, get
from litestar.params import FromPath
from markupsafe import Markup
from msgspec import Struct
from msgspec.structs import replace

from qgjet.domain.attempts import AttemptRecord, failure_text, not_passed_again
from qgjet.domain.events import PASSING, Status, Verdict
from qgjet.reporting import timeline
from qgjet.reporting.text import first_line
from qgjet_projections.api.access import READ
from qgjet_projections.api.answers import suite_answer
from qgjet_projections.api.reads import Cursor, OrgId, Reads, TheService
from qgjet_projections.api.routes.jobs import job_answers
from qgjet_projections.api.routes.suite_reports import job_report
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.readmodel.views import JobQuery, JobView, SuiteView
from qgjet_projections.usecases import commands
from qgjet_projections.web import charts, text
from qgjet_projections.web.page import AnyRequest, offset, page, query, segment
from qgjet_projections.web.pages.jobs import given

PAGE = 30
MOST_JOBS = 5_000
ROWS = 35
MOST_BAD, MOST_LINES, MOST_LINKS = 12, 12, 30
"""Jobs that are shown with their failures; flaky ones, and changes; attempts in the timeline that
lead to their job. More would make a page heavy.
"""
MOST_FAILURES = 3
"""Tests of one job that are shown with their message."""
MOST_WHY = 160
"""Characters of the first failure of a flaky job."""
MESSAGES, LEAST_MESSAGE = 8_000, 200
"""Characters of all of these together, and of each of them at least."""
LISTS = ("jobs", "bad", "flaky")


@get("/ui/suites", opt=READ, include_in_schema=False)
async def suites(
    request: AnyRequest, service: TheService, reads: Reads, cursor: Cursor = None
) -> Response[bytes]:
    values = given(request, "org_id")
    live = query({"after": service.applied_seq})
    found = await asyncio.to_thread(reads.suites, values.get("org_id"), PAGE, cursor or None)
    shown = [(suite_answer(one), charts.share(one.verdicts, one.statuses)) for one in found.items]
    return page(
        request,
        service,
        "suites.html",
        live=live,
        suites=shown,
        values=values,
        next_cursor=found.next_cursor,
    )


class Failure(Struct, frozen=True, kw_only=True):
    """A test that failed in the last attempt of a job, or in an earlier one and did not pass since."""

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
async def suite(
    request: AnyRequest,
    service: TheService,
    reads: Reads,
    suite_id: FromPath[str],
    org_id: OrgId = None,
) -> Response[bytes]:
    seq = service.applied_seq
    values = given(request, "org_id", "agent")
    found = await commands.known_suite(service, reads, suite_id, org_id or None)
    context = await asyncio.to_thread(_context, reads, found, values)
    shown = {job.job_id: job for name in LISTS for job in context[name]}
    answers = {job.job_id: job for job in await job_answers(service, list(shown.values()))}
    context |= {name: [answers[job.job_id] for job in context[name]] for name in LISTS}
    return page(
        request,
        service,
        "suite.html",
        live=query({"suite_id": suite_id, "after": seq}),
        suite=suite_answer(found),
        values=values,
        **context,
    )


def _context(reads: ReadModel, found: SuiteView, values: dict[str, str]) -> dict[str, Any]:
    order = {word: number for number, word in enumerate(text.VERDICTS)}
    views = sorted(
        _jobs(reads, found), key=lambda job: (order.get(str(job.verdict), -1), job.test, job.target)
    )
    attempts = reads.suite_attempts(found.suite_id, found.org_id)
    previous = reads.suite_before(found)
    changes, fresh = _compared(reads, views, previous)
    bad = [job for job in views if job.verdict is not None and job.verdict not in PASSING]
    flaky = [job for job in views if job.verdict is Verdict.FLAKY]
    failures = _failures(bad[:MOST_BAD], attempts)
    agent, since = (
        values.get("agent"),
        {
            job.job_id: attempts[job.submitted_seq][-1].started_at
            for job in views
            if attempts.get(job.submitted_seq)
        },
    )
    if agent is not None:
        attempts = {
            seq: [one for one in mine if one.agent == agent] for seq, mine in attempts.items()
        }
        views = sorted(
            (job for job in views if attempts.get(job.submitted_seq)),
            key=lambda job: attempts[job.submitted_seq][0].started_at,
        )
    begin = offset(values)
    return {
        "jobs": views[begin : begin + ROWS],
        "begin": begin,
        "number": len(views),
        "next_cursor": begin + ROWS if begin + ROWS < len(views) else None,
        "since_of": since,
        "versions": len({job.app_version_id for job in views}),
        "bad": bad[:MOST_BAD],
        "more_bad": max(len(bad) - MOST_BAD, 0),
        "flaky": flaky[:MOST_LINES],
        "more_flaky": max(len(flaky) - MOST_LINES, 0),
        "failures": failures,
        "flaky_why": {
            job.job_id: text.shortened(first_line(job.message), MOST_WHY)
            for job in flaky[:MOST_LINES]
        },
        "share": charts.share(found.verdicts, found.statuses),
        "warm": sum(one.warm for mine in attempts.values() for one in mine),
        "attempts": sum(map(len, attempts.values())),
        "most_links": MOST_LINKS,
        "legend": timeline.LEGEND,
        "timeline": _timeline(views, attempts, values),
        "previous": previous,
        "changes": changes[:MOST_LINES],
        "more_changes": max(len(changes) - MOST_LINES, 0),
        "fresh": fresh,
    }


def _jobs(reads: ReadModel, found: SuiteView) -> list[JobView]:
    return list(
        islice(reads.all_jobs(JobQuery(org_id=found.org_id, suite_id=found.suite_id)), MOST_JOBS)
    )


def _timeline(
    views: list[JobView], attempts: dict[int, list[AttemptRecord]], values: dict[str, str]
) -> Markup:
    reports = [
        job_report(job, attempts.get(job.submitted_seq, []), attached=False) for job in views
    ]
    agents = {
        one.agent: f"{query(values, agent=one.agent, cursor=None)}#h-rest"
        for mine in attempts.values()
        for one in mine
        if one.agent
    }
    links = {number: f"/ui/jobs/{segment(job.job_id)}" for number, job in enumerate(views)}
    return Markup(timeline.render(reports, links, most_links=MOST_LINKS, agents=agents))


def _failures(
    jobs: list[JobView], attempts: dict[int, list[AttemptRecord]]
) -> dict[str, list[Failure]]:
    """By job. The more there are, the less is said of each: all of it is on the page of the job."""
    found = {
        job.job_id: _failed(job, attempts[job.submitted_seq])
        for job in jobs
        if attempts.get(job.submitted_seq)
    }
    room = max(MESSAGES // max(sum(map(len, found.values())), 1), LEAST_MESSAGE)
    return {
        job_id: [replace(one, message=text.shortened(one.message, room)) for one in failures]
        for job_id, failures in found.items()
    }


def _failed(job: JobView, attempts: list[AttemptRecord]) -> list[Failure]:
    found = [
        (test, try_.error)
        for test in attempts[-1].tests
        for try_ in test.tries[-1:]
        if try_.error is not None
    ]
    shown = [
        Failure(
            title=test.title,
            file=error.file or test.file,
            line=error.line or test.line,
            message=error.message,
        )
        for test, error in found
    ]
    if job.verdict in (Verdict.FAILED, Verdict.TIMED_OUT):
        shown += [
            Failure(
                title=one.test.title,
                file=one.test.file,
                line=one.test.line,
                message=f"{one.note}\n{failure_text(one.test)}",
            )
            for one in not_passed_again(attempts)
        ]
    return shown[:MOST_FAILURES]


def _compared(
    reads: ReadModel, now: list[JobView], previous: SuiteView | None
) -> tuple[list[Change], int]:
    """Tests that ended in both runs with another verdict, worse ones first, and how many are new."""
    if previous is None:
        return [], 0
    before = {(job.target, job.test): job for job in _jobs(reads, previous)}
    changes = [
        Change(
            test=job.test,
            target=job.target,
            job_id=job.job_id,
            before=str(old.verdict),
            now=str(job.verdict),
        )
        for job in now
        if (old := before.get((job.target, job.test))) is not None
        and job.verdict
        and old.verdict
        and job.verdict is not old.verdict
    ]
    fresh = sum(
        (job.target, job.test) not in before for job in now if job.status is not Status.CANCELLED
    )
    return changes, fresh
