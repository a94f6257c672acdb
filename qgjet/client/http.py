"""Through the HTTP API: the verbs of a client, and the reads that only the API can answer."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct

from qgjet.client import shapes
from qgjet.client.base import ALL, Batch, Events, Notice, SubmitResult
from qgjet.client.follow import follow
from qgjet.client.logs import LogLine, follow_log
from qgjet.client.shapes import checked
from qgjet.client.tracker import JobFailure, JobTracker, TrackedJob
from qgjet.client.transport import PAUSE_S, Http, Json, open_http
from qgjet.domain.attempts import AttemptRecord
from qgjet.domain.events import Slot, Status, Verdict
from qgjet.domain.submission import MAX_SUITE_JOBS, SubmitRequest
from qgjet.errors import CannotReach, InvalidInput, NotAccepted, NotAllowed

MAX_BODY_BYTES = 900_000
MAX_PAGE = 500
CANCEL_WINDOW = 8
_NO_FAILURE = ("passed", "skipped", "cancelled")


class Refusal(Struct, frozen=True):
    status: int
    detail: str


class Submission(Struct, frozen=True, kw_only=True):
    """The API's answer to one job; those of a suite may be refusals."""

    job_id: str | None
    status: Status | None
    seq: int | None
    attached: bool = False
    replaced: str | None = None
    error: Refusal | None = None

    @property
    def settled(self) -> bool:
        """To ask again would change nothing."""
        return self.error is None or self.error.status == 409


class Suite(Struct, frozen=True):
    jobs: list[Submission]


class Page(Struct, frozen=True):
    jobs: list[Json]
    next_cursor: str | None


class ArtifactPage(Struct, frozen=True):
    artifacts: list[Json]


class Served(Struct, frozen=True):
    target: str


class AgentAnswer(Struct, frozen=True, kw_only=True):
    targets: list[Served]
    app_version_id: str = ALL
    draining: bool = False


class Agents(Struct, frozen=True):
    agents: list[AgentAnswer]


@contextlib.asynccontextmanager
async def api_client(
    url: str, *, token: str = "", patience_s: float, notice: Notice
) -> AsyncIterator[ApiClient]:
    """Raises InvalidSettings for an address that is none. Nothing is sent yet."""
    async with open_http(url, token=token, patience_s=patience_s) as http:
        yield ApiClient(http, notice)


class ApiClient:
    def __init__(self, http: Http, notice: Notice) -> None:
        self.where = http.where
        self._http = http
        self._notice = notice

    # -- submit ------------------------------------------------------------------------------------------------------

    async def submit(self, batch: Batch) -> list[SubmitResult]:
        key = batch.key or uuid.uuid4().hex
        if len(batch.requests) == 1 and not batch.suite_id:
            return [await self._submit_one(batch.requests[0], key)]
        placed: list[SubmitResult] = []
        for number, chunk in enumerate(_chunks(batch.requests)):
            to_come = len(batch.requests) - len(placed) - len(chunk)
            parts = {"submission": key, "to_come": to_come} if number or to_come else {}
            answers = await self._submit_chunk(
                batch, chunk, key if number == 0 else f"{key} {number}", parts
            )
            if not batch.partial and placed and not all(one.job_id for one in answers):
                return await self._take_back(placed, batch.suite_id) + answers
            placed += answers
        return placed

    async def _take_back(self, placed: Sequence[SubmitResult], suite_id: str) -> list[SubmitResult]:
        """Cancel what was created in front of a chunk that was refused: a suite is all or nothing,
        however many requests it takes.
        """
        for one in placed:
            await self.cancel_job(one.job_id, "the rest of its suite was refused", suite_id)
        return [
            SubmitResult(
                request=one.request,
                error=_refused("cancelled again: the rest of its suite was refused"),
            )
            for one in placed
        ]

    async def _submit_one(self, request: SubmitRequest, key: str) -> SubmitResult:
        try:
            return _placed(
                request,
                await self._http.ask("POST", "/submit", Submission, body=_fields(request), key=key),
            )
        except NotAccepted as refused:
            if refused.status != 409:
                raise
            return SubmitResult(request=request, error=refused)

    async def _submit_chunk(
        self, batch: Batch, chunk: Sequence[SubmitRequest], key: str, parts: Json
    ) -> list[SubmitResult]:
        jobs = [_fields(request) for request in chunk]
        body = {
            "suite_id": batch.suite_id,
            "on_duplicate": chunk[0].on_duplicate,
            "atomic": not batch.partial,
            "jobs": jobs,
            **parts,
        }
        deadline = asyncio.get_running_loop().time() + self._http.patience_s
        while True:
            answers = await self._suite(body, key)
            if (
                all(answer.settled for answer in answers)
                or asyncio.get_running_loop().time() >= deadline
            ):
                return [
                    _placed(request, answer) for request, answer in zip(chunk, answers, strict=True)
                ]
            await asyncio.sleep(
                PAUSE_S
            )  # the key makes the same answer of what was written, and a second try of what was not

    async def _suite(self, body: Json, key: str) -> list[Submission]:
        try:
            return (await self._http.ask("POST", "/suites", Suite, body=body, key=key)).jobs
        except NotAccepted as refused:
            if refused.status != 409 or not refused.problem.get("jobs"):
                raise
            return msgspec.convert(refused.problem["jobs"], list[Submission])

    # -- follow ------------------------------------------------------------------------------------------------------

    def follow(self, tracker: JobTracker) -> AsyncIterator[Events]:
        return follow(self._http, tracker, self._notice)

    def check(self) -> None:
        """`follow` looks after that itself."""

    # -- reads and cancel --------------------------------------------------------------------------------------------

    async def job(self, job_id: str) -> Json:
        """A job with its attempts. Raises NotAccepted when there is none."""
        return checked(
            self._http,
            await self._http.ask("GET", f"/jobs/{_segment('job_id', job_id)}", Json),
            shapes.Job,
        )

    async def jobs(self, filters: Mapping[str, Any], limit: int) -> tuple[list[Json], bool]:
        """The first `limit` jobs, last submitted first, and whether there are more."""
        found: list[Json] = []
        cursor = None
        while True:
            page = await self._http.ask(
                "GET",
                "/jobs",
                Page,
                params={**filters, "limit": min(limit - len(found), MAX_PAGE), "cursor": cursor},
            )
            found += checked(self._http, page.jobs, list[shapes.Job])
            cursor = page.next_cursor
            if cursor is None or len(found) >= limit or not page.jobs:
                return found, cursor is not None

    async def suite(self, suite_id: str) -> list[Json]:
        """All jobs of a suite, as they were submitted. Raises NotAccepted when there is none."""
        found: list[Json] = []
        cursor = None
        while True:
            page = await self._http.ask(
                "GET",
                f"/suites/{_segment('suite', suite_id)}",
                Page,
                params={"limit": MAX_PAGE, "cursor": cursor},
            )
            found += checked(self._http, page.jobs, list[shapes.Job])
            cursor = page.next_cursor
            if cursor is None or not page.jobs:
                return found[::-1]

    async def suites(self, org_id: str | None, limit: int) -> tuple[list[Json], bool]:
        """The first `limit` suites, newest first, and whether there are more."""
        return await self._listed("/suites", "suites", shapes.SuitePage, {"org_id": org_id}, limit)

    async def tests(self, filters: Mapping[str, Any], limit: int) -> tuple[list[Json], bool]:
        """The first `limit` tests in the order of the filters, and whether there are more."""
        return await self._listed("/tests", "tests", shapes.TestPage, filters, limit)

    async def test_history(self, filters: Mapping[str, Any]) -> Json:
        return checked(
            self._http,
            await self._http.ask("GET", "/tests/history", Json, params=filters),
            shapes.TestHistory,
        )

    async def _listed(
        self, path: str, key: str, kind: type[Struct], params: Mapping[str, Any], limit: int
    ) -> tuple[list[Json], bool]:
        """The first `limit` of a list that comes in pages, and whether there are more."""
        found: list[Json] = []
        cursor = None
        while True:
            params = {**params, "limit": min(limit - len(found), MAX_PAGE), "cursor": cursor}
            page = checked(self._http, await self._http.ask("GET", path, Json, params=params), kind)
            found += page[key]
            cursor = page["next_cursor"]
            if cursor is None or len(found) >= limit or not page[key]:
                return found, cursor is not None

    async def suite_summary(self, suite_id: str) -> Json:
        """A suite without its jobs. Raises NotAccepted when there is none."""
        found = checked(
            self._http,
            await self._http.ask(
                "GET", f"/suites/{_segment('suite', suite_id)}", Json, params={"limit": 1}
            ),
            shapes.Suite,
        )
        return {key: value for key, value in found.items() if key not in ("jobs", "next_cursor")}

    async def rerun_suite(self, suite_id: str, *, failed: bool, key: str) -> Json:
        return await self._http.ask(
            "POST",
            f"/suites/{_segment('suite', suite_id)}/rerun",
            Json,
            body={"failed": failed, "suite_id": key},
        )

    async def rerun_job(self, job_id: str) -> Json:
        return await self._http.ask(
            "POST", f"/jobs/{_segment('job_id', job_id)}/rerun", Json, body={}
        )

    async def artifacts(self, job_id: str) -> list[Json]:
        """All files of a job's attempts. Raises NotAccepted when there is no such job."""
        found = await self._http.ask(
            "GET", f"/jobs/{_segment('job_id', job_id)}/artifacts", ArtifactPage
        )
        return checked(self._http, found.artifacts, list[shapes.File])

    def artifact(self, job_id: str, attempt: int, name: str) -> AsyncGenerator[bytes, None]:
        return self._http.pieces(
            f"/jobs/{_segment('job_id', job_id)}/artifacts/{attempt}/{quote(name)}"
        )

    def log(self, job_id: str, attempt: int | None) -> AsyncGenerator[bytes, None]:
        """What an attempt, or the last one, has printed up to now."""
        return self._http.pieces(f"/jobs/{_segment('job_id', job_id)}/log", {"attempt": attempt})

    def follow_log(self, job_id: str, attempt: int) -> AsyncGenerator[LogLine, None]:
        """What an attempt prints, until it has ended; outlasts restarts of the server. Raises
        CannotReach after the patience.
        """
        return follow_log(
            self._http, f"/jobs/{_segment('job_id', job_id)}/log", attempt, self._notice
        )

    async def cancel_job(self, job_id: str, reason: str, suite_id: str = "") -> Json:
        """`suite_id`: for this suite only; the answer's `cancel_requested` is false if the job goes
        on for others.
        """
        body = {"reason": reason, "suite_id": suite_id} if suite_id else {"reason": reason}
        return await self._http.ask(
            "POST", f"/jobs/{_segment('job_id', job_id)}/cancel", Json, body=body
        )

    async def cancel_suite(self, suite_id: str, reason: str) -> Json:
        return await self._http.ask(
            "POST", f"/suites/{_segment('suite', suite_id)}/cancel", Json, body={"reason": reason}
        )

    # -- dead letters and the queue ----------------------------------------------------------------------------------

    async def dead_letters(self, filters: Mapping[str, Any], limit: int) -> tuple[list[Json], bool]:
        """The first `limit` dead letters, last submitted first, and whether there are more."""
        return await self._listed("/dead", "dead_letters", shapes.DeadPage, filters, limit)

    async def dead_letter(self, job_id: str) -> Json:
        """Raises NotAccepted when there is no such job, or it is no dead letter."""
        return await self._checked("GET", f"/dead/{_segment('job_id', job_id)}", shapes.DeadDetail)

    async def settle(self, how: str, job_id: str, reason: str) -> Json:
        """`how`: redrive or discard. Raises NotAccepted."""
        body = {"reason": reason} if how == "discard" else {}
        return await self._checked(
            "POST", f"/dead/{_segment('job_id', job_id)}/{how}", shapes.Settled, body
        )

    async def settle_all(self, how: str, filters: Mapping[str, Any]) -> Json:
        """Some of those that the filters find; `left` says how many more there are."""
        return await self._checked("POST", f"/dead/{how}", shapes.SettledList, filters)

    async def partitions(self) -> Json:
        return await self._checked("GET", "/partitions", shapes.PartitionList)

    async def pauses(self) -> list[Json]:
        found: list[Json] = (await self._checked("GET", "/queue/pauses", shapes.PauseList))[
            "pauses"
        ]
        return found

    async def pause(self, scope: Json) -> Json:
        return await self._checked("POST", "/queue/pause", shapes.Pause, scope)

    async def resume(self, scope: Json) -> Json:
        return await self._checked("POST", "/queue/resume", shapes.Pause, scope)

    async def agents(self) -> list[Json]:
        found: list[Json] = (await self._checked("GET", "/agents", shapes.AgentList))["agents"]
        return found

    async def drain(self, agent: str, reason: str) -> Json:
        return await self._http.ask(
            "POST", f"/agents/{_segment('agent', agent)}/drain", Json, body={"reason": reason}
        )

    async def prioritize(self, job_id: str, priority: int) -> Json:
        return await self._checked(
            "POST",
            f"/jobs/{_segment('job_id', job_id)}/priority",
            shapes.Priority,
            {"priority": priority},
        )

    async def _checked(self, method: str, path: str, kind: type[Struct], body: Any = None) -> Json:
        return checked(self._http, await self._http.ask(method, path, Json, body=body), kind)

    async def cancel(self, tracks: Sequence[TrackedJob], reason: str, suite_id: str) -> set[str]:
        gate = asyncio.Semaphore(CANCEL_WINDOW)

        async def goes_on(track: TrackedJob) -> bool:
            async with gate:
                try:
                    return not (await self.cancel_job(track.job_id, reason, suite_id))[
                        "cancel_requested"
                    ]
                except NotAllowed:
                    raise
                except NotAccepted:
                    return False  # it has ended

        going_on = await asyncio.gather(*map(goes_on, tracks))
        return {track.job_id for track, goes in zip(tracks, going_on, strict=True) if goes}

    async def served(self) -> set[tuple[str, str]] | None:
        try:
            agents = (await self._http.once("GET", "/agents", Agents)).agents
        except (CannotReach, NotAccepted):
            return None
        return {
            (served.target, agent.app_version_id or ALL)
            for agent in agents
            if not agent.draining
            for served in agent.targets
        }


def track_of(job: Json) -> TrackedJob:
    """A job as the API shows it, with what failed first if its attempts are there."""
    failures = [
        one
        for one in job.get("attempts", ())
        if one["ended_by"] and one["verdict"] not in _NO_FAILURE
    ]
    first = failures[0] if failures else None
    return TrackedJob(
        job_id=job["job_id"],
        slot=Slot(job["org_id"], job["app_version_id"], job["target"], job["test"]),
        seq=job["seq"],
        status=Status(job["status"]),
        verdict=Verdict(job["verdict"]) if job["verdict"] else None,
        attempt=job["attempt"],
        retries_left=job["retries_left"],
        duration_s=job["duration_s"],
        reason=job["reason"],
        message=job["message"],
        first_failure=first
        and JobFailure(
            attempt=first["attempt"],
            verdict=first["verdict"],
            reason=first["reason"],
            message=first["message"],
        ),
        cancel_requested=job["cancel_requested"],
        attempts=msgspec.convert(job.get("attempts", []), list[AttemptRecord]),
        submitted_at=msgspec.convert(job["created_at"], datetime),
        finished_at=msgspec.convert(job["finished_at"], datetime | None),
        priority=job["priority"],
        tags=job["tags"],
    )


def _placed(request: SubmitRequest, answer: Submission) -> SubmitResult:
    if answer.error is not None:
        return SubmitResult(
            request=request,
            error=_refused(answer.error.detail)
            if answer.settled
            else CannotReach(answer.error.detail),
        )
    return SubmitResult(
        request=request,
        job_id=answer.job_id or "",
        status=answer.status,
        priority=None if answer.attached else request.priority,
        attached=answer.attached,
        replaced=answer.replaced,
        seq=answer.seq or 0,
    )


def _refused(detail: str) -> NotAccepted:
    return NotAccepted(detail, status=409, problem={})


def _chunks(requests: Sequence[SubmitRequest]) -> Iterator[list[SubmitRequest]]:
    """As many as one request of the API may hold, by number and by size."""
    chunk: list[SubmitRequest] = []
    size = 0
    for request in requests:
        length = len(msgspec.json.encode(_fields(request))) + 1
        if chunk and (len(chunk) == MAX_SUITE_JOBS or size + length > MAX_BODY_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(request)
        size += length
    yield chunk


def _fields(request: SubmitRequest) -> Json:
    """What was given; the rest is the server's to choose."""
    return {
        name: value
        for name, value in msgspec.to_builtins(request).items()
        if value not in (None, "", {})
    }


def _segment(field: str, text: str) -> str:
    """An id as one segment of a path. Raises InvalidInput for what cannot be an id."""
    if not text or text in (".", "..") or "/" in text or not text.isprintable():
        raise InvalidInput(field, f"{text!r} is not an id")
    return quote(text, safe="")
