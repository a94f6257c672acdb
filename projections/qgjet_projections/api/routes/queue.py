"""Routes that steer the queue: pause and resume, drain an agent, another priority."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from litestar import get, post
from litestar.params import FromPath, JSONBody
from msgspec import Struct

from qgjet.domain.control import Pauses
from qgjet.domain.events import Instant
from qgjet.errors import InvalidInput
from qgjet.support.text import ShortText
from qgjet_projections.api.access import OPERATE, READ, TheCaller
from qgjet_projections.api.answers import DrainAnswer, PauseAnswer, PauseList, PriorityAnswer
from qgjet_projections.api.problems import documented
from qgjet_projections.api.reads import Reads, TheService
from qgjet_projections.api.routes.jobs import CancelRequest
from qgjet_projections.service import Service
from qgjet_projections.usecases import decisions

LONGEST_PAUSE_S = 366 * 86_400.0


class ResumeRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A target or an org, one of them."""

    target: str = ""
    org_id: str = ""
    reason: ShortText = ""


class PauseRequest(ResumeRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    until: Instant | None = None
    """When it ends by itself. Neither this nor `for_s`: when somebody resumes it."""
    for_s: float | None = None
    """The same, in seconds from now."""


class PriorityRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    priority: int
    """0-9"""


@get(
    "/queue/pauses",
    summary="Targets and orgs that are paused",
    responses=documented(400, 503),
    opt=READ,
    tags=["queue"],
)
async def pauses(service: TheService, reads: Reads) -> PauseList:
    """Of targets, which concern everybody, and of the caller's orgs."""
    found = Pauses(await asyncio.to_thread(reads.pauses))
    return PauseList(
        pauses=[
            PauseAnswer(
                kind=one.kind,
                name=one.name,
                paused=True,
                at=one.at,
                until=one.until,
                by=one.by,
                reason=one.reason,
            )
            for one in found.in_force(service.clock())
        ]
    )


@post(
    "/queue/pause",
    status_code=200,
    summary="Start nothing more of a target or an org",
    description="Its jobs wait, what runs goes on. Agents know within moments. A second call replaces `until` and `reason`.",
    responses=documented(400, 413, 415, 503),
    opt=OPERATE,
    tags=["queue"],
)
async def pause(
    service: TheService, caller: TheCaller, data: JSONBody[PauseRequest]
) -> PauseAnswer:
    scope, until = decisions.scope_of(data.target, data.org_id), _until(service, data)
    seq = await decisions.pause(service, caller, scope, until=until, reason=data.reason)
    return PauseAnswer(
        kind=scope.kind,
        name=scope.name,
        paused=True,
        at=service.clock(),
        until=until,
        by=caller.by,
        reason=data.reason,
        seq=seq,
    )


def _until(service: Service, asked: PauseRequest) -> datetime | None:
    if asked.for_s is None:
        return asked.until
    if asked.until is not None:
        raise InvalidInput("for_s", "give `until` or `for_s`, not both")
    if not 0 < asked.for_s <= LONGEST_PAUSE_S:
        raise InvalidInput("for_s", "must be more than 0 seconds, and a year at most")
    return service.clock() + timedelta(seconds=asked.for_s)


@post(
    "/queue/resume",
    status_code=200,
    summary="Go on with a target or an org",
    description="Harmless when it is not paused. A job whose org and target are both paused waits for both.",
    responses=documented(400, 413, 415, 503),
    opt=OPERATE,
    tags=["queue"],
)
async def resume(
    service: TheService, caller: TheCaller, data: JSONBody[ResumeRequest]
) -> PauseAnswer:
    scope = decisions.scope_of(data.target, data.org_id)
    seq = await decisions.resume(service, caller, scope, reason=data.reason)
    return PauseAnswer(
        kind=scope.kind,
        name=scope.name,
        paused=False,
        at=service.clock(),
        until=None,
        by=caller.by,
        reason=data.reason,
        seq=seq,
    )


@post(
    "/agents/{agent:str}/drain",
    status_code=202,
    summary="Ask an agent to finish what it runs, and to end",
    description="By its instance id, or by its name where only one has it. Whoever supervises the process may start it again.",
    responses=documented(400, 404, 413, 415, 503),
    opt=OPERATE,
    tags=["queue"],
)
async def drain(
    service: TheService,
    caller: TheCaller,
    agent: FromPath[str],
    data: JSONBody[CancelRequest | None] = None,
) -> DrainAnswer:
    return DrainAnswer(
        agent=agent,
        seq=await decisions.drain(service, caller, agent, reason=data.reason if data else ""),
    )


@post(
    "/jobs/{job_id:str}/priority",
    status_code=200,
    summary="Give a queued job another priority",
    description="It keeps its place among its equals by when it was given this priority. 409 when it is not queued any more.",
    responses=documented(400, 404, 409, 413, 415, 503),
    opt=OPERATE,
    tags=["jobs"],
)
async def priority(
    service: TheService,
    caller: TheCaller,
    reads: Reads,
    job_id: FromPath[str],
    data: JSONBody[PriorityRequest],
) -> PriorityAnswer:
    before, seq = await decisions.reprioritize(service, caller, job_id, data.priority)
    return PriorityAnswer(job_id=job_id, priority=data.priority, before=before.priority, seq=seq)
