"""`/ui/live`: tells a page that it would look different now. Server-sent events that resume by the
sequence of the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from hashlib import blake2b

import msgspec
from litestar import get
from litestar.params import FromQuery
from litestar.response import Stream

from qgjet.store.agent_registry import AgentInfo
from qgjet_projections.api.access import READ, Caller, TheCaller
from qgjet_projections.api.reads import TheService
from qgjet_projections.api.routes.events import (
    KEEP_ALIVE_S,
    MEDIA_TYPE,
    After,
    Filter,
    LastEventId,
    start_of,
)
from qgjet_projections.api.routes.suites import visible
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.service import Service

PACE_S = 1.0
"""A page need not move more often."""
SLOW_PACE_S = 15.0
"""Of a page about days: one job more changes little there."""
LOOK_S = 3.0
"""How often what is not in the log is looked at: agents, for pages that show them, and whether the
server is well.
"""
PATIENCE_S = 2.0
"""A connection that is lost for less is not worth a notice."""


@get("/ui/live", opt=READ, include_in_schema=False, media_type=MEDIA_TYPE)
async def live(
    service: TheService,
    caller: TheCaller,
    job_id: FromQuery[str | None] = None,
    suite_id: FromQuery[str | None] = None,
    agents: FromQuery[bool] = False,
    slow: FromQuery[bool] = False,
    seen: FromQuery[str] = "",
    ailing: FromQuery[bool] = False,
    after: After = None,
    last_event_id: LastEventId = None,
) -> Stream:
    caller.open_stream()
    start = start_of(last_event_id, after, service.applied_seq)
    headers = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}
    wanted, pace_s = Filter(job_id=job_id, suite_id=suite_id), SLOW_PACE_S if slow else PACE_S
    moving = changes(
        service, caller, wanted, start, agents=agents, seen=seen, ailing=ailing, pace_s=pace_s
    )
    return Stream(moving, media_type=MEDIA_TYPE, headers=headers)


async def changes(
    service: Service,
    caller: Caller,
    wanted: Filter,
    after: int,
    *,
    agents: bool,
    seen: str = "",
    ailing: bool = False,
    pace_s: float,
) -> AsyncIterator[bytes]:
    """`changed` whenever the caller would see something else than at `after`; ends when the process
    closes, or the token does.

    `seen`: the agents that the page shows, as `agents_seen` gave them; empty: those of this moment. `ailing`: whether it says that the server is not well.
    """
    yield b"retry: 1000\n\n"
    time, reads = asyncio.get_running_loop().time, service.read_model.seen_by(caller.orgs)
    seen = seen or (await agents_seen(service, caller, reads) if agents else "")
    sent_at = time()
    while not service.closing.is_set() and caller.lasts():
        applied = service.applied_seq
        now_seen = await agents_seen(service, caller, reads) if agents else seen
        now_ailing = bool(service.ailments(patience_s=PATIENCE_S))
        # less than there was: the read model is made anew, and the page shows what is not there any
        # more
        moved = applied < after or (
            applied > after
            and bool((await service.read_for_stream(wanted.page, reads, after, 1))[0])
        )
        if moved or now_seen != seen or now_ailing is not ailing:
            after, seen, ailing, sent_at = applied, now_seen, now_ailing, time()
            yield b"id: %d\nevent: changed\ndata: %d\n\n" % (applied, applied)
            await service.rest(pace_s)
            continue
        after = applied
        if time() - sent_at >= KEEP_ALIVE_S:
            sent_at = time()
            yield b": still here\n\n"
        await service.moved_on(after, LOOK_S)


async def agents_seen(service: Service, caller: Caller, reads: ReadModel) -> str:
    """Another text for other agents, or another state of theirs."""
    return blake2b(
        msgspec.json.encode(await _agents(service, caller, reads)), digest_size=8
    ).hexdigest()


async def _agents(service: Service, caller: Caller, reads: ReadModel) -> list[AgentInfo] | None:
    """As the caller may see them: what they do for others moves no page of his."""
    found = await service.agents_if_known()
    return (
        found
        if found is None or caller.orgs is None
        else await service.read_for_stream(visible, found, reads, caller.orgs)
    )
