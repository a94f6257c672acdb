"""Routes about dead letters: jobs that ended without a statement about the app, until somebody has
dealt with them.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any

from litestar import Response, get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import Struct

from qgjet.domain.events import Instant, Verdict
from qgjet.domain.subjects import log_subject
from qgjet.errors import ArtifactGone, Conflict, InvalidInput, NatsUnavailable
from qgjet.store.artifacts import ArtifactStore, object_name
from qgjet.support.text import ShortText
from qgjet_projections.api.access import OPERATE, READ, TheCaller
from qgjet_projections.api.answers import (
    DeadDetail,
    DeadPage,
    SettledAnswer,
    SettledList,
    dead_answer,
    dead_detail,
)
from qgjet_projections.api.problems import documented
from qgjet_projections.api.reads import Cursor, Limit, OrgId, Reads, TheService
from qgjet_projections.api.routes.jobs import CancelRequest
from qgjet_projections.api.routes.logs import WHOLE, read
from qgjet_projections.readmodel.views import DeadQuery
from qgjet_projections.service import Service
from qgjet_projections.usecases import decisions

OUTPUT_LINES = 20
OUTPUT_BYTES = 16 * 1024

Before = Annotated[
    datetime | None, QueryParameter(description="Of jobs that finished before this time only.")
]
Settled = Annotated[
    bool,
    QueryParameter(
        description="Those that were dealt with, in place of those that wait for somebody."
    ),
]


class RedriveRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    priority: int | None = None
    """0-9; None: as before."""


class DeadFilter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters; all that is given must hold. `all` stands for no condition at all."""

    org_id: str | None = None
    app_version_id: str | None = None
    target: str | None = None
    test: str | None = None
    verdict: Verdict | None = None
    reason: str | None = None
    finished_before: Instant | None = None
    all: bool = False


class DiscardFilter(DeadFilter, frozen=True, kw_only=True, forbid_unknown_fields=True):
    because: ShortText = ""
    """For people; kept with each."""


@get(
    "/dead",
    summary="Dead letters, last submitted first",
    responses=documented(400, 503),
    opt=READ,
    tags=["dead letters"],
)
async def dead_letters(
    reads: Reads,
    org_id: OrgId = None,
    app_version_id: FromQuery[str | None] = None,
    target: FromQuery[str | None] = None,
    test: FromQuery[str | None] = None,
    verdict: FromQuery[Verdict | None] = None,
    reason: FromQuery[str | None] = None,
    finished_before: Before = None,
    settled: Settled = False,
    cursor: Cursor = None,
    limit: Limit = 100,
) -> DeadPage:
    query = DeadQuery(
        org_id=org_id,
        app_version_id=app_version_id,
        target=target,
        test=test,
        verdict=verdict,
        reason=reason,
        finished_before=_aware(finished_before),
        settled=settled,
        cursor=cursor,
        limit=limit,
    )
    page = await asyncio.to_thread(reads.dead_letters, query)
    return DeadPage(
        dead_letters=[dead_answer(letter) for letter in page.items], next_cursor=page.next_cursor
    )


def _aware(at: datetime | None) -> datetime | None:
    if at is not None and at.tzinfo is None:
        raise InvalidInput("finished_before", "needs a time zone, such as 2026-01-31T12:00:00Z")
    return at


@get(
    "/dead/{job_id:str}",
    summary="A dead letter: cause, attempts, last output",
    responses=documented(400, 404, 409, 503),
    opt=READ,
    tags=["dead letters"],
)
async def dead_letter(service: TheService, reads: Reads, job_id: FromPath[str]) -> DeadDetail:
    letter = await decisions.known_letter(service, reads, job_id)
    attempts = await asyncio.to_thread(reads.attempts, job_id)
    return dead_detail(letter, attempts, await _output(service, job_id, letter.job.attempt))


async def _output(service: Service, job_id: str, attempt: int) -> list[str]:
    """The end of what the attempt has printed; nothing where it is not kept any more, or out of
    reach now.
    """
    try:
        data = await _end_of_log(service, job_id, attempt) if attempt else b""
    except (ArtifactGone, NatsUnavailable):
        return []
    return data.decode(errors="replace").splitlines()[-OUTPUT_LINES:]


async def _end_of_log(service: Service, job_id: str, attempt: int) -> bytes:
    store = ArtifactStore(service.log.connection)
    info = await store.stat(object_name(job_id, attempt, WHOLE))
    if info is not None:
        return b"".join(
            [piece async for piece in store.get(info, max(info.size - OUTPUT_BYTES, 0))]
        )
    data, after = b"", 0
    while found := await read(service.log.connection, log_subject(job_id, attempt), after):
        data, after = (data + b"".join(text for _, text in found))[-OUTPUT_BYTES:], found[-1][0]
    return data


@post(
    "/dead/{job_id:str}/redrive",
    status_code=202,
    summary="Run a dead letter's work again, as a new job",
    description="The new job names the old one in `rerun_of`. 409 when it was dealt with already, and while a live job holds the slot.",
    responses=documented(400, 404, 409, 413, 415, 503),
    opt=OPERATE,
    tags=["dead letters"],
)
async def redrive(
    service: TheService,
    caller: TheCaller,
    reads: Reads,
    job_id: FromPath[str],
    data: JSONBody[RedriveRequest | None] = None,
) -> Response[SettledAnswer]:
    done = await decisions.redrive(
        service, caller, job_id, priority=data.priority if data else None
    )
    return Response(
        _answer(done), status_code=202, headers={"Location": f"/jobs/{done.new_job_id}"}
    )


@post(
    "/dead/{job_id:str}/discard",
    status_code=200,
    summary="Say that nobody has to look at a dead letter any more",
    description="The job stays as it ended. 409 when it was dealt with already.",
    responses=documented(400, 404, 409, 413, 415, 503),
    opt=OPERATE,
    tags=["dead letters"],
)
async def discard(
    service: TheService,
    caller: TheCaller,
    reads: Reads,
    job_id: FromPath[str],
    data: JSONBody[CancelRequest | None] = None,
) -> SettledAnswer:
    return _answer(await decisions.discard(service, caller, job_id, data.reason if data else ""))


_BULK: dict[str, Any] = {
    "status_code": 200,
    "responses": documented(400, 413, 415, 503),
    "opt": OPERATE,
    "tags": ["dead letters"],
}


@post(
    "/dead/redrive",
    summary="Redrive dead letters by filter",
    description=f"At most {decisions.MOST_AT_ONCE} in one call, oldest first; `left` says how many more there are. One answer for each.",
    **_BULK,
)
async def redrive_all(
    service: TheService, caller: TheCaller, data: JSONBody[DeadFilter]
) -> SettledList:
    return _answers(*await decisions.redrive_all(service, caller, _query(data)))


@post(
    "/dead/discard",
    summary="Discard dead letters by filter",
    description="As many at once as with redrive.",
    **_BULK,
)
async def discard_all(
    service: TheService, caller: TheCaller, data: JSONBody[DiscardFilter]
) -> SettledList:
    return _answers(*await decisions.discard_all(service, caller, _query(data), data.because))


def _query(given: DeadFilter) -> DeadQuery:
    """Raises InvalidInput when nothing says which: a body that lost its conditions must not mean
    everything.
    """
    conditions = {
        name: getattr(given, name) for name in DeadFilter.__struct_fields__ if name != "all"
    }
    if given.all == any(value is not None for value in conditions.values()):
        raise InvalidInput("all", "give conditions, or `all`: true for every dead letter")
    return DeadQuery(**conditions)


def _answer(done: decisions.Settled) -> SettledAnswer:
    error = done.error
    status = None if error is None else 409 if isinstance(error, Conflict) else 503
    return SettledAnswer(
        job_id=done.job_id,
        new_job_id=done.new_job_id or None,
        error=None if error is None else str(error),
        status=status,
    )


def _answers(done: list[decisions.Settled], left: int) -> SettledList:
    answers = [_answer(one) for one in done]
    refused = sum(one.error is not None for one in answers)
    return SettledList(
        settled=len(answers) - refused, refused=refused, left=left, dead_letters=answers
    )
