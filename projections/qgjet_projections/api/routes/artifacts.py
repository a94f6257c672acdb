"""Files of attempts: the list, and downloads that a browser may show without harm.

What a job leaves is nobody's trusted page: only pictures, videos, text and JSON are shown in the
browser, in a sandbox; everything else is saved.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple
from urllib.parse import quote

from litestar import HttpMethod, Request, get, route
from litestar.exceptions import HTTPException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath
from litestar.response import Stream

from qgjet.domain.events import Artifact
from qgjet.errors import ArtifactGone
from qgjet.store.artifacts import ArtifactStore, ObjectInfo, object_name
from qgjet_projections.api import headers
from qgjet_projections.api.access import READ
from qgjet_projections.api.answers import ArtifactAnswer, ArtifactList
from qgjet_projections.api.problems import documented
from qgjet_projections.api.reads import Reads, TheService
from qgjet_projections.api.routes.logs import chain
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.service import Service
from qgjet_projections.usecases import commands
from qgjet_projections.usecases.errors import ArtifactNotFound

SHOWN = re.compile(
    r"image/(png|jpeg|gif|webp)|(video|audio)/[a-z0-9.+-]+|text/plain|application/json", re.ASCII
)
"""Types without anything active in them. No SVG, HTML, XML or PDF."""
_TYPE = re.compile(r"[a-z0-9][a-z0-9.+-]*/[a-z0-9][a-z0-9.+-]*", re.ASCII)
_UNKNOWN_TYPE = "application/octet-stream"


class Span(NamedTuple):
    """Bytes from `start` up to, without, `end`."""

    start: int
    end: int


@get(
    "/jobs/{job_id:str}/artifacts",
    summary="Files that the attempts left behind",
    responses=documented(400, 404, 503),
    opt=READ,
    tags=["jobs"],
)
async def artifacts(service: TheService, reads: Reads, job_id: FromPath[str]) -> ArtifactList:
    await commands.known_job(service, reads, job_id)
    attempts = await asyncio.to_thread(reads.attempts, job_id)
    return ArtifactList(
        artifacts=[
            _answer(job_id, attempt.attempt, one)
            for attempt in attempts
            for one in attempt.artifacts
        ]
    )


def _answer(job_id: str, attempt: int, one: Artifact) -> ArtifactAnswer:
    return ArtifactAnswer(
        attempt=attempt,
        name=one.name,
        content_type=one.content_type,
        size=one.size,
        sha256=one.sha256,
        url=f"/jobs/{quote(job_id, safe='')}/artifacts/{attempt}/{quote(one.name)}",
        note=one.note,
    )


@route(
    "/jobs/{job_id:str}/artifacts/{attempt:int}/{name:path}",
    http_method=[HttpMethod.GET, HttpMethod.HEAD],
    status_code=200,
    summary="Download an artifact",
    description="Whole, or a part with `Range` (206). The `ETag` is the SHA-256 of the content. 410 when it is not stored any more, or was left out.",
    media_type=_UNKNOWN_TYPE,
    responses={
        200: ResponseSpec(
            bytes, generate_examples=False, description="The file", media_type=_UNKNOWN_TYPE
        ),
        206: ResponseSpec(
            bytes,
            generate_examples=False,
            description="The part that was asked for",
            media_type=_UNKNOWN_TYPE,
        ),
        **documented(400, 404, 410, 416, 503),
    },
    opt=READ,
    tags=["jobs"],
)
async def artifact(
    request: Request[Any, Any, Any],
    service: TheService,
    reads: Reads,
    job_id: FromPath[str],
    attempt: FromPath[int],
    name: FromPath[str],
) -> Stream:
    await commands.known_job(service, reads, job_id)
    one = await _known(reads, job_id, attempt, name.removeprefix("/"))
    sent = _headers(one)
    if _matches(request.headers.get("if-none-match", ""), sent["ETag"]):
        return Stream(_nothing(), status_code=304, headers=sent)
    info = await _stored(service, one, object_name(job_id, attempt, one.name))
    span = _span(request, info.size, sent["ETag"])
    status = 200 if span is None else 206
    start, end = span or Span(0, info.size)
    sent["Content-Length"] = str(end - start)
    if span is not None:
        sent["Content-Range"] = f"bytes {start}-{end - 1}/{info.size}"
    if request.method == "HEAD":
        return Stream(_nothing(), status_code=status, headers=sent)
    pieces = ArtifactStore(service.log.connection).get(info, start, end)
    first = await anext(
        pieces, b""
    )  # before the headers are sent, so that a missing server is a 503 and a missing object a 410
    return Stream(chain(first, pieces), status_code=status, headers=sent)


async def _nothing() -> AsyncGenerator[bytes, None]:
    return
    yield b""


async def _known(reads: ReadModel, job_id: str, attempt: int, name: str) -> Artifact:
    found = [
        one
        for view in await asyncio.to_thread(reads.attempts, job_id)
        if view.attempt == attempt
        for one in view.artifacts
        if one.name == name
    ]
    if not found:
        raise ArtifactNotFound(f"attempt {attempt} of job {job_id} left no artifact {name}")
    if not found[0].sha256:
        raise ArtifactGone(f"{name} was not stored: {found[0].note}")
    return found[0]


async def _stored(service: Service, one: Artifact, name: str) -> ObjectInfo:
    info = await ArtifactStore(service.log.connection).stat(name)
    if info is None or info.sha256 != one.sha256:
        raise ArtifactGone(f"{one.name} is not stored any more")
    return info


def media_type(one: Artifact) -> str:
    kind = one.content_type if _TYPE.fullmatch(one.content_type) else _UNKNOWN_TYPE
    return f"{kind}; charset=utf-8" if kind == "text/plain" else kind


def _headers(one: Artifact) -> dict[str, str]:
    shown = SHOWN.fullmatch(one.content_type) is not None
    return {
        "Content-Type": media_type(one),
        "ETag": f'"{one.sha256}"',
        "Accept-Ranges": "bytes",
        "Content-Disposition": disposition(
            "inline" if shown else "attachment", one.name.rsplit("/", 1)[-1]
        ),
        headers.CSP: headers.FILE,
        "Cache-Control": "private, max-age=3600",
    }


def disposition(kind: str, name: str) -> str:
    """Content-Disposition of RFC 6266: a name for old clients, and after it the real one where it
    differs.
    """
    plain = re.sub(r"[^ !#-\[\]-~]|%", "_", name)
    text = f'{kind}; filename="{plain}"'
    return (
        text
        if plain == name
        else f"{text}; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
    )


def _matches(header: str, etag: str) -> bool:
    """If-None-Match, by the weak comparison that RFC 9110 asks for there."""
    return header.strip() == "*" or etag in [
        one.strip().removeprefix("W/") for one in header.split(",")
    ]


def _span(request: Request[Any, Any, Any], size: int, etag: str) -> Span | None:
    """The part that is asked for; None for the whole, also where Range is not understood, lists
    several parts, or is about another content.

    Raises HTTPException 416 for a part that is not there.
    """
    match = re.fullmatch(
        r"bytes=([0-9]{0,18})-([0-9]{0,18})",
        request.headers.get("range", "").replace(" ", ""),
        re.ASCII,
    )
    if match is None or not (match[1] or match[2]) or request.headers.get("if-range", etag) != etag:
        return None
    if match[1] and match[2] and int(match[1]) > int(match[2]):
        return None
    start = int(match[1]) if match[1] else max(size - int(match[2]), 0)
    end = min(int(match[2]) + 1, size) if match[1] and match[2] else size
    if start >= end:
        raise HTTPException(
            status_code=416,
            detail=f"the file has {size} bytes",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return Span(start, end)
