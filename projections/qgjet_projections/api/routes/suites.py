"""Routes about suites, partitions and agents."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from litestar import Response, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody
from msgspec.structs import replace

from qgjet.domain.events import Status
from qgjet.store.agent_registry import AgentInfo
from qgjet_projections.api.access import READ, SUBMIT, TheCaller
from qgjet_projections.api.answers import (
    AgentList,
    PartitionList,
    SuiteCancelAnswer,
    SuiteDetail,
    SuitePage,
    partition_answer,
    suite_answer,
    suite_detail,
)
from qgjet_projections.api.problems import documented
from qgjet_projections.api.reads import Cursor, Limit, OrgId, Reads, TheService
from qgjet_projections.api.routes.jobs import CancelRequest, job_answers, surroundings
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.readmodel.views import JobQuery
from qgjet_projections.usecases import commands


@get(
    "/suites",
    summary="List suites, newest first",
    responses=documented(400, 503),
    opt=READ,
    tags=["suites"],
)
async def suites(
    reads: Reads, org_id: OrgId = None, cursor: Cursor = None, limit: Limit = 100
) -> SuitePage:
    page = await asyncio.to_thread(reads.suites, org_id, limit, cursor)
    return SuitePage(suites=[suite_answer(one) for one in page.items], next_cursor=page.next_cursor)


@get(
    "/suites/{suite_id:str}",
    summary="A suite with its verdict and its jobs",
    responses=documented(400, 404, 503),
    opt=READ,
    tags=["suites"],
)
async def suite(
    service: TheService,
    reads: Reads,
    suite_id: FromPath[str],
    org_id: OrgId = None,
    cursor: Cursor = None,
    limit: Limit = 500,
) -> SuiteDetail:
    found = await commands.known_suite(service, reads, suite_id, org_id)
    page = await asyncio.to_thread(
        reads.jobs, JobQuery(org_id=found.org_id, suite_id=suite_id, cursor=cursor, limit=limit)
    )
    return suite_detail(found, await job_answers(service, page.items), page.next_cursor)


@post(
    "/suites/{suite_id:str}/cancel",
    status_code=202,
    summary="Cancel the live jobs of a suite",
    description="200: none was running, all are ended. 202: running ones were asked to stop. Jobs that another suite waits for go on (`kept`). "
    "A second call changes nothing.",
    responses={
        200: ResponseSpec(SuiteCancelAnswer, generate_examples=False, description="All ended"),
        **documented(400, 404, 413, 415, 503),
    },
    opt=SUBMIT,
    tags=["suites"],
)
async def cancel_suite(
    service: TheService,
    caller: TheCaller,
    reads: Reads,
    suite_id: FromPath[str],
    org_id: OrgId = None,
    data: JSONBody[CancelRequest | None] = None,
) -> Response[SuiteCancelAnswer]:
    found = await commands.known_suite(service, reads, suite_id, org_id)
    ended = await commands.cancel_suite(service, caller, found, data.reason if data else "")
    kept = sum(not answer.cancel_requested for answer in ended)
    cancelling = sum(
        answer.status is Status.RUNNING and answer.cancel_requested for answer in ended
    )
    answer = SuiteCancelAnswer(
        suite_id=suite_id,
        cancelled=len(ended) - cancelling - kept,
        cancelling=cancelling,
        kept=kept,
        seq=max((answer.seq for answer in ended), default=found.seq),
    )
    return Response(answer, status_code=202 if cancelling else 200)


@get(
    "/partitions",
    summary="Partitions with live jobs: the queue",
    responses=documented(400, 503),
    opt=READ,
    tags=["queue"],
)
async def partitions(service: TheService, reads: Reads) -> PartitionList:
    around = await surroundings(service)
    found = await asyncio.to_thread(reads.partitions)
    return PartitionList(
        priority_order=service.deployment.priority_order,
        partitions=[partition_answer(one, around) for one in found],
    )


@get(
    "/agents", summary="Agents that are alive", responses=documented(503), opt=READ, tags=["queue"]
)
async def agents(service: TheService, caller: TheCaller) -> AgentList:
    found = await service.agents()
    return AgentList(
        agents=found
        if caller.orgs is None
        else await asyncio.to_thread(
            visible, found, service.read_model.seen_by(caller.orgs), caller.orgs
        )
    )


def visible(
    agents: Sequence[AgentInfo], reads: ReadModel, orgs: Collection[str]
) -> list[AgentInfo]:
    """Agents serve all orgs: what is left of them are the jobs that `reads` knows, and the
    partitions of `orgs`, where it is certain whose they are.
    """
    return [
        replace(
            agent,
            running=tuple(job_id for job_id in agent.running if reads.job(job_id) is not None),
            warm=tuple(
                partition
                for partition in agent.warm
                if partition.count("/") == 2 and partition.split("/")[0] in orgs
            ),
        )
        for agent in agents
    ]
