"""`/ui/dead`: jobs that ended without a statement about the app."""

from __future__ import annotations

import asyncio

from litestar import Response, get

from qgjet.domain.events import Verdict
from qgjet_projections.api.access import READ
from qgjet_projections.api.reads import Cursor, Reads, TheService
from qgjet_projections.readmodel.views import DeadQuery
from qgjet_projections.web.page import AnyRequest, page, query
from qgjet_projections.web.pages.jobs import chosen, given

PAGE = 30
FILTERS = ("target", "org_id", "app_version_id", "test", "reason", "verdict")


@get("/ui/dead", opt=READ, include_in_schema=False)
async def dead(
    request: AnyRequest, service: TheService, reads: Reads, cursor: Cursor = None
) -> Response[bytes]:
    values = given(request, *FILTERS, "settled")
    live = query({"after": service.applied_seq})
    found = await asyncio.to_thread(reads.dead_letters, query_of(values, cursor or None))
    return page(
        request,
        service,
        "dead.html",
        live=live,
        letters=found.items,
        values=values,
        next_cursor=found.next_cursor,
    )


def query_of(values: dict[str, str], cursor: str | None = None) -> DeadQuery:
    return DeadQuery(
        org_id=values.get("org_id"),
        app_version_id=values.get("app_version_id"),
        target=values.get("target"),
        test=values.get("test"),
        reason=values.get("reason"),
        verdict=chosen(values, "verdict", Verdict),
        settled=bool(values.get("settled")),
        cursor=cursor,
        limit=PAGE,
    )
