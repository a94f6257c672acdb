"""Who asks, and what they may do: tokens, scopes, orgs, rate limits.

Every route says in its `opt` what it needs: `@get("/jobs", opt=READ)`. `admit` guards all routes of
the application; one that says nothing is refused to everybody. What the caller may see is a matter
of the read model: handlers ask `reads`, which is bound to the caller's orgs, and so cannot forget
it.

Without authentication (`api.auth = false`, or on loopback before there is any token) everybody may
do everything. Then a browser is the danger: any page in it may send requests to loopback. So
requests of pages that are not ours, and under names that do not mean this machine, are refused.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler
from litestar.types import ASGIApp, Receive, Send
from litestar.types import Scope as RequestScope

from qgjet.auth import tokens
from qgjet.auth.token_file import TokenStore
from qgjet.auth.tokens import Scope, Token
from qgjet.config.settings import ApiSettings
from qgjet.errors import InvalidSettings
from qgjet.support.clock import Clock, utc_now
from qgjet_projections.api.limits import Buckets, Places
from qgjet_projections.usecases.errors import (
    CrossOriginRequest,
    InsufficientScope,
    OrgForbidden,
    TooManyRequests,
    Unauthenticated,
)

Connection = ASGIConnection[Any, Any, Any, Any]
Monotonic = Callable[[], float]

COOKIE = "qgjet_token"
"""The token of somebody who has signed in to the dashboard."""
NEEDS, EVERY_ORG = "scope", "every_org"
READ = {NEEDS: Scope.READ}
READ_EVERY_ORG = {NEEDS: Scope.READ, EVERY_ORG: True}
"""What cannot be told apart by org."""
SUBMIT = {NEEDS: Scope.SUBMIT}
OPERATE = {NEEDS: Scope.OPERATE}
PUBLIC = {NEEDS: None}
"""For everybody, also without a token; a handler that tells more to some asks `caller.known`."""
UNPROTECTED = [{}]  # type: ignore[var-annotated]
"""OpenAPI's `security` of a public route: also without any."""

FAILURES_PER_S, FAILURES = 1.0, 20
"""Requests without a good token, of one address."""
MAX_STREAMS = 100
"""Open streams of one token; without tokens, of one address."""
STREAM_RETRY_AFTER_S = 5


class Caller:
    """Who asks. Made by `Access`."""

    def __init__(
        self, access: Access, token: Token | None, *, known: bool = True, address: str = ""
    ) -> None:
        self._access = access
        self._token = token
        self._address = address
        self._streams = 0
        self.known = known
        """False: somebody without a token, or a page of another site, on a public route."""

    @property
    def orgs(self) -> frozenset[str] | None:
        """The orgs it is bound to; None for every one."""
        if not self.known:
            return frozenset()
        return None if self._token is None else self._token.only_orgs

    @property
    def by(self) -> str:
        """For the log: who asked for it."""
        return f"api:{self._token.name}" if self._token else "api"

    def allows(self, scope: Scope) -> bool:
        return self.known and (self._token is None or self._token.allows(scope))

    def lasts(self) -> bool:
        """Whether what it asked for may go on: for answers that take their time."""
        return self._access.still_accepts(self._token) if self._token else not self._access.required

    def open_stream(self) -> None:
        """Count a stream that this request opens; `close_streams` ends it. Raises TooManyRequests."""
        if not self._access.streams.take(self._owner):
            detail = f"{self._owner} has {MAX_STREAMS} streams open, which is the limit: close some, or ask for pages instead"
            raise TooManyRequests(detail, retry_after_s=STREAM_RETRY_AFTER_S)
        self._streams += 1

    def close_streams(self) -> None:
        while self._streams:
            self._streams -= 1
            self._access.streams.give_back(self._owner)

    @property
    def _owner(self) -> str:
        return f"token {self._token.id}" if self._token else f"address {self._address}"

    def check_orgs(self, wanted: Collection[str]) -> None:
        """Raises OrgForbidden when it is not for all of the orgs that it names itself."""
        foreign = (
            [] if self.orgs is None else [org for org in wanted if org and org not in self.orgs]
        )
        if foreign:
            raise OrgForbidden(
                f"this token is not for org {foreign[0]!r}; it is for {', '.join(sorted(self.orgs or ())) or 'none'}"
            )


TheCaller = NamedDependency[Caller]


class Access:
    """The tokens that count, and how often each may ask. One per process; each replica counts for
    itself.
    """

    def __init__(
        self,
        api: ApiSettings,
        *,
        required: bool,
        clock: Clock = utc_now,
        monotonic: Monotonic = time.monotonic,
    ) -> None:
        """`required`: also before there is any token. Raises InvalidSettings for tokens that cannot
        be read.
        """
        self._keyring = TokenStore(Path(api.tokens_file), api.tokens)
        self._on = api.auth
        self._always = required
        self._allowed_pages = frozenset(api.cors_origins)
        self._clock, self._monotonic = clock, monotonic
        self._rates = Buckets(rate=api.rate_limit, burst=api.rate_burst)
        self._failures = Buckets(rate=FAILURES_PER_S, burst=FAILURES)
        self.streams = Places(MAX_STREAMS)

    @property
    def required(self) -> bool:
        return self._on and (self._always or bool(self._keyring.tokens) or self._keyring.had_any)

    @property
    def has_tokens(self) -> bool:
        return bool(self._keyring.tokens)

    def still_accepts(self, token: Token) -> bool:
        """Unchanged, and not over."""
        return self._keyring.tokens.get(token.id) == token and not token.why_not(self._clock())

    def caller(self, connection: Connection, *, public: bool) -> Caller:
        """Raises Unauthenticated, TooManyRequests, or CrossOriginRequest where nobody is asked for
        a token.
        """
        if not self.required:
            why_not = self._foreign_page(connection)
            if why_not and not public:
                raise CrossOriginRequest(why_not)
            return Caller(self, None, known=not why_not, address=_address(connection))
        try:
            token = self._token(connection)
        except Unauthenticated:
            if public:
                return Caller(self, None, known=False)
            self._limit(
                self._failures,
                _address(connection),
                "too many requests without a token that is accepted",
            )
            raise
        if not public:
            self._limit(self._rates, token.id, f"token {token.id} asks too often")
        return Caller(self, token)

    def check_sign_in(self, connection: Connection, text: str) -> None:
        """Raises Unauthenticated, CrossOriginRequest, or TooManyRequests for somebody who guesses."""
        if why_not := self._foreign_origin(connection):
            raise CrossOriginRequest(why_not)
        try:
            self._accepted(text)
        except Unauthenticated:
            self._limit(
                self._failures, _address(connection), "too many tokens that are not accepted"
            )
            raise

    def _token(self, connection: Connection) -> Token:
        text = tokens.bearer(connection.headers.get("authorization", ""))
        if not text and not self._foreign_origin(
            connection
        ):  # a browser may send a cookie whoever's page asks
            text = connection.cookies.get(COOKIE, "")
        return self._accepted(text)

    def _accepted(self, text: str) -> Token:
        if not text:
            raise Unauthenticated("a token is needed: send `Authorization: Bearer <token>`")
        token = tokens.find(self._keyring.tokens, text)
        if token is None:
            raise Unauthenticated("this token is not known here")
        if why_not := token.why_not(self._clock()):
            raise Unauthenticated(why_not)
        return token

    def _limit(self, buckets: Buckets, key: str, detail: str) -> None:
        wait_s = buckets.take(key, self._monotonic())
        if wait_s:
            raise TooManyRequests(detail, retry_after_s=math.ceil(wait_s))

    def _foreign_origin(self, connection: Connection) -> str:
        """Why the page that asks is one of another site, as far as the browser says; empty: it is
        not.
        """
        host, origin = connection.headers.get("host", ""), connection.headers.get("origin", "")
        if (
            origin
            and origin not in self._allowed_pages
            and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower())
        ):
            return f"pages of {origin} may not use this API: api.cors_origins does not name them"
        return ""

    def _foreign_page(self, connection: Connection) -> str:
        """The same where nobody is asked for a token; there other names of this machine are
        foreign, too.
        """
        if why_not := self._foreign_origin(connection):
            return why_not
        host = connection.headers.get("host", "")
        if host and not is_loopback(_host_of(host)):
            return f"without tokens this API answers to names of this machine alone, such as localhost, and not to {host}: `qgjet token create`"
        return ""


def close_streams(app: ASGIApp) -> ASGIApp:
    """The middleware that ends the count of a request's streams with the request, however it ends."""

    async def call(scope: RequestScope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        finally:
            if isinstance(caller := scope.get("auth"), Caller):
                caller.close_streams()

    return call


async def admit(connection: Connection, handler: BaseRouteHandler) -> None:
    """The guard of every route: who asks, and whether they may."""
    if connection.scope.get("method") == "OPTIONS":  # made by Litestar: the methods that there are
        return
    if NEEDS not in handler.opt:
        raise InsufficientScope(
            f"{connection.scope['path']} does not say which scope it needs, so nobody may use it"
        )
    needed: Scope | None = handler.opt[NEEDS]
    caller = connection.app.state.access.caller(connection, public=needed is None)
    connection.scope["auth"] = caller
    if needed is None:
        return
    if not caller.allows(needed):
        raise InsufficientScope(f"this needs a token with the scope {needed.value}", needed.value)
    if handler.opt.get(EVERY_ORG) and caller.orgs is not None:
        raise OrgForbidden(
            "this tells about all orgs at once: it needs a token for every org (`--org '*'`)"
        )


def access_of(api: ApiSettings, *, everywhere: bool) -> Access:
    """The rules for a server that listens on `api.host`, or `everywhere`: nobody knows where.

    Raises InvalidSettings where others could reach a server that asks for no token, or has none to
    accept.
    """
    local = not everywhere and is_loopback(api.host)
    access = Access(api, required=not local)
    where = (
        "nobody knows where this server listens"
        if everywhere
        else f"{api.host} is not this machine alone"
    )
    if not (local or api.auth or everywhere):
        raise InvalidSettings(
            "api.auth",
            f"{where}: without tokens (--no-auth) only 127.0.0.1, ::1 or localhost is served",
        )
    if not local and api.auth and not access.has_tokens:
        unless = (
            ", or, if only this machine can reach it, set QGJET_API_AUTH=false"
            if everywhere
            else ", or listen on 127.0.0.1"
        )
        raise InvalidSettings(
            "api.tokens_file",
            f"{where}, and there is no token in {api.tokens_file}: make one with `qgjet token create --name me --org '*' --scope operate`{unless}",
        )
    return access


def is_loopback(host: str) -> bool:
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False


def _host_of(header: str) -> str:
    """The name in a Host header, without its port."""
    return header.partition("]")[0] + "]" if header.startswith("[") else header.partition(":")[0]


def _address(connection: Connection) -> str:
    """Where failures are counted: the address; of IPv6 its network, because one host has many
    there.
    """
    host = connection.client.host if connection.client else ""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else host
