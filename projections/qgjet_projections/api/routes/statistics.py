"""Routes about how things went: jobs by the hour, tests over days."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated

from litestar import get
from litestar.params import FromQuery, QueryParameter
from msgspec import Struct

from qgjet_projections.api.access import READ
from qgjet_projections.api.problems import documented
from qgjet_projections.api.reads import Cursor, OrgId, Reads, TheService
from qgjet_projections.readmodel import MAX_LIMIT
from qgjet_projections.readmodel.views import (
    HourView,
    JobQuery,
    JobView,
    Order,
    TestDay,
    TestQuery,
    TestView,
    rates_of,
)

Hours = Annotated[int, QueryParameter(ge=1, le=24 * 90, description="How far back.")]
Days = Annotated[
    int,
    QueryParameter(ge=1, le=366, description="How far back: whole days, UTC, today among them."),
]
Most = Annotated[int, QueryParameter(ge=1, le=1000, description="At most so many.")]


class HourList(Struct, frozen=True, kw_only=True):
    hours: list[HourView]
    """Those in which jobs ended."""


class TestPage(Struct, frozen=True, kw_only=True):
    tests: list[TestView]
    next_cursor: str | None


class TestVersion(Struct, frozen=True, kw_only=True):
    """How the test went for an app version on one target, over its latest jobs."""

    app_version_id: str
    target: str
    runs: int
    verdicts: dict[str, int]
    pass_rate: float | None
    flaky_rate: float | None
    mean_s: float | None


class TestHistory(Struct, frozen=True, kw_only=True):
    test: str
    days: list[TestDay]
    versions: list[TestVersion]
    """Of its latest 500 jobs, the one that was submitted last first."""


@get(
    "/stats/hours",
    summary="Jobs that ended, by the hour and verdict",
    responses=documented(400, 503),
    opt=READ,
    tags=["statistics"],
)
async def hours(
    service: TheService,
    reads: Reads,
    org_id: OrgId = None,
    target: FromQuery[str | None] = None,
    hours: Hours = 24,
) -> HourList:
    since = service.clock() - timedelta(hours=hours - 1)
    return HourList(
        hours=await asyncio.to_thread(lambda: reads.hours(since, org_id=org_id, target=target))
    )


@get(
    "/tests",
    summary="How tests went over the last days",
    responses=documented(400, 503),
    opt=READ,
    tags=["statistics"],
)
async def list_tests(
    service: TheService,
    reads: Reads,
    org_id: OrgId = None,
    target: FromQuery[str | None] = None,
    days: Days = 14,
    order: FromQuery[Order] = Order.FAILING,
    cursor: Cursor = None,
    limit: Most = 100,
) -> TestPage:
    query = TestQuery(
        org_id=org_id,
        target=target,
        since=since_day(service.clock(), days),
        order=order,
        cursor=cursor,
        limit=limit,
    )
    page = await asyncio.to_thread(reads.tests, query)
    return TestPage(tests=page.items, next_cursor=page.next_cursor)


@get(
    "/tests/history",
    summary="A test, day by day and by app version, on each target",
    responses=documented(400, 503),
    opt=READ,
    tags=["statistics"],
)
async def history_of_test(
    service: TheService,
    reads: Reads,
    test: FromQuery[str],
    org_id: OrgId = None,
    target: FromQuery[str | None] = None,
    days: Days = 30,
) -> TestHistory:
    query = TestQuery(
        org_id=org_id, target=target, test=test, since=since_day(service.clock(), days)
    )
    days_of = await asyncio.to_thread(reads.test_days, query)
    latest = await asyncio.to_thread(
        reads.jobs, JobQuery(org_id=org_id, target=target, test=test, limit=MAX_LIMIT)
    )
    return TestHistory(test=test, days=days_of, versions=versions_of(latest.items))


def versions_of(jobs: Sequence[JobView]) -> list[TestVersion]:
    groups: dict[tuple[str, str], list[JobView]] = {}
    for job in jobs:
        if job.verdict is not None:
            groups.setdefault((job.app_version_id, job.target), []).append(job)
    return [_version(version, target, found) for (version, target), found in groups.items()]


def _version(version: str, target: str, found: Sequence[JobView]) -> TestVersion:
    verdicts = Counter(job.verdict.value for job in found if job.verdict is not None)
    rates = rates_of(verdicts)
    times = [job.duration_s for job in found if job.duration_s is not None]
    return TestVersion(
        app_version_id=version,
        target=target,
        runs=rates.runs,
        verdicts=dict(verdicts),
        pass_rate=rates.passed,
        flaky_rate=rates.flaky,
        mean_s=sum(times) / len(times) if times else None,
    )


def since_day(now: datetime, days: int) -> datetime:
    return now - timedelta(days=days - 1)
