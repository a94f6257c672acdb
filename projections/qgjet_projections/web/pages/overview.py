"""`/`: what runs, what waits and why, who works, how it went."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from litestar import Response, get
from markupsafe import Markup
from msgspec import Struct

from qgjet.store.agent_registry import AgentInfo
from qgjet_projections.api.access import READ, Caller, TheCaller
from qgjet_projections.api.answers import partition_answer, suite_answer
from qgjet_projections.api.reads import Reads, TheService
from qgjet_projections.api.routes.jobs import surroundings
from qgjet_projections.api.routes.suites import visible
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.readmodel.views import HourView, PartitionView, rates_of
from qgjet_projections.service import Service
from qgjet_projections.usecases.pending import PendingReason, Surroundings
from qgjet_projections.web import charts
from qgjet_projections.web.live import agents_seen
from qgjet_projections.web.page import AnyRequest, page, query, since

HOURS = 24
SUITES = 8
MOST_PARTITIONS = MOST_PLACES = 40


@get("/", opt=READ, include_in_schema=False)
async def overview(
    request: AnyRequest, service: TheService, caller: TheCaller, reads: Reads
) -> Response[bytes]:
    seq = service.applied_seq  # before anything is read: what comes in between moves the page once too often, not once too little
    seen = await agents_seen(service, caller, reads)
    around = await surroundings(service)
    context = await asyncio.to_thread(_context, service, caller, reads, around)
    return page(
        request,
        service,
        "overview.html",
        live=query({"agents": "true", "seen": seen, "after": seq}),
        **context,
    )


def _context(
    service: Service, caller: Caller, reads: ReadModel, around: Surroundings
) -> dict[str, Any]:
    partitions = reads.partitions()
    first = since(around.now, hours=HOURS)
    places = reads.hours_by_place(first)
    by_hour = _added(places.values())
    verdicts = sum(by_hour.values(), Counter[str]())
    pauses = around.pauses.in_force(around.now)
    agents = _agents(around.agents, caller, reads)
    paused = {pause.name for pause in pauses if pause.kind == "target"}
    targets = (
        {one.target for one in partitions}
        | {target for target, _ in places}
        | {one.target for agent in agents or [] for one in agent.targets}
    )
    lanes = [partition_answer(one, around) for one in _longest(partitions)]
    order = service.deployment.priority_order
    return {
        "pauses": [
            pause
            for pause in pauses
            if pause.kind == "target" or caller.orgs is None or pause.name in caller.orgs
        ],
        "paused_targets": paused,
        "may_pause": sorted(targets - paused) if caller.orgs is None else [],
        "running": sum(one.running for one in partitions),
        "queued": sum(one.queued for one in partitions),
        "oldest": min(
            (one.oldest_queued_at for one in partitions if one.oldest_queued_at), default=None
        ),
        "ended": verdicts.total(),
        "pass_rate": rates_of(verdicts).passed,
        "dead": reads.dead_count(),
        "lag": service.lag,
        "targets": lanes,
        "served_by_none": sorted(
            {one.target for one in lanes if one.pending_reason is PendingReason.NO_AGENT}
        ),
        "priority_of": lambda rank: rank if order == "low-first" else 9 - rank,
        "chart": charts.hours(by_hour, first, HOURS),
        "rates": charts.pass_rates(by_hour, first, HOURS),
        "legend": charts.LEGEND,
        "places": [
            _place(target, org_id, places[target, org_id], first)
            for target, org_id in _busiest(places)
        ],
        "more_places": max(len(places) - MOST_PLACES, 0),
        "orgs": sorted({one.org_id for one in partitions} | {org_id for _, org_id in places}),
        "agents": agents,
        "tests": _tests(reads, agents or []),
        "suites": [suite_answer(one) for one in reads.suites(limit=SUITES).items],
    }


class Place(Struct, frozen=True, kw_only=True):
    """How it went on one target for one org."""

    target: str
    org_id: str
    ended: int
    pass_rate: float | None
    chart: Markup


def _place(target: str, org_id: str, found: list[HourView], first: datetime) -> Place:
    by_hour = _added([found])
    verdicts = sum(by_hour.values(), Counter[str]())
    chart = charts.small_hours(by_hour, first, HOURS, f"{target} for {org_id}")
    return Place(
        target=target,
        org_id=org_id,
        ended=verdicts.total(),
        pass_rate=rates_of(verdicts).passed,
        chart=chart,
    )


def _busiest(places: dict[tuple[str, str], list[HourView]]) -> list[tuple[str, str]]:
    """Where most jobs have ended, in an order that stays."""
    return sorted(
        sorted(places, key=lambda place: -sum(sum(one.verdicts.values()) for one in places[place]))[
            :MOST_PLACES
        ]
    )


def _added(places: Iterable[list[HourView]]) -> dict[datetime, Counter[str]]:
    hours: dict[datetime, Counter[str]] = {}
    for found in places:
        for one in found:
            hours.setdefault(one.hour, Counter()).update(one.verdicts)
    return hours


def _longest(partitions: list[PartitionView]) -> list[PartitionView]:
    """Those in which most waits, in an order in which no row changes its place while the queue
    moves.
    """
    found = sorted(partitions, key=lambda one: (-one.queued, -one.running))[:MOST_PARTITIONS]
    return sorted(found, key=lambda one: (one.target, one.org_id, one.app_version_id))


def _agents(found: Any, caller: Caller, reads: ReadModel) -> list[AgentInfo] | None:
    if found is None:
        return None
    return list(found) if caller.orgs is None else visible(found, reads, caller.orgs)


def _tests(reads: ReadModel, agents: list[AgentInfo]) -> dict[str, str]:
    """Running job -> its test."""
    wanted = [job_id for agent in agents for job_id in agent.running[:6]]
    found = (reads.job(job_id) for job_id in wanted)
    return {job.job_id: job.test for job in found if job is not None}
