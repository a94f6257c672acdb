"""Errors as problem documents (RFC 9457). The only place where an error becomes an HTTP status.

| error                                               | status                                             |
|-----------------------------------------------------|----------------------------------------------------|
| InvalidInput, InvalidBody, a bad parameter          | 400                                                |
| Unauthenticated                                     | 401, with WWW-Authenticate                         |
| NeedsScope, ForeignOrg, ForeignPage                 | 403                                                |
| UnknownJob, …Suite, …Agent, …Artifact, no route     | 404                                                |
| ArtifactGone                                        | 410                                                |
| Refused, DuplicateJob                               | 409                                                |
| IdempotencyMismatch                                 | 422                                                |
| TooManyRequests                                     | 429, with Retry-After                              |
| LogUnavailable, NotCaughtUp, IncompatibleServer     | 503, with Retry-After                              |
| StoreFull, Overloaded                               | 503, with a longer Retry-After                     |
| anything else                                       | 500, without details: they are in the server's log |
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.openapi.datastructures import ResponseSpec
from litestar.types import ExceptionHandlersMap
from msgspec import Struct

from qgjet.errors import ArtifactGone, DuplicateJob, IncompatibleServer, InvalidInput, LogUnavailable, Overloaded, QgjetError, Refused, StoreFull, UnknownJob
from qgjet.support.text import shortened

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
MAX_DETAIL = 2000
"""Characters. A detail may quote what the client sent."""
RETRY_AFTER_S = 1
"""A connection is mended within a second of the server's return, a read model catches up in less."""
_RETRY_LATER_S = {"store-full": 30, "overloaded": 5}
"""Somebody has to make room; the server has to store what it has."""


class FieldError(Struct, frozen=True, omit_defaults=True):
    """What is wrong in one place of a request."""

    detail: str
    pointer: str = ""
    """JSON pointer into the body, as a URI fragment: `#/jobs/3/test`."""
    parameter: str = ""
    """Name of the query, path or header parameter, when it is not the body."""


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error, in the shape of RFC 9457."""

    type: str
    """A URN for programs, such as `urn:qgjet:problem:duplicate`; `about:blank` where the status says all."""
    title: str
    status: int
    detail: str
    instance: str
    """Path of the request."""
    errors: tuple[FieldError, ...] = ()
    job_id: str = ""
    """Of the live job that stands in the way."""
    jobs: tuple[Any, ...] = ()
    """Of a suite: the answer for each job."""
    reasons: tuple[str, ...] = ()
    scope: str = ""
    """The scope that a token needs for this."""


class InvalidBody(QgjetError):
    """The body cannot be read as what the route expects."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{one.pointer or 'body'}: {one.detail}" for one in errors[:3]))
        self.errors = tuple(errors)


class Unauthenticated(QgjetError):
    """The request has no token, or one that is not accepted."""


class NeedsScope(QgjetError):
    """The token does not have the scope that the route needs."""

    def __init__(self, message: str, scope: str = "") -> None:
        super().__init__(message)
        self.scope = scope


class ForeignOrg(QgjetError):
    """The token is bound to other orgs than the one that the request names."""


class ForeignPage(QgjetError):
    """Nobody is asked for a token here, and the request may come from a page in somebody's browser."""


class TooManyRequests(QgjetError):
    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnknownSuite(QgjetError):
    """No suite of that id."""


class UnknownAgent(QgjetError):
    """No agent of that name is alive."""


class UnknownArtifact(QgjetError):
    """The attempt left no file of that name."""


class IdempotencyMismatch(QgjetError):
    """The key was used for another request before."""


class NotCaughtUp(LogUnavailable):
    """The read model has not got as far as the reader asks."""


class NothingAccepted(QgjetError):
    """Not one job of a suite was accepted."""

    def __init__(self, message: str, jobs: Sequence[Any], *, first: QgjetError, refused: bool) -> None:
        super().__init__(message)
        self.jobs = tuple(jobs)
        self.first = first
        self.refused = refused


def problem(
    request: Request[Any, Any, Any], status: int, detail: str, kind: str = "", *, headers: Mapping[str, str] | None = None, **members: Any
) -> Response[Problem]:
    """The response for one error; `kind` is the last part of the type's URN."""
    document = Problem(
        type=f"urn:qgjet:problem:{kind}" if kind else "about:blank",
        title=_TITLES.get(kind) or HTTPStatus(status).phrase,
        status=status,
        detail=shortened(detail, MAX_DETAIL),
        instance=quote(request.scope["path"], safe="/~!$&'()*+,;=:@", errors="replace"),
        **members,
    )
    retry = {"Retry-After": str(_RETRY_LATER_S.get(kind, RETRY_AFTER_S))} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    return Response(document, status_code=status, media_type=MEDIA_TYPE, headers={**retry, **(headers or {})})


_TITLES = {
    "invalid-request": "The request cannot be accepted",
    "unauthenticated": "A token is needed",
    "scope": "The token does not allow this",
    "org": "The token is for other orgs",
    "page": "Pages of other sites may not do this",
    "too-many-requests": "Too many requests",
    "duplicate": "A live job already holds the slot",
    "conflict": "The job's state does not allow this",
    "unknown-job": "No such job",
    "unknown-suite": "No such suite",
    "unknown-artifact": "No such artifact",
    "unknown-agent": "No such agent",
    "artifact-gone": "The artifact is not stored",
    "unavailable": "Not available now",
    "not-caught-up": "The read model is behind",
    "store-full": "The event store is full",
    "overloaded": "The event store takes no more at the moment",
    "idempotency-mismatch": "The idempotency key belongs to another request",
    "internal": "Internal error",
}


def invalid_input(request: Request[Any, Any, Any], error: InvalidInput) -> Response[Problem]:
    in_body = request.method != "GET"
    reason = shortened(error.reason, MAX_DETAIL)
    where = FieldError(reason, pointer_of(error.field)) if in_body else FieldError(reason, parameter=error.field)
    return problem(request, 400, str(error), "invalid-request", errors=(where,))


def invalid_body(request: Request[Any, Any, Any], error: InvalidBody) -> Response[Problem]:
    return problem(request, 400, str(error), "invalid-request", errors=error.errors)


def duplicate(request: Request[Any, Any, Any], error: DuplicateJob) -> Response[Problem]:
    return problem(request, 409, str(error), "duplicate", job_id=error.job_id)


def refused(request: Request[Any, Any, Any], error: Refused) -> Response[Problem]:
    return problem(request, 409, str(error), "conflict")


def unauthenticated(request: Request[Any, Any, Any], error: Unauthenticated) -> Response[Problem]:
    return problem(request, 401, str(error), "unauthenticated", headers={"WWW-Authenticate": 'Bearer realm="qgjet"'})


def needs_scope(request: Request[Any, Any, Any], error: NeedsScope) -> Response[Problem]:
    return problem(request, 403, str(error), "scope", scope=error.scope)


def foreign_org(request: Request[Any, Any, Any], error: ForeignOrg) -> Response[Problem]:
    return problem(request, 403, str(error), "org")


def foreign_page(request: Request[Any, Any, Any], error: ForeignPage) -> Response[Problem]:
    return problem(request, 403, str(error), "page")


def too_many_requests(request: Request[Any, Any, Any], error: TooManyRequests) -> Response[Problem]:
    return problem(request, 429, str(error), "too-many-requests", headers={"Retry-After": str(error.retry_after_s)})


def unknown_job(request: Request[Any, Any, Any], error: UnknownJob) -> Response[Problem]:
    return problem(request, 404, str(error), "unknown-job")


def unknown_suite(request: Request[Any, Any, Any], error: UnknownSuite) -> Response[Problem]:
    return problem(request, 404, str(error), "unknown-suite")


def unknown_agent(request: Request[Any, Any, Any], error: UnknownAgent) -> Response[Problem]:
    return problem(request, 404, str(error), "unknown-agent")


def unknown_artifact(request: Request[Any, Any, Any], error: UnknownArtifact) -> Response[Problem]:
    return problem(request, 404, str(error), "unknown-artifact")


def artifact_gone(request: Request[Any, Any, Any], error: ArtifactGone) -> Response[Problem]:
    return problem(request, 410, str(error), "artifact-gone")


def mismatch(request: Request[Any, Any, Any], error: IdempotencyMismatch) -> Response[Problem]:
    return problem(request, 422, str(error), "idempotency-mismatch")


def nothing_accepted(request: Request[Any, Any, Any], error: NothingAccepted) -> Response[Problem]:
    status, kind = (409, "duplicate") if error.refused else (503, kind_of_unavailable(error.first))
    return problem(request, status, str(error), kind, jobs=error.jobs)


def unavailable(request: Request[Any, Any, Any], error: QgjetError) -> Response[Problem]:
    return problem(request, 503, str(error), kind_of_unavailable(error))


def kind_of_unavailable(error: BaseException) -> str:
    kinds = ((NotCaughtUp, "not-caught-up"), (StoreFull, "store-full"), (Overloaded, "overloaded"))
    return next((kind for one, kind in kinds if isinstance(error, one)), "unavailable")


def http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[Problem]:
    errors = tuple(_parameter_error(one) for one in error.extra or () if isinstance(one, dict))
    if error.status_code >= 500:
        log.error("%s %s: %s", request.method, request.scope["path"], error.detail)
    return problem(request, error.status_code, _http_detail(request, error), "invalid-request" if errors else "", headers=error.headers, errors=errors)


def _http_detail(request: Request[Any, Any, Any], error: HTTPException) -> str:
    if error.status_code == HTTPStatus.NOT_FOUND:
        return f"there is nothing at {request.scope['path']}; /docs lists what there is"
    if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return "the body is larger than 1 MiB; send several smaller ones"
    return error.detail


def _parameter_error(extra: Mapping[str, Any]) -> FieldError:
    key, message = str(extra.get("key", "")), str(extra.get("message", ""))
    if key == "data":
        return FieldError("a JSON body is required", "#")
    return FieldError("is required" if message == repr(key) else message, parameter=key)


def unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    log.error("%s %s failed", request.method, request.scope["path"], exc_info=error)
    return problem(request, 500, "the server failed on this request; its log says why", "internal")


def pointer_of(field: str) -> str:
    """JSON pointer of a dotted field, as a URI fragment. Raw keys with dots are given as tuples to `pointer`."""
    return pointer(field.split("."))


def pointer(path: Sequence[str]) -> str:
    return "#" + "".join("/" + quote(key.replace("~", "~0").replace("/", "~1"), safe="~!$&'()*+,;=:@", errors="replace") for key in path)


HANDLERS: ExceptionHandlersMap = {
    InvalidInput: invalid_input,
    InvalidBody: invalid_body,
    DuplicateJob: duplicate,
    Refused: refused,
    Unauthenticated: unauthenticated,
    NeedsScope: needs_scope,
    ForeignOrg: foreign_org,
    ForeignPage: foreign_page,
    TooManyRequests: too_many_requests,
    UnknownJob: unknown_job,
    UnknownSuite: unknown_suite,
    UnknownAgent: unknown_agent,
    UnknownArtifact: unknown_artifact,
    ArtifactGone: artifact_gone,
    IdempotencyMismatch: mismatch,
    NothingAccepted: nothing_accepted,
    LogUnavailable: unavailable,
    IncompatibleServer: unavailable,
    HTTPException: http_error,
    Exception: unexpected,
}


def documented(*statuses: int) -> dict[int, ResponseSpec]:
    """The problem statuses of a route that needs a token, for the OpenAPI schema."""
    return documented_public(*sorted({*statuses, 401, 403, 429}))


def documented_public(*statuses: int) -> dict[int, ResponseSpec]:
    return {status: ResponseSpec(Problem, generate_examples=False, description=_MEANINGS[status], media_type=MEDIA_TYPE) for status in statuses}


_MEANINGS = {
    400: "The request is not valid; `errors` says where and why",
    401: "A token is needed, or the one that was sent is not accepted",
    403: "The token does not have the scope, or is bound to other orgs",
    404: "There is no such thing, or it belongs to an org that the token is not for",
    409: "The state of the job does not allow it",
    410: "It is not stored any more, or was left out",
    413: "The body is larger than 1 MiB",
    415: "The body is not JSON",
    416: "The file has no such part",
    422: "The idempotency key was used with another request",
    429: "Too many requests of this token, or too many without one, or too many active partitions of the org; try again after `Retry-After` seconds",
    503: "No answer from NATS, or the read model is behind; try again after `Retry-After` seconds",
}
