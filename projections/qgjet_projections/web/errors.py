"""Errors as pages, with the status and the words that the API has for them."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response
from litestar.enums import MediaType
from litestar.exceptions import HTTPException
from litestar.response import Redirect
from litestar.types import ExceptionHandlersMap
from litestar_htmx import ClientRedirect

from qgjet_projections.api.problems import HANDLERS, Problem
from qgjet_projections.api.routes.events import MEDIA_TYPE
from qgjet_projections.usecases.errors import Unauthenticated
from qgjet_projections.web.page import page, query

_WHAT_TO_DO = {
    400: "Go back and correct it, in the form or in the address.",
    403: "Sign in with a token that allows it.",
    404: "It may have been here: what ended long ago is forgotten. The lists show what there is.",
    409: "Somebody, or the job itself, was quicker. Look at it as it is now.",
    429: "Wait a moment, then try again.",
    503: "The server mends itself once NATS answers. Try again in a moment.",
}


def as_page(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    handler = next(
        handler
        for kind, handler in HANDLERS.items()
        if isinstance(kind, type) and isinstance(error, kind)
    )
    answer = handler(request, error)
    problem: Problem = answer.content
    shown = page(
        request,
        request.app.state.service,
        "error.html",
        status_code=problem.status,
        title=problem.title,
        detail=_detail(error, problem),
        advice=_WHAT_TO_DO.get(problem.status, ""),
    )
    if "Retry-After" in answer.headers:
        shown.headers["Retry-After"] = answer.headers["Retry-After"]
    return shown


def _detail(error: Exception, problem: Problem) -> str:
    """Of a bad parameter the framework says little more than that there is one."""
    if isinstance(error, HTTPException) and problem.errors:
        return "; ".join(f"{one.parameter or 'form'}: {one.detail}" for one in problem.errors)
    return problem.detail


def sign_in(request: Request[Any, Any, Any], error: Unauthenticated) -> Response[Any]:
    """Whoever asks for a page without a token is asked for one. An event source would follow a
    redirect and find no events there: it is refused.
    """
    if MEDIA_TYPE in request.headers.get("accept", ""):
        return Response(str(error), status_code=401, media_type=MediaType.TEXT)
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    login = f"/ui/login{query({'next': here if request.method == 'GET' else '/'})}"
    # by its header, for here the request is a plain one. A page that asks for itself again would
    # follow a redirect, and show it inside itself
    if request.headers.get("hx-request") == "true":
        return ClientRedirect(login)
    return Redirect(login, status_code=303)


PAGE_HANDLERS: ExceptionHandlersMap = {
    **{kind: as_page for kind in HANDLERS},
    Unauthenticated: sign_in,
}
