"""Routes that put jobs into the queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from urllib.parse import quote

from litestar import Response, post
from litestar.exceptions import ValidationException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Body, FromPath, HeaderParameter, JSONBody
from msgspec import Struct

from qgjet.domain.events import JobSpec
from qgjet.domain.submission import SubmitRequest, SuiteRequest
from qgjet.errors import QgjetError
from qgjet_projections.api.access import SUBMIT, Caller, TheCaller
from qgjet_projections.api.answers import SuiteJobAnswer, SuiteSubmission, suite_job
from qgjet_projections.api.problems import documented
from qgjet_projections.api.reads import OrgId, Reads, TheService
from qgjet_projections.service import Service
from qgjet_projections.usecases import commands
from qgjet_projections.usecases.errors import SuiteRejected
from qgjet_projections.usecases.results import Submission

MAX_KEY = 255
REPLAYED = {"Idempotency-Replayed": "true"}

IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        description="Any text up to 255 characters, chosen by the client. The same key and body again give the same answer and no second job; "
        "the same key with another body is refused (422). Keys are per org and kept as long as the job. A submission that was attached to a live job "
        "leaves nothing in the log: repeated after that job has ended, it is a new one.",
    ),
]
SubmitBody = Annotated[
    SubmitRequest,
    Body(
        title="One job",
        description="`test_path` is another name of `test`. Fields left out get the deployment's defaults.",
    ),
]
SuiteBody = Annotated[
    SuiteRequest,
    Body(
        title="Many jobs",
        description="`jobs`, or `tests` with the fields they share; at most 1000 jobs. "
        "More jobs take several requests with one `suite_id` and `submission`, each with the number of jobs still `to_come`. "
        "The suite is complete after the one with 0. If that one never comes, the suite is cancelled.",
    ),
]


_SUBMIT_ANSWERS = {
    200: ResponseSpec(Submission, generate_examples=False, description="Attached to an active job"),
    **documented(400, 409, 413, 415, 422, 503),
}


@post(
    "/jobs",
    status_code=202,
    summary="Submit a job",
    description="202: queued. 200: an active job of the same test was there, and the submission was attached to it (`on_duplicate` is `attach`, the default).",
    responses=_SUBMIT_ANSWERS,
    opt=SUBMIT,
    tags=["jobs"],
)
async def submit(
    service: TheService, caller: TheCaller, data: SubmitBody, idempotency_key: IdempotencyKey = None
) -> Response[Submission]:
    return await _submit(service, caller, data, idempotency_key)


@post(
    "/submit",
    status_code=202,
    summary="Submit a job: as `POST /v1/jobs`",
    responses=_SUBMIT_ANSWERS,
    opt=SUBMIT,
    tags=["compatibility"],
)
async def submit_unversioned(
    service: TheService, caller: TheCaller, data: SubmitBody, idempotency_key: IdempotencyKey = None
) -> Response[Submission]:
    return await _submit(service, caller, data, idempotency_key)


async def _submit(
    service: Service, caller: Caller, data: SubmitRequest, idempotency_key: str | None
) -> Response[Submission]:
    answer, replayed = await commands.submit(service, caller, data, _key(idempotency_key))
    headers = {"Location": f"/jobs/{answer.job_id}", **(REPLAYED if replayed else {})}
    return Response(answer, status_code=200 if answer.attached else 202, headers=headers)


@post(
    "/suites",
    status_code=202,
    summary="Submit the jobs of a suite",
    description="All jobs or none (409: one of them is a duplicate that was to be rejected), unless `atomic` is false. Duplicates are attached otherwise. "
    "The answer has one entry per job; a job that was not accepted has its `error` there. Tests that take longest run first, at equal priority.",
    responses=documented(400, 409, 413, 415, 422, 503),
    opt=SUBMIT,
    tags=["suites"],
)
async def submit_suite(
    service: TheService, caller: TheCaller, data: SuiteBody, idempotency_key: IdempotencyKey = None
) -> Response[SuiteSubmission]:
    return _suite_submission(
        *await commands.submit_suite(service, caller, data, _key(idempotency_key))
    )


class SuiteRerun(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    failed: bool = True
    """Only the jobs that did not pass: failed, timed out, without a verdict, cancelled. False: all
    of them.
    """
    suite_id: str = ""
    """Of the new suite; empty: made for it."""


@post(
    "/suites/{suite_id:str}/rerun",
    status_code=202,
    summary="Run a suite's failed jobs again, as a new suite",
    description="Each new job names the old one in `rerun_of`, the new suite has the tag `rerun_of`. 409 while a job of the suite is live, "
    "and when every job has passed.",
    responses=documented(400, 404, 409, 413, 415, 503),
    opt=SUBMIT,
    tags=["suites"],
)
async def rerun_suite(
    service: TheService,
    caller: TheCaller,
    reads: Reads,
    suite_id: FromPath[str],
    org_id: OrgId = None,
    data: JSONBody[SuiteRerun | None] = None,
) -> Response[SuiteSubmission]:
    asked = data or SuiteRerun()
    suite = await commands.known_suite(service, reads, suite_id, org_id)
    return _suite_submission(
        *await commands.rerun_suite(
            service, caller, suite, only_failed=asked.failed, suite_id=asked.suite_id
        )
    )


def _suite_submission(
    suite_id: str, results: Sequence[tuple[JobSpec, Submission | QgjetError]]
) -> Response[SuiteSubmission]:
    jobs = [suite_job(spec, answer) for spec, answer in results]
    refused = [job for job in jobs if job.error is not None]
    if len(refused) == len(jobs):
        raise _nothing_accepted(
            jobs, [answer for _, answer in results if isinstance(answer, QgjetError)]
        )
    answer = SuiteSubmission(
        suite_id=suite_id,
        seq=max(job.seq or 0 for job in jobs),
        accepted=sum(job.error is None and not job.attached for job in jobs),
        attached=sum(job.attached for job in jobs),
        refused=len(refused),
        jobs=jobs,
    )
    return Response(
        answer, status_code=202, headers={"Location": f"/suites/{quote(suite_id, safe='')}"}
    )


def _nothing_accepted(jobs: list[SuiteJobAnswer], errors: list[QgjetError]) -> SuiteRejected:
    refused = all(job.error and job.error.status == 409 for job in jobs)
    return SuiteRejected(
        f"none of {len(jobs)} jobs was accepted; the first: {errors[0]}",
        jobs,
        first=errors[0],
        refused=refused,
    )


def _key(header: str | None) -> str | None:
    """The key itself: the header's draft writes it as a quoted string, most clients do not."""
    if header is None:
        return None
    key = header[1:-1] if len(header) >= 2 and header[0] == header[-1] == '"' else header
    if not 1 <= len(key) <= MAX_KEY:
        raise ValidationException(
            extra=[{"key": "Idempotency-Key", "message": f"must have 1 to {MAX_KEY} characters"}]
        )
    return key
