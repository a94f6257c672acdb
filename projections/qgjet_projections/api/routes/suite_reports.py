"""Routes with the reports of a suite: the files that `qgjet run` writes, made from the read model
as it is now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath

from qgjet.domain.attempts import AttemptRecord
from qgjet.domain.suite import shared_tags
from qgjet.reporting import ctrf, document, html, junit
from qgjet.reporting.model import JobReport, SuiteReport
from qgjet.support.text import shortened
from qgjet_projections.api import headers
from qgjet_projections.api.access import READ
from qgjet_projections.api.answers import MAX_MESSAGE
from qgjet_projections.api.problems import documented
from qgjet_projections.api.reads import OrgId, Reads, TheService
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.readmodel.views import JobQuery, JobView, SuiteView
from qgjet_projections.service import Service
from qgjet_projections.usecases import commands

XML, JSON, HTML = "application/xml", "application/json", "text/html"
API_ROOT = "../.."
"""Of the page at /suites/<id>/report.html: right behind any proxy that adds a prefix."""


@get(
    "/suites/{suite_id:str}/junit.xml",
    summary="The suite as JUnit XML",
    description="Retries as Surefire has them: `flakyFailure`, `rerunFailure`. A job without a statement about the app is an `error`, also a live one.",
    media_type=XML,
    responses={
        200: ResponseSpec(str, generate_examples=False, description="JUnit XML", media_type=XML),
        **documented(400, 404, 503),
    },
    opt=READ,
    tags=["suites"],
)
async def junit_xml(
    service: TheService, reads: Reads, suite_id: FromPath[str], org_id: OrgId = None
) -> Response[bytes]:
    return Response(await _rendered(service, reads, suite_id, org_id, junit.render), media_type=XML)


@get(
    "/suites/{suite_id:str}/ctrf.json",
    summary="The suite as CTRF",
    description="Common test report format, https://ctrf.io. Paths of attachments are relative to this API.",
    responses={
        200: ResponseSpec(dict[str, object], generate_examples=False, description="CTRF"),
        **documented(400, 404, 503),
    },
    opt=READ,
    tags=["suites"],
)
async def ctrf_json(
    service: TheService, reads: Reads, suite_id: FromPath[str], org_id: OrgId = None
) -> Response[bytes]:
    return Response(await _rendered(service, reads, suite_id, org_id, ctrf.render), media_type=JSON)


@get(
    "/suites/{suite_id:str}/report.json",
    summary="The suite with all jobs, attempts and tests, as one document",
    responses={
        200: ResponseSpec(document.Document, generate_examples=False, description="The report"),
        **documented(400, 404, 503),
    },
    opt=READ,
    tags=["suites"],
)
async def report_json(
    service: TheService, reads: Reads, suite_id: FromPath[str], org_id: OrgId = None
) -> Response[bytes]:
    return Response(
        await _rendered(service, reads, suite_id, org_id, document.render), media_type=JSON
    )


@get(
    "/suites/{suite_id:str}/report.html",
    summary="The suite as a page for people",
    description="One page without scripts, with links to the artifacts.",
    media_type=HTML,
    responses={
        200: ResponseSpec(str, generate_examples=False, description="HTML", media_type=HTML),
        **documented(400, 404, 503),
    },
    opt=READ,
    tags=["suites"],
)
async def report_html(
    service: TheService, reads: Reads, suite_id: FromPath[str], org_id: OrgId = None
) -> Response[bytes]:
    page = await _rendered(
        service,
        reads,
        suite_id,
        org_id,
        lambda report: html.render(report, base_url=API_ROOT).encode(),
    )
    return Response(page, media_type=HTML, headers={headers.CSP: headers.REPORT})


async def _rendered(
    service: Service,
    reads: ReadModel,
    suite_id: str,
    org_id: str | None,
    render: Callable[[SuiteReport], bytes],
) -> bytes:
    """Raises SuiteNotFound."""
    found = await commands.known_suite(service, reads, suite_id, org_id)
    return await asyncio.to_thread(lambda: render(report_of(reads, found)))


def report_of(reads: ReadModel, suite: SuiteView) -> SuiteReport:
    """All jobs of the suite, first submitted first. Reads in pieces: not for the event loop."""
    found = sorted(
        [(job, attached) for attached in (False, True) for job in _jobs(reads, suite, attached)],
        key=lambda one: one[0].submitted_seq,
    )
    attempts = reads.suite_attempts(suite.suite_id, suite.org_id)
    jobs = tuple(
        job_report(job, attempts.get(job.submitted_seq, []), attached=attached)
        for job, attached in found
    )
    tags = suite.tags or shared_tags([job.tags for job in jobs])
    return SuiteReport(
        suite_id=suite.suite_id, jobs=jobs, tags=tags, to_come=suite.to_come, missing=suite.missing
    )


def _jobs(reads: ReadModel, suite: SuiteView, attached: bool) -> Iterator[JobView]:
    return reads.all_jobs(
        JobQuery(org_id=suite.org_id, suite_id=suite.suite_id, created=not attached)
    )


def job_report(job: JobView, attempts: Sequence[AttemptRecord], *, attached: bool) -> JobReport:
    return JobReport(
        job_id=job.job_id,
        org_id=job.org_id,
        app_version_id=job.app_version_id,
        target=job.target,
        test=job.test,
        status=job.status,
        verdict=job.verdict,
        reason=shortened(job.reason),
        message=shortened(job.message, MAX_MESSAGE),
        attempts=tuple(attempts),
        submitted_at=job.created_at,
        finished_at=job.finished_at,
        attached=attached,
        priority=job.priority,
        tags=job.tags,
    )
