"""Errors as problem documents (RFC 9457). The only place where an error becomes an HTTP status:
`TABLE` has them all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.openapi.datastructures import ResponseSpec
from litestar.types import ExceptionHandlersMap
from msgspec import Struct

from qgjet.errors import (
    ArtifactGone,
    Conflict,
    DuplicateJob,
    IncompatibleServer,
    InvalidInput,
    JobNotFound,
    NatsUnavailable,
    Overloaded,
    StoreFull,
)
from qgjet.support.text import shortened
from qgjet_projections.usecases.errors import (
    AgentNotFound,
    ArtifactNotFound,
    CrossOriginRequest,
    FieldError,
    IdempotencyMismatch,
    InsufficientScope,
    InvalidBody,
    OrgForbidden,
    ReadModelBehind,
    SuiteNotFound,
    SuiteRejected,
    TooManyRequests,
    Unauthenticated,
    pointer_of,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
MAX_DETAIL = 2000
"""Characters. A detail may quote what the client sent."""
RETRY_AFTER_S = 1
"""A connection is mended within a second of the server's return, a read model catches up in less.
"""
_RETRY_LATER_S = {"store-full": 30, "overloaded": 5}
"""Somebody has to make room; the server has to store what it has."""


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error, in the shape of RFC 9457."""

    type: str
    """A URN for programs, such as `urn:qgjet:problem:duplicate`; `about:blank` where the status
    says all.
    """
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


def problem(
    request: Request[Any, Any, Any],
    status: int,
    detail: str,
    kind: str = "",
    *,
    headers: Mapping[str, str] | None = None,
    **members: Any,
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
    retry = (
        {"Retry-After": str(_RETRY_LATER_S.get(kind, RETRY_AFTER_S))}
        if status == HTTPStatus.SERVICE_UNAVAILABLE
        else {}
    )
    return Response(
        document, status_code=status, media_type=MEDIA_TYPE, headers={**retry, **(headers or {})}
    )


class Row(Struct, frozen=True):
    """How one kind of error is answered."""

    error: type[Exception]
    status: int
    kind: str
    """Last part of the URN of its type."""
    title: str
    members: Callable[[Request[Any, Any, Any], Any], dict[str, Any]] = lambda _, __: {}
    """What its document has besides."""
    headers: Callable[[Any], dict[str, str]] = lambda _: {}

    def answer(self, request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
        return problem(
            request,
            self.status,
            str(error),
            self.kind,
            headers=self.headers(error),
            **self.members(request, error),
        )


def _where(request: Request[Any, Any, Any], error: InvalidInput) -> dict[str, Any]:
    reason = shortened(error.reason, MAX_DETAIL)
    return {
        "errors": (
            FieldError(reason, pointer_of(error.field))
            if request.method != "GET"
            else FieldError(reason, parameter=error.field),
        )
    }


TABLE = (
    Row(InvalidInput, 400, "invalid-request", "The request cannot be accepted", members=_where),
    Row(
        InvalidBody,
        400,
        "invalid-request",
        "The request cannot be accepted",
        members=lambda _, error: {"errors": error.errors},
    ),
    Row(
        Unauthenticated,
        401,
        "unauthenticated",
        "A token is needed",
        headers=lambda _: {"WWW-Authenticate": 'Bearer realm="qgjet"'},
    ),
    Row(
        InsufficientScope,
        403,
        "scope",
        "The token does not allow this",
        members=lambda _, error: {"scope": error.scope},
    ),
    Row(OrgForbidden, 403, "org", "The token is for other orgs"),
    Row(CrossOriginRequest, 403, "page", "Pages of other sites may not do this"),
    Row(JobNotFound, 404, "unknown-job", "No such job"),
    Row(SuiteNotFound, 404, "unknown-suite", "No such suite"),
    Row(AgentNotFound, 404, "unknown-agent", "No such agent"),
    Row(ArtifactNotFound, 404, "unknown-artifact", "No such artifact"),
    Row(ArtifactGone, 410, "artifact-gone", "The artifact is not stored"),
    Row(
        DuplicateJob,
        409,
        "duplicate",
        "A live job already holds the slot",
        members=lambda _, error: {"job_id": error.job_id},
    ),
    Row(Conflict, 409, "conflict", "The job's state does not allow this"),
    Row(
        IdempotencyMismatch,
        422,
        "idempotency-mismatch",
        "The idempotency key belongs to another request",
    ),
    Row(
        TooManyRequests,
        429,
        "too-many-requests",
        "Too many requests",
        headers=lambda error: {"Retry-After": str(error.retry_after_s)},
    ),
    Row(ReadModelBehind, 503, "not-caught-up", "The read model is behind"),
    Row(StoreFull, 503, "store-full", "The event store is full"),
    Row(Overloaded, 503, "overloaded", "The event store takes no more at the moment"),
    Row(NatsUnavailable, 503, "unavailable", "Not available now"),
    Row(IncompatibleServer, 503, "unavailable", "Not available now"),
)
"""An error is answered as its own class, or as the nearest one above it."""
_TITLES = {row.kind: row.title for row in TABLE} | {"internal": "Internal error"}


def row_of(error: BaseException) -> Row | None:
    rows = {row.error: row for row in TABLE}
    return next((rows[kind] for kind in type(error).__mro__ if kind in rows), None)


def kind_of_unavailable(error: BaseException) -> str:
    row = row_of(error)
    return (
        row.kind
        if row is not None and row.status == HTTPStatus.SERVICE_UNAVAILABLE
        else "unavailable"
    )


def nothing_accepted(request: Request[Any, Any, Any], error: SuiteRejected) -> Response[Problem]:
    status, kind = (409, "duplicate") if error.refused else (503, kind_of_unavailable(error.first))
    return problem(request, status, str(error), kind, jobs=error.jobs)


def http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[Problem]:
    errors = tuple(_parameter_error(one) for one in error.extra or () if isinstance(one, dict))
    if error.status_code >= 500:
        log.error("%s %s: %s", request.method, request.scope["path"], error.detail)
    return problem(
        request,
        error.status_code,
        _http_detail(request, error),
        "invalid-request" if errors else "",
        headers=error.headers,
        errors=errors,
    )


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


HANDLERS: ExceptionHandlersMap = {
    **{row.error: row.answer for row in TABLE},
    SuiteRejected: nothing_accepted,
    HTTPException: http_error,
    Exception: unexpected,
}


def documented(*statuses: int) -> dict[int, ResponseSpec]:
    """The problem statuses of a route that needs a token, for the OpenAPI schema."""
    return documented_public(*sorted({*statuses, 401, 403, 429}))


def documented_public(*statuses: int) -> dict[int, ResponseSpec]:
    return {
        status: ResponseSpec(
            Problem, generate_examples=False, description=_MEANINGS[status], media_type=MEDIA_TYPE
        )
        for status in statuses
    }


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
