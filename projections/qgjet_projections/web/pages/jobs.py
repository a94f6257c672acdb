"""`/ui/jobs`: the list, whose filter is its address, and a job with its story."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, TypeVar

from litestar import Response, get
from litestar.params import FromPath, QueryParameter
from msgspec import Struct

from qgjet.domain.attempts import AttemptRecord
from qgjet.domain.events import Partition, Status, Verdict
from qgjet.errors import InvalidInput
from qgjet.support.text import shortened
from qgjet_projections.api.access import READ, TheCaller
from qgjet_projections.api.answers import job_answer
from qgjet_projections.api.reads import Cursor, Reads, TheService
from qgjet_projections.api.routes.jobs import job_answers, surroundings, tags_of
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.readmodel.views import EventView, JobQuery, JobView
from qgjet_projections.usecases import commands
from qgjet_projections.usecases.pending import PendingReason
from qgjet_projections.web import text
from qgjet_projections.web.live import agents_seen
from qgjet_projections.web.page import AnyRequest, page, query, segment

Word = TypeVar("Word", bound=StrEnum)
PAGE = 50
STORY = 200
_WHY = {
    PendingReason.NO_AGENT: "no agent that takes new jobs serves its target and app version.",
    PendingReason.NO_SLOT: "all slots of the agents that serve it are taken.",
}
_MEDIA = {"image/": "image", "video/": "video"}
FILTERS = ("org_id", "app_version_id", "target", "test", "status", "verdict", "suite_id", "tag")


def given(request: AnyRequest, *names: str) -> dict[str, str]:
    """The filters of a page's address; a form sends the empty ones, too."""
    return {
        name: value for name in (*names, "cursor") if (value := request.query_params.get(name, ""))
    }


def chosen(values: Mapping[str, str], name: str, words: type[Word]) -> Word | None:
    """Raises InvalidInput for any other word: a filter that is not understood must not become a
    wider one.
    """
    given = values.get(name)
    if not given:
        return None
    try:
        return words(given)
    except ValueError:
        raise InvalidInput(name, f"{given} is not one of {', '.join(words)}") from None


@get("/ui/jobs", opt=READ, include_in_schema=False)
async def jobs(
    request: AnyRequest, service: TheService, reads: Reads, cursor: Cursor = None
) -> Response[bytes]:
    values = given(request, *FILTERS)
    wanted = JobQuery(
        org_id=values.get("org_id"),
        app_version_id=values.get("app_version_id"),
        target=values.get("target"),
        test=values.get("test"),
        suite_id=values.get("suite_id"),
        status=chosen(values, "status", Status),
        verdict=chosen(values, "verdict", Verdict),
        tags=tags_of([values["tag"]]) if "tag" in values else {},
        cursor=cursor or None,
        limit=PAGE,
    )
    live = query({"suite_id": values.get("suite_id"), "after": service.applied_seq})
    found = await asyncio.to_thread(reads.jobs, wanted)
    answers = await job_answers(service, found.items)
    return page(
        request,
        service,
        "jobs.html",
        live=live,
        jobs=answers,
        values=values,
        next_cursor=found.next_cursor,
        statuses=list(Status),
    )


class File(Struct, frozen=True, kw_only=True):
    """Of an attempt, as a page shows it."""

    name: str
    size: int
    note: str
    url: str
    """Empty: it is not stored."""
    kind: str
    """`image`, `video`, or nothing that a page can show."""


class Step(Struct, frozen=True, kw_only=True):
    """An event of the job's story."""

    seq: int
    name: str
    at: Any
    gap: str
    """The time since the event before."""
    tone: str
    what: str
    legal: bool


@get("/ui/jobs/{job_id:str}", opt=READ, include_in_schema=False)
async def job(
    request: AnyRequest,
    service: TheService,
    caller: TheCaller,
    reads: Reads,
    job_id: FromPath[str],
    attempt: Annotated[int | None, QueryParameter(ge=1)] = None,
) -> Response[bytes]:
    seq = service.applied_seq
    found = await commands.known_job(service, reads, job_id)
    if attempt and attempt > max(found.attempt, 1):
        raise InvalidInput("attempt", f"it has had {found.attempt} so far")
    seen = await agents_seen(service, caller, reads) if found.status is Status.QUEUED else ""
    around = await surroundings(service, asked=found.status is Status.QUEUED)
    context = await asyncio.to_thread(_context, reads, found)
    answer = job_answer(found, around)
    order = "0 runs first" if service.deployment.priority_order == "low-first" else "9 runs first"
    return page(
        request,
        service,
        "job.html",
        live=query(
            {"job_id": job_id, "agents": "true" if seen else None, "seen": seen, "after": seq}
        ),
        job=answer,
        pause=around.pauses.of(
            Partition(found.org_id, found.app_version_id, found.target), around.now
        ),
        retry_at=found.retry_at,
        why_it_waits=_WHY.get(answer.pending_reason, "") if answer.pending_reason else "",
        order=order,
        shown_attempt=attempt or max(found.attempt, 1),
        **context,
    )


def _context(reads: ReadModel, found: JobView) -> dict[str, Any]:
    attempts = reads.attempts(found.job_id)
    events = reads.events(after_seq=0, job_id=found.job_id, limit=STORY)
    return {
        "attempts": attempts,
        "files": {one.attempt: _files(found.job_id, one) for one in attempts},
        "story": _story(events),
        "more_story": len(events) == STORY,
        "letter": reads.dead_letter(found.job_id),
    }


def _files(job_id: str, attempt: AttemptRecord) -> list[File]:
    base = f"/jobs/{segment(job_id)}/artifacts/{attempt.attempt}"
    return [
        File(
            name=one.name,
            size=one.size,
            note=one.note,
            url=f"{base}/{'/'.join(map(segment, one.name.split('/')))}" if one.sha256 else "",
            kind=next(
                (
                    kind
                    for prefix, kind in _MEDIA.items()
                    if one.sha256 and one.content_type.startswith(prefix)
                ),
                "",
            ),
        )
        for one in attempt.artifacts
    ]


def _story(events: list[EventView]) -> list[Step]:
    steps, before = [], None
    for event in events:
        said = event.said()
        gap = (
            ""
            if before is None or event.at is None
            else f"+{text.duration((event.at - before).total_seconds())}"
        )
        outcome = said.get("outcome") or {}
        word = (
            said.get("verdict")
            or outcome.get("verdict")
            or {"started": "running", "submitted": "queued"}.get(event.type, event.type)
        )
        steps.append(
            Step(
                seq=event.seq,
                name=event.type,
                at=event.at,
                gap=gap,
                tone=text.tone(word),
                what=_what(event.type, said, outcome),
                legal=event.legal,
            )
        )
        before = event.at or before
    return steps


def _what(name: str, said: dict[str, Any], outcome: dict[str, Any]) -> str:
    """One line about an event; what it says beyond that is on the page, or in the log."""
    parts = [
        f"attempt {said['attempt']}"
        if name in ("started", "attempt_ended", "attempt_lost") and said.get("attempt")
        else "",
        f"on {said['agent']}" if name == "started" and said.get("agent") else "",
        str(said.get("device") or "") if name == "started" else "",
        text.words(said.get("verdict") or outcome.get("verdict") or ""),
        text.words(said.get("reason") or outcome.get("reason") or ""),
        str(said.get("message") or outcome.get("message") or "").split("\n")[0][:200],
        f"by {said['by']}"
        if said.get("by") and said.get("by") != said.get("agent") and name != "started"
        else "",
    ]
    return shortened(", ".join(part for part in parts if part))
