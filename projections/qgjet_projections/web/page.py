"""One page: its template, what every template may use, and its headers."""

from __future__ import annotations

import gzip
import shlex
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode

from jinja2 import Environment
from litestar import Request, Response
from litestar.datastructures import Cookie
from litestar.enums import MediaType
from litestar.plugins.jinja import JinjaTemplateEngine
from litestar.response import Redirect
from litestar.template import TemplateConfig

from qgjet.auth.tokens import Scope
from qgjet.version import __version__
from qgjet_projections.api.access import Caller
from qgjet_projections.api.headers import CSP, PAGE
from qgjet_projections.service import Service
from qgjet_projections.web import assets, text
from qgjet_projections.web.live import PATIENCE_S

AnyRequest = Request[Any, Any, Any]
TEMPLATES = Path(__file__).parent / "templates"
SAID = "qgjet_said"
"""Cookie that carries what an action did to the page that is shown next."""
SAID_FOR_S = 30
SMALL = 10_000
"""Bytes of a page that is sent as it is. There is no secret in a page whose length could be told by
packing it with what somebody else says.
"""


def template_config() -> TemplateConfig[JinjaTemplateEngine]:
    return TemplateConfig(directory=TEMPLATES, engine=JinjaTemplateEngine, engine_callback=_set_up)


def _set_up(engine: JinjaTemplateEngine) -> None:
    environment: Environment = engine.engine
    environment.trim_blocks = environment.lstrip_blocks = True
    for filter_ in (
        text.tone,
        text.words,
        text.duration,
        text.ago,
        text.utc,
        text.clock,
        text.iso,
        text.percent,
        text.size,
    ):
        environment.filters[filter_.__name__] = filter_
    environment.filters["segment"] = segment
    environment.globals |= {
        "asset": assets.url_of,
        "scripts": assets.scripts,
        "version": __version__,
        "query": query,
        "verdict_order": text.VERDICTS,
    }


def command(verb: str, **flags: str) -> str:
    """A command line for a shell, to be taken as it is: it names the server, and what comes out of
    an address stays one word.
    """
    words = [
        word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", value)
    ]
    return shlex.join(["qgjet", verb, *words])


def segment(value: object) -> str:
    """As one segment of a path."""
    return quote(str(value), safe="")


def query(values: Mapping[str, Any], **changed: Any) -> str:
    """`?…` of what is given and of what is changed; nothing for None and empty ones."""
    pairs = [
        (name, value)
        for name, value in {**values, **changed}.items()
        if value not in (None, "", [])
    ]
    return f"?{urlencode(pairs, doseq=True)}" if pairs else ""


def offset(values: Mapping[str, str]) -> int:
    """The cursor of a list that has no other key than the place in it; nonsense is its beginning."""
    cursor = values.get("cursor", "")
    return int(cursor) if cursor.isascii() and cursor.isdecimal() and len(cursor) < 10 else 0


def page(
    request: AnyRequest,
    service: Service,
    name: str,
    *,
    status_code: int = 200,
    live: str = "",
    **context: Any,
) -> Response[bytes]:
    """The template `name`, whole: a script that wants a part of it takes it out. `live`: what
    `/ui/live` is asked for; empty: the page stands still.
    """
    caller: Caller = request.scope.get("auth") or Caller(
        request.app.state.access, None, known=False
    )
    follows = (
        request.headers.get("hx-request") == "true"
    )  # a page that is about to be left must not take what the next one has to say
    said = "" if follows else request.cookies.get(SAID, "")
    org_id = min(caller.orgs, default="acme") if caller.orgs is not None else "acme"
    ailments = service.ailments(patience_s=PATIENCE_S)
    given = {
        "path": request.url.path,
        "here": request.url.path + (f"?{request.url.query}" if request.url.query else ""),
        "caller": caller,
        "may": lambda scope: caller.allows(Scope(scope)),
        "everywhere": caller.orgs is None,
        "submitting": lambda verb, **flags: command(
            verb,
            org_id=org_id,
            app_version_id="1.0.0",
            **flags,
            api=str(request.base_url).rstrip("/"),
        ),
        "agent_command": lambda **flags: command("agent", **flags, nats=service.nats_url),
        "asks_for_tokens": request.app.state.access.required,
        "now": service.clock(),
        "applied_seq": service.applied_seq,
        "ailments": ailments,
        "said": unquote(said),
        "live": f"{live}&ailing=true" if live and ailments else live,
    }
    engine = request.app.template_engine
    assert engine is not None
    content = engine.get_template(name).render({**given, **context})
    body, headers = (
        content.encode(),
        {CSP: PAGE, "Referrer-Policy": "same-origin", "Vary": "Accept-Encoding"},
    )  # a form that tells no origin could be anybody's
    if len(body) > SMALL and "gzip" in request.headers.get("accept-encoding", ""):
        body, headers["Content-Encoding"] = gzip.compress(body, compresslevel=3, mtime=0), "gzip"
    cookies = (
        [Cookie(key=SAID, path="/", max_age=0, httponly=True, samesite="strict")] if said else []
    )
    return Response(
        body, media_type=MediaType.HTML, status_code=status_code, headers=headers, cookies=cookies
    )


def done(request: AnyRequest, said: str, back: str) -> Redirect:
    """After an action: back to a page of ours, which says once what was done."""
    cookie = Cookie(
        key=SAID,
        value=quote(said[:300]),
        path="/",
        max_age=SAID_FOR_S,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return Redirect(own_path(back), status_code=303, cookies=[cookie])


def own_path(back: str) -> str:
    """A path of this site; its root for anything else: `//elsewhere`, `/\\elsewhere`, `https:…`."""
    plain = (
        back.startswith("/")
        and not back.startswith(("//", "/\\"))
        and back.isprintable()
        and "\\" not in back
    )
    return back if plain else "/"


def since(now: datetime, *, hours: int) -> datetime:
    """The beginning of the first of so many hours, the present one among them."""
    return now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=hours - 1)
