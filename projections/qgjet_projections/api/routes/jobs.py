"""Routes about jobs that are there."""

from __future__ import annotations

import asyncio
from typing import Annotated

from litestar import Response, get, post
from litestar.exceptions import ValidationException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import Struct

from qgjet.domain.control import Pauses
from qgjet.domain.events import Status, Verdict
from qgjet.support.text import ShortText
from qgjet_projections.api.access import READ, SUBMIT, TheCaller
from qgjet_projections.api.answers import (
    JobAnswer,
    JobDetail,
    JobPage,
    JobStatusAnswer,
    StatusAnswer,
    job_answer,
    job_detail,
    job_status_answer,
    status_answer,
)
from qgjet_projections.api.problems import documented
from qgjet_projections.api.reads import Cursor, Limit, OrgId, Reads, TheService
from qgjet_projections.readmodel.views import JobQuery, JobView
from qgjet_projections.service import Service
from qgjet_projections.usecases import commands
from qgjet_projections.usecases.pending import Surroundings
from qgjet_projections.usecases.results import CancelAnswer, Submission

Tags = Annotated[
    list[str] | None, QueryParameter(name="tag", description="`key:value`; several must all hold.")
]


class CancelRequest(Struct, frozen=True, forbid_unknown_fields=True):
    reason: ShortText = ""
    suite_id: str = ""
    """Cancel it for this suite only: it goes on while another one waits for it. Empty: for all."""


class RerunRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    priority: int | None = None
    """0-9; None: as before."""
    suite_id: str = ""
    """The suite of the new job. Empty: none, so that a suite that has its result keeps it."""


@get(
    "/status/{job_id:str}",
    summary="Status of a job",
    responses=documented(400, 404, 503),
    opt=READ,
    tags=["compatibility"],
)
async def status(service: TheService, reads: Reads, job_id: FromPath[str]) -> StatusAnswer:
    return status_answer(await commands.known_job(service, reads, job_id))


@get(
    "/jobs/{job_id:str}/status",
    summary="Status of a job, as `qgjob` 1.4.0 reads it",
    responses=documented(400, 404, 503),
    opt=READ,
    tags=["compatibility"],
)
async def job_status(service: TheService, reads: Reads, job_id: FromPath[str]) -> JobStatusAnswer:
    return job_status_answer(await commands.known_job(service, reads, job_id))


@get(
    "/jobs",
    summary="List jobs, last submitted first",
    responses=documented(400, 503),
    opt=READ,
    tags=["jobs"],
)
async def jobs(
    service: TheService,
    reads: Reads,
    org_id: OrgId = None,
    app_version_id: FromQuery[str | None] = None,
    target: FromQuery[str | None] = None,
    test: FromQuery[str | None] = None,
    status: FromQuery[Status | None] = None,
    verdict: FromQuery[Verdict | None] = None,
    suite_id: FromQuery[str | None] = None,
    tags: Tags = None,
    cursor: Cursor = None,
    limit: Limit = 100,
) -> JobPage:
    query = JobQuery(
        org_id=org_id,
        app_version_id=app_version_id,
        target=target,
        test=test,
        status=status,
        verdict=verdict,
        suite_id=suite_id,
        tags=tags_of(tags or []),
        cursor=cursor,
        limit=limit,
    )
    page = await asyncio.to_thread(reads.jobs, query)
    return JobPage(jobs=await job_answers(service, page.items), next_cursor=page.next_cursor)


async def job_answers(service: Service, found: list[JobView]) -> list[JobAnswer]:
    around = await surroundings(service, asked=any(job.status is Status.QUEUED for job in found))
    return [job_answer(job, around) for job in found]


async def surroundings(service: Service, *, asked: bool = True) -> Surroundings:
    """`asked`: whether somebody will look at agents and pauses at all."""
    if not asked:
        return Surroundings(now=service.clock(), agents=None, pauses=Pauses())
    return Surroundings(
        now=service.clock(),
        agents=await service.agents_if_known(),
        pauses=await asyncio.to_thread(service.pauses),
    )


def tags_of(given: list[str]) -> dict[str, str]:
    pairs = [one.partition(":") for one in given]
    if any(not colon for _, colon, _ in pairs):
        raise ValidationException(extra=[{"key": "tag", "message": "must be key:value"}])
    return {key: value for key, _, value in pairs}


@get(
    "/jobs/{job_id:str}",
    summary="A job with its attempts and their tests",
    responses=documented(400, 404, 503),
    opt=READ,
    tags=["jobs"],
)
async def job(service: TheService, reads: Reads, job_id: FromPath[str]) -> JobDetail:
    found = await commands.known_job(service, reads, job_id)
    around = await surroundings(service, asked=found.status is Status.QUEUED)
    return job_detail(found, await asyncio.to_thread(reads.attempts, job_id), around)


@post(
    "/jobs/{job_id:str}/cancel",
    status_code=202,
    summary="Cancel a job",
    description="200: it is cancelled, or goes on for another suite than the given one (`cancel_requested` is false then). 202: it runs, and its agent "
    "was asked to stop it. A second call changes nothing.",
    responses={
        200: ResponseSpec(CancelAnswer, generate_examples=False, description="Cancelled"),
        **documented(400, 404, 409, 413, 415, 503),
    },
    opt=SUBMIT,
    tags=["jobs"],
)
async def cancel(
    service: TheService,
    caller: TheCaller,
    reads: Reads,
    job_id: FromPath[str],
    data: JSONBody[CancelRequest | None] = None,
) -> Response[CancelAnswer]:
    asked = data or CancelRequest()
    answer = await commands.cancel(service, caller, job_id, asked.reason, asked.suite_id)
    return Response(
        answer,
        status_code=202
        if answer.cancel_requested and answer.status is not Status.CANCELLED
        else 200,
    )


@post(
    "/jobs/{job_id:str}/rerun",
    status_code=202,
    summary="Run a job's work again, as a new job",
    description="The new job names the old one in `rerun_of`. 409 while a live job holds the slot.",
    responses=documented(400, 404, 409, 413, 415, 503),
    opt=SUBMIT,
    tags=["jobs"],
)
async def rerun(
    service: TheService,
    caller: TheCaller,
    reads: Reads,
    job_id: FromPath[str],
    data: JSONBody[RerunRequest | None] = None,
) -> Response[Submission]:
    asked = data or RerunRequest()
    answer = await commands.rerun(
        service, caller, job_id, priority=asked.priority, suite_id=asked.suite_id
    )
    return Response(answer, status_code=202, headers={"Location": f"/jobs/{answer.job_id}"})
