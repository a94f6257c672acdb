"""The output of attempts: live out of the stream `QG_LOGS`, whole out of the artifact `output.log`
once the attempt has ended.

Plain text, or server-sent events: a line each, whose id says where the next one begins. A line that
an event cannot hold as it is (no UTF-8, a carriage return, no end) is an event `bytes` with its
base64. `live` comes after what was there already, `end` when the attempt is over.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any, NamedTuple

from litestar import Request, get
from litestar.exceptions import ValidationException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream

from qgjet.domain.attempts import AttemptRecord
from qgjet.domain.events import TERMINAL, Status
from qgjet.domain.subjects import LOGS, log_subject
from qgjet.errors import ArtifactGone, NatsUnavailable
from qgjet.jetstream.connection import Connection
from qgjet.jetstream.direct_get import messages
from qgjet.store.artifacts import ArtifactStore, object_name
from qgjet_projections.api.access import READ, Caller, TheCaller
from qgjet_projections.api.problems import documented
from qgjet_projections.api.reads import Reads, TheService
from qgjet_projections.api.routes.events import KEEP_ALIVE_S, MEDIA_TYPE, LastEventId
from qgjet_projections.service import Service
from qgjet_projections.usecases import commands

BATCH = 256
BATCH_BYTES = 4 * 1024 * 1024
LOOK_S = 0.3
LONGEST_LINE = 64 * 1024
"""A longer one comes in pieces."""
WHOLE = "output.log"


class Position(NamedTuple):
    """Where a line begins: a sequence of the stream, and how many bytes of that message are before
    it.
    """

    seq: int = 0
    offset: int = 0


@get(
    "/jobs/{job_id:str}/log",
    summary="Output of an attempt",
    description=(
        "Of an attempt that has ended: the whole log. Of one that runs: what there is now; with `follow` also what comes until it ends, from the start of a "
        "queued job on. With `Accept: text/event-stream` the same as server-sent events that resume by `Last-Event-ID`: a line each, `bytes` with base64 for "
        "what is no line of text, `live` after what was there already, and `end` when the attempt is over. Live output is kept for 7 days."
    ),
    media_type="text/plain",
    responses={
        200: ResponseSpec(
            str, generate_examples=False, description="The output, as text", media_type="text/plain"
        ),
        **documented(400, 404, 503),
    },
    opt=READ,
    tags=["jobs"],
)
async def log(
    request: Request[Any, Any, Any],
    service: TheService,
    caller: TheCaller,
    reads: Reads,
    job_id: FromPath[str],
    attempt: Annotated[
        int | None, QueryParameter(ge=1, description="Counted from 1; none: the last one.")
    ] = None,
    follow: Annotated[
        bool, QueryParameter(description="Keep the answer open until the attempt has ended.")
    ] = False,
    last_event_id: LastEventId = None,
) -> Stream:
    found = await commands.known_job(service, reads, job_id)
    streams = MEDIA_TYPE in request.headers.get("accept", "")
    wanted = attempt or found.attempt or int(follow or streams)
    if streams or follow:
        caller.open_stream()
    headers = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}
    if streams:
        position = _position(last_event_id)
        return Stream(
            _events(service, caller, job_id, wanted, position),
            headers={**headers, "Content-Type": MEDIA_TYPE},
        )
    pieces = await _whole(
        service, job_id, await asyncio.to_thread(reads.attempts, job_id), wanted
    ) or lines(service, caller, job_id, wanted, follow=follow)
    first = (
        b"" if follow else await anext(pieces, b"")
    )  # before the headers are sent, so that a missing server is a 503
    return Stream(
        chain(first, pieces), headers={**headers, "Content-Type": "text/plain; charset=utf-8"}
    )


async def _whole(
    service: Service, job_id: str, attempts: list[AttemptRecord], attempt: int
) -> AsyncIterator[bytes] | None:
    """The artifact with the whole log; None when there is none, any more or yet."""
    if not any(
        one.name == WHOLE and one.sha256
        for record in attempts
        if record.attempt == attempt
        for one in record.artifacts
    ):
        return None
    store = ArtifactStore(service.log.connection)
    info = await store.stat(object_name(job_id, attempt, WHOLE))
    if info is None:
        return None
    pieces = store.get(info)
    try:
        return chain(await anext(pieces, b""), pieces)
    except ArtifactGone:
        return None


async def lines(
    service: Service, caller: Caller, job_id: str, attempt: int, *, follow: bool
) -> AsyncGenerator[bytes, None]:
    """The live output of one attempt in pieces, as the agent sent them; with `follow` until the
    attempt, the process or the token has ended.
    """
    after = 0
    while attempt:
        over = (
            not follow
            or service.closing.is_set()
            or not caller.lasts()
            or _has_ended(service, job_id, attempt)
        )
        found = await read(service.log.connection, log_subject(job_id, attempt), after)
        while found:
            yield b"".join(text for _, text in found)
            after = found[-1][0]
            found = await read(service.log.connection, log_subject(job_id, attempt), after)
        if over:
            return
        await asyncio.sleep(LOOK_S)


async def _events(
    service: Service, caller: Caller, job_id: str, attempt: int, position: Position
) -> AsyncGenerator[bytes, None]:
    """The live output as server-sent events from a position on, until the attempt, the process or
    the token has ended.
    """
    yield b"retry: 1000\n\n"
    time = asyncio.get_running_loop().time
    sent_at, splitter, caught_up = time(), Splitter(position), False
    while not service.closing.is_set() and caller.lasts():
        over = _has_ended(service, job_id, attempt)
        found = await _read_if_there(service, log_subject(job_id, attempt), splitter.after)
        if found:
            if events := b"".join(
                encoded(*line) for seq, text in found for line in splitter.feed(seq, text)
            ):
                yield events
                sent_at = time()
            continue
        if found is not None and not caught_up:
            caught_up = True
            yield b"event: live\ndata: %d\n\n" % attempt
        if found is not None and over:
            yield (
                b"".join(encoded(*line) for line in splitter.rest())
                + b"event: end\ndata: %d\n\n" % attempt
            )
            return
        if time() - sent_at >= KEEP_ALIVE_S:
            yield b": still here\n\n"
            sent_at = time()
        await asyncio.sleep(LOOK_S)


class Splitter:
    """Cuts messages into lines, each with the position at which the next one begins."""

    def __init__(self, start: Position) -> None:
        self._start = start
        self.after = max(start.seq - 1, 0)
        """Sequence after which the next message is due."""
        self._rest = b""
        self._end = start

    def feed(self, seq: int, text: bytes) -> list[tuple[Position, bytes]]:
        skipped = self._start.offset if seq == self._start.seq else 0
        data = self._rest + text[skipped:]
        before = skipped - len(self._rest)
        """What to add to a place in `data` to get the one in the message."""
        found, done = list[tuple[Position, bytes]](), 0
        while done < len(data):
            end = data.find(b"\n", done) + 1
            if end == 0 and len(data) - done <= LONGEST_LINE:
                break
            end = min(end or len(data), done + LONGEST_LINE)
            if (
                before + end >= 0
            ):  # the end of a piece may lie in the message before: then there is no place to resume at, but the next line's is
                self._end = Position(seq, before + end)
            found.append((self._end, data[done:end]))
            done = end
        self._rest, self.after = data[done:], seq
        return found

    def rest(self) -> list[tuple[Position, bytes]]:
        """What has come without an end of line."""
        rest, self._rest = self._rest, b""
        return [(Position(self.after + 1, 0), rest)] if rest else []


def encoded(position: Position, line: bytes) -> bytes:
    head = b"id: %d.%d\n" % position
    text = line.removesuffix(b"\n")
    if len(text) < len(line) and b"\r" not in text and b"\0" not in text and _is_utf8(text):
        return head + b"data: " + text + b"\n\n"
    return head + b"event: bytes\ndata: " + base64.b64encode(line) + b"\n\n"


def _is_utf8(data: bytes) -> bool:
    with contextlib.suppress(UnicodeDecodeError):
        data.decode()
        return True
    return False


def _position(last_event_id: str | None) -> Position:
    if not last_event_id:
        return Position()
    match = re.fullmatch(r"([0-9]{1,18})\.([0-9]{1,9})", last_event_id, re.ASCII)
    if match is None:
        raise ValidationException(
            extra=[
                {
                    "key": "Last-Event-ID",
                    "message": "must be the id of an event: sequence and offset",
                }
            ]
        )
    return Position(int(match[1]), int(match[2]))


async def chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    if first:
        yield first
    async for piece in rest:
        yield piece


def _has_ended(service: Service, job_id: str, attempt: int) -> bool:
    """Whether no more output can come of the attempt; one that has not begun may still come."""
    job = service.read_model.job(job_id)
    if job is None or job.attempt > attempt or job.status in TERMINAL:
        return True
    return job.attempt == attempt and job.status is not Status.RUNNING


async def _read_if_there(
    service: Service, subject: str, after: int
) -> list[tuple[int, bytes]] | None:
    """None while NATS does not answer. An answer that has begun could tell it only by breaking off,
    and whoever follows would ask again at once.
    """
    try:
        return await read(service.log.connection, subject, after)
    except NatsUnavailable:
        return None


async def read(connection: Connection, subject: str, after: int) -> list[tuple[int, bytes]]:
    return [
        (one.seq, one.data)
        for one in await messages(
            connection, LOGS, subject, after, batch=BATCH, max_bytes=BATCH_BYTES
        )
    ]
