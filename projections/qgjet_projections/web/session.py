"""Signing in with a token, and out."""

from __future__ import annotations

from typing import Annotated

from litestar import Response, get, post
from litestar.datastructures import Cookie
from litestar.enums import RequestEncodingType
from litestar.params import Body
from litestar.response import Redirect
from msgspec import Struct

from qgjet_projections.api.access import COOKIE, PUBLIC
from qgjet_projections.api.reads import TheService
from qgjet_projections.usecases.errors import Unauthenticated
from qgjet_projections.web.page import AnyRequest, own_path, page

LASTS_S = 30 * 86_400


class Login(Struct, frozen=True):
    token: str = ""
    next: str = "/"


Form = Annotated[Login, Body(media_type=RequestEncodingType.URL_ENCODED)]


@get("/ui/login", opt=PUBLIC, include_in_schema=False, sync_to_thread=False)
def login(request: AnyRequest, service: TheService) -> Response[bytes]:
    return page(
        request,
        service,
        "login.html",
        next=own_path(request.query_params.get("next", "/")),
        wrong="",
    )


@post("/ui/login", opt=PUBLIC, include_in_schema=False, status_code=303, sync_to_thread=False)
def sign_in(request: AnyRequest, service: TheService, data: Form) -> Response[bytes] | Redirect:
    """The cookie is the token itself, where no script can read it; it goes to nobody but us, and
    not with what other sites ask for.
    """
    try:
        request.app.state.access.check_sign_in(request, data.token.strip())
    except Unauthenticated as error:
        return page(
            request,
            service,
            "login.html",
            status_code=401,
            next=own_path(data.next),
            wrong=str(error),
        )
    cookie = Cookie(
        key=COOKIE,
        value=data.token.strip(),
        path="/",
        max_age=LASTS_S,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return Redirect(own_path(data.next), status_code=303, cookies=[cookie])


@post("/ui/logout", opt=PUBLIC, include_in_schema=False, status_code=303, sync_to_thread=False)
def sign_out(request: AnyRequest) -> Redirect:
    return Redirect(
        "/ui/login",
        status_code=303,
        cookies=[Cookie(key=COOKIE, path="/", max_age=0, httponly=True, samesite="strict")],
    )
