"""`/ui/tests`: how tests went over the last days, and one test's history."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from litestar import Response, get
from msgspec import Struct

from qgjet.errors import InvalidInput
from qgjet_projections.api.access import READ
from qgjet_projections.api.reads import Cursor, Reads, TheService
from qgjet_projections.api.routes.jobs import job_answers
from qgjet_projections.api.routes.statistics import since_day, versions_of
from qgjet_projections.readmodel import MAX_LIMIT
from qgjet_projections.readmodel.views import JobQuery, Order, TestDay, TestQuery
from qgjet_projections.web import charts, text
from qgjet_projections.web.page import AnyRequest, page, query
from qgjet_projections.web.pages.jobs import chosen, given

DEFAULT_DAYS, MOST_DAYS = 14, 366
TESTS = 70
PAGE, VERSIONS = 30, 40
ORDERS = (
    (Order.FAILING, "failing most"),
    (Order.FLAKIEST, "flakiest"),
    (Order.SLOWEST, "slowest"),
    (Order.NAME, "by name"),
)


@get("/ui/tests", opt=READ, include_in_schema=False)
async def tests(request: AnyRequest, service: TheService, reads: Reads) -> Response[bytes]:
    values = given(request, "order", "days", "target", "org_id")
    days = _days(values, DEFAULT_DAYS)
    order = chosen(values, "order", Order) or Order.FAILING
    wanted = TestQuery(
        org_id=values.get("org_id"),
        target=values.get("target"),
        since=since_day(service.clock(), days),
        order=order,
        cursor=values.get("cursor"),
        limit=TESTS,
    )
    live = query({"slow": "true", "after": service.applied_seq})
    found = await asyncio.to_thread(reads.tests, wanted)
    shown = [(one, charts.share(one.verdicts, {})) for one in found.items]
    return page(
        request,
        service,
        "tests.html",
        live=live,
        tests=shown,
        values=values,
        days=days,
        orders=ORDERS,
        next_cursor=found.next_cursor,
    )


def _days(values: dict[str, str], otherwise: int) -> int:
    text = values.get("days", "")
    if not text:
        return otherwise
    if not (text.isascii() and text.isdecimal() and len(text) < 4 and 0 < int(text) <= MOST_DAYS):
        raise InvalidInput("days", f"must be a number from 1 to {MOST_DAYS}")
    return int(text)


class Target(Struct, frozen=True, kw_only=True):
    """A test's history on one target."""

    name: str
    runs: int
    pass_rate: float | None
    flaky_rate: float | None
    rates: Any
    times: Any


@get("/ui/tests/history", opt=READ, include_in_schema=False)
async def history(
    request: AnyRequest, service: TheService, reads: Reads, cursor: Cursor = None
) -> Response[bytes]:
    values = given(request, "test", "org_id", "target", "days")
    if "test" not in values:
        raise InvalidInput("test", "is needed: /ui/tests/history?test=…")
    now, days = service.clock(), _days(values, 30)
    wanted = TestQuery(
        org_id=values.get("org_id"),
        target=values.get("target"),
        test=values["test"],
        since=since_day(now, days),
    )
    live = query({"slow": "true", "after": service.applied_seq})
    found = await asyncio.to_thread(reads.test_days, wanted)
    jobs = await asyncio.to_thread(
        reads.jobs,
        JobQuery(
            org_id=values.get("org_id"),
            target=values.get("target"),
            test=values["test"],
            cursor=cursor or None,
            limit=PAGE,
        ),
    )
    latest = await asyncio.to_thread(
        reads.jobs,
        JobQuery(
            org_id=values.get("org_id"),
            target=values.get("target"),
            test=values["test"],
            limit=MAX_LIMIT,
        ),
    )
    first = wanted.since.replace(hour=0, minute=0, second=0, microsecond=0)
    targets = [
        _target(name, [one for one in found if one.target == name], first, days)
        for name in sorted({one.target for one in found})
    ]
    return page(
        request,
        service,
        "history.html",
        live=live,
        test=values["test"],
        targets=targets,
        versions=[
            (one, charts.share(one.verdicts, {})) for one in versions_of(latest.items)[:VERSIONS]
        ],
        days=days,
        jobs=await job_answers(service, jobs.items),
        values=values,
        next_cursor=jobs.next_cursor,
    )


def _target(name: str, found: Sequence[TestDay], first: datetime, days: int) -> Target:
    by_day = {one.day: one for one in found}
    each = [by_day.get(first + timedelta(days=place)) for place in range(days)]
    runs = sum(one.runs for one in found)
    passed = sum((one.pass_rate or 0.0) * one.runs for one in found)
    flaky = sum((one.flaky_rate or 0.0) * one.runs for one in found)
    on = [first + timedelta(days=place) for place in range(days)]
    rates, times = (
        [(day, getattr(one, name, None)) for day, one in zip(on, each, strict=True)]
        for name in ("pass_rate", "mean_s")
    )
    return Target(
        name=name,
        runs=runs,
        pass_rate=passed / runs if runs else None,
        flaky_rate=flaky / runs if runs else None,
        rates=charts.line(
            rates, f"Share that passed on {name}, by day", say=text.percent, show="day", most=1.0
        ),
        times=charts.line(times, f"Mean time on {name}, by day", say=text.duration, show="day"),
    )
