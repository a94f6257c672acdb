"""The event log over HTTP: pages of JSON, or server-sent events that resume exactly where they
broke off.

A stream holds a position and nothing else. When the read model has moved on it reads the next page
from SQLite, so a slow client costs no memory: it reads late. `id` is the stream sequence, `event`
the type, `data` the event as it stands in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.exceptions import ValidationException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery, HeaderParameter, QueryParameter
from litestar.response import Stream
from msgspec import Struct

from qgjet_projections.api.access import READ, Caller, TheCaller
from qgjet_projections.api.answers import EventPage, event_answer
from qgjet_projections.api.problems import documented
from qgjet_projections.api.reads import OrgId, Reads, TheService
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.readmodel.views import EventView
from qgjet_projections.service import Service
from qgjet_projections.usecases import commands

KEEP_ALIVE_S = 15.0
PAGE = 200
MEDIA_TYPE = "text/event-stream"

After = Annotated[int | None, QueryParameter(ge=0, description="Events after this sequence only.")]
LastEventId = Annotated[
    str | None,
    HeaderParameter(
        name="Last-Event-ID", description="Sent by browsers that reconnect; goes before `after`."
    ),
]
STREAM_SPEC = ResponseSpec(
    str,
    generate_examples=False,
    description="Server-sent events: `id` is the stream sequence, `event` the type",
    media_type=MEDIA_TYPE,
)


class Filter(Struct, frozen=True, kw_only=True):
    org_id: str | None = None
    job_id: str | None = None
    suite_id: str | None = None

    def page(self, reads: ReadModel, after: int, limit: int) -> tuple[list[EventView], bool]:
        """Events, bounded in number and bytes, and whether more may follow."""
        return reads.event_page(
            after_seq=after,
            job_id=self.job_id,
            org_id=self.org_id,
            suite_id=self.suite_id,
            limit=limit,
        )


@get(
    "/events",
    summary="Follow the event log",
    description="Server-sent events. Without `Last-Event-ID` and `after` it begins with what happens next; `after=0` begins with the first event kept.",
    media_type=MEDIA_TYPE,
    responses={200: STREAM_SPEC, **documented(400, 503)},
    opt=READ,
    tags=["events"],
)
async def events(
    service: TheService,
    caller: TheCaller,
    reads: Reads,
    org_id: OrgId = None,
    job_id: FromQuery[str | None] = None,
    suite_id: FromQuery[str | None] = None,
    after: After = None,
    last_event_id: LastEventId = None,
) -> Stream:
    start = start_of(last_event_id, after, service.applied_seq)
    return _stream(service, caller, Filter(org_id=org_id, job_id=job_id, suite_id=suite_id), start)


@get(
    "/jobs/{job_id:str}/events",
    summary="Events of a job, oldest first",
    description="JSON, in pages; with `Accept: text/event-stream` server-sent events that go on with what happens next.",
    responses={
        200: ResponseSpec(EventPage, generate_examples=False, description="Events"),
        **documented(400, 404, 503),
    },
    opt=READ,
    tags=["events"],
)
async def job_events(
    request: Request[Any, Any, Any],
    service: TheService,
    caller: TheCaller,
    reads: Reads,
    job_id: FromPath[str],
    after: After = None,
    limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 200,
    last_event_id: LastEventId = None,
) -> Response[EventPage] | Stream:
    await commands.known_job(service, reads, job_id)
    wanted = Filter(job_id=job_id)
    start = start_of(last_event_id, after, 0)
    if MEDIA_TYPE in request.headers.get("accept", ""):
        return _stream(service, caller, wanted, start)
    found, more = await asyncio.to_thread(wanted.page, reads, start, limit)
    return Response(
        EventPage(
            events=[event_answer(one) for one in found], next_after=found[-1].seq if more else None
        )
    )


def start_of(last_event_id: str | None, after: int | None, otherwise: int) -> int:
    """The sequence after which a stream begins: a browser that comes back says the last one that it
    has seen.
    """
    if last_event_id:
        if not (last_event_id.isascii() and last_event_id.isdecimal() and len(last_event_id) < 19):
            raise ValidationException(
                extra=[
                    {
                        "key": "Last-Event-ID",
                        "message": "must be the id of an event: its stream sequence",
                    }
                ]
            )
        return int(last_event_id)
    return otherwise if after is None else after


def _stream(service: Service, caller: Caller, wanted: Filter, after: int) -> Stream:
    caller.open_stream()
    # no-transform and X-Accel-Buffering: proxies must not collect the stream before they pass it on
    headers = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}
    return Stream(follow(service, caller, wanted, after), media_type=MEDIA_TYPE, headers=headers)


async def follow(
    service: Service, caller: Caller, wanted: Filter, after: int
) -> AsyncIterator[bytes]:
    """Server-sent events after a sequence, for ever: ends when the process closes, or the token
    does. A comment every 15 s keeps the connection alive.
    """
    yield b"retry: 1000\n\n"
    time = asyncio.get_running_loop().time
    sent_at, reads = time(), service.read_model.seen_by(caller.orgs)
    while not service.closing.is_set() and caller.lasts():
        applied = service.applied_seq
        found, more = (
            await service.read_for_stream(wanted.page, reads, after, PAGE)
            if applied > after
            else ([], False)
        )
        if found:
            yield b"".join(map(encoded, found))
            after, sent_at = found[-1].seq, time()
        elif time() - sent_at >= KEEP_ALIVE_S:
            yield b": still here\n\n"
            sent_at = time()
        if not more:  # that was all there is up to `applied`
            after = max(after, applied)
            await service.moved_on(after, sent_at + KEEP_ALIVE_S - time())


def encoded(event: EventView) -> bytes:
    data = b"\n".join(b"data: " + line for line in event.payload.splitlines() or [b""])
    return b"id: %d\nevent: %s\n%s\n\n" % (
        event.seq,
        "".join(event.type.split()).encode("utf-8", "replace"),
        data,
    )
