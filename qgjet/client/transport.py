"""Requests to the API that outlast restarts and rate limits. The one place where HTTP becomes
answers and errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from typing import Any, TypeVar

import httpx
import msgspec

from qgjet.client import http_environment as surroundings
from qgjet.errors import CannotReach, InvalidSettings, NeedsToken, NotAccepted, NotAllowed
from qgjet.support.addresses import without_password
from qgjet.version import __version__

T = TypeVar("T")
Json = dict[str, Any]
BUSY = frozenset({429, 502, 503, 504})
PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
FIRST_BYTE_S = 5.0
"""The API begins a stream at once; a proxy that collects it is no use."""
SILENCE_S = 40.0
"""The API sends a comment every 15 s."""


class Busy(CannotReach):
    """No usable answer this time; the next one may be."""

    def __init__(self, message: str, pause_s: float = 0.0, status: int = 0) -> None:
        super().__init__(message)
        self.pause_s = pause_s
        self.status = status


class NotOurs(CannotReach):
    """What answers is not qgjet's API; to ask again would not help."""


class NoStream(Exception):
    """This server, or a proxy on the way, does not stream events."""


@contextlib.asynccontextmanager
async def open_http(url: str, *, token: str = "", patience_s: float) -> AsyncIterator[Http]:
    """Raises InvalidSettings for an address or a variable that cannot be used. Nothing is sent yet.

    Redirects are not followed, so the token goes nowhere else.
    """
    base = _base_url(url)
    auth = Bearer(token) if token else None
    async with surroundings.client(
        base,
        timeout=httpx.Timeout(30.0, connect=5.0),
        auth=auth,
        headers={"User-Agent": f"qgjet/{__version__}"},
    ) as client:
        where = without_password(str(base)).rstrip("/")
        yield Http(
            client,
            where,
            patience_s,
            has_token=bool(token),
            proxy=surroundings.proxy_variable(base),
        )


class Bearer(httpx.Auth):
    """Sends the token; goes before a password in the address."""

    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


def _base_url(url: str) -> httpx.URL:
    try:
        base = httpx.URL(url if "://" in url else f"http://{url}")
        if base.scheme in ("http", "https") and base.host:
            return base
    except (httpx.InvalidURL, ValueError):
        pass
    raise InvalidSettings(
        "api", f"{without_password(url)!r} is not an address such as http://127.0.0.1:8000"
    )


class Http:
    def __init__(
        self,
        client: httpx.AsyncClient,
        where: str,
        patience_s: float,
        *,
        has_token: bool = False,
        proxy: str = "",
    ) -> None:
        self.where = f"the API at {where}"
        self.patience_s = patience_s
        self._client = client
        self._has_token = has_token
        self._proxy = proxy
        """The variable with the proxy on the way; empty: there is none."""
        self._met = False
        """It has answered before, so it is worth waiting for."""

    async def ask(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        key: str = "",
    ) -> T:
        """The answer as a `kind`. What is asked has to be harmless when it is repeated: that is
        done until the patience is used up.

        Raises NotAccepted for a refusal, CannotReach when there is no answer, or one that qgjet's
        API does not give.
        """
        deadline = asyncio.get_running_loop().time() + self.patience_s
        pause_s = PAUSE_S
        while True:
            try:
                return await self.once(method, path, kind, params=params, body=body, key=key)
            except Busy as error:
                pause_s = max(pause_s, error.pause_s)
                if not self._met or asyncio.get_running_loop().time() + pause_s > deadline:
                    raise
            await asyncio.sleep(pause_s * random.uniform(1.0, 1.25))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def once(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        key: str = "",
    ) -> T:
        """Like `ask`, without a second try: also raises Busy."""
        headers = ({"Content-Type": "application/json"} if body is not None else {}) | (
            {"Idempotency-Key": key} if key else {}
        )
        content = None if body is None else msgspec.json.encode(body)
        given = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            answer = await self._client.request(
                method, path, params=given, content=content, headers=headers
            )
        except httpx.TransportError as error:
            raise Busy(self._absent(error)) from error
        self._met = True
        return self._read(answer, f"{method} {path}", kind)

    async def stream(
        self, path: str, params: Mapping[str, Any], *, after: str = ""
    ) -> AsyncGenerator[bytes, None]:
        """Pieces of an event stream, behind the event `after`, until it ends, which it does when
        the server restarts. Raises NoStream, or CannotReach.
        """
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        try:
            async with self._client.stream(
                "GET",
                path,
                params=params,
                headers=headers,
                timeout=httpx.Timeout(5.0, read=SILENCE_S),
            ) as answer:
                await self._check_stream(answer)
                pieces = answer.aiter_bytes()
                yield await _first(pieces)
                async for piece in pieces:
                    yield piece
        except httpx.TransportError as error:
            raise Busy(self._absent(error)) from error

    async def pieces(
        self, path: str, params: Mapping[str, Any] | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The content of a file as it comes. Raises NotAccepted, CannotReach, and Busy when it
        breaks off.
        """
        given = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            async with self._client.stream("GET", path, params=given) as answer:
                self._met = True
                if not answer.is_success:
                    await answer.aread()
                    self._read(answer, f"GET {path}", Json)
                async for piece in answer.aiter_bytes():
                    yield piece
        except httpx.TransportError as error:
            raise Busy(self._absent(error)) from error

    async def _check_stream(self, answer: httpx.Response) -> None:
        if answer.status_code in BUSY:
            await answer.aread()
            raise self._busy(answer)
        if answer.status_code in (401, 403):
            await answer.aread()
            self._read(answer, f"GET {answer.request.url.path}", Json)
        if not answer.is_success or not answer.headers.get("content-type", "").startswith(
            "text/event-stream"
        ):
            raise NoStream

    # -- from HTTP to our errors -----------------------------------------------------------------------------------------

    def _absent(self, error: httpx.TransportError) -> str:
        if self._proxy and isinstance(
            error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError
        ):
            return f"{self.where} cannot be reached through the proxy of {self._proxy}: correct {self._proxy}, or add the host to NO_PROXY"
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return f"{self.where} does not answer: is it running? Start one with `qgjet up`, or set QGJET_API_URL"
        if isinstance(error, httpx.TimeoutException):
            return f"{self.where} gave no answer in time"
        return f"{self.where} broke off: {str(error) or type(error).__name__}"

    def _busy(self, answer: httpx.Response) -> Busy:
        problem = _problem(answer)
        detail = problem["detail"] if problem else f"{answer.status_code} {answer.reason_phrase}"
        return Busy(
            f"{self.where} is not available now: {detail}", _retry_after(answer), answer.status_code
        )

    def _read(self, answer: httpx.Response, asked: str, kind: type[T]) -> T:
        if answer.status_code in BUSY:
            raise self._busy(answer)
        if answer.is_redirect:
            raise CannotReach(
                f"{self.where} redirects to {answer.headers.get('location', 'nowhere')}: set QGJET_API_URL to where it leads"
            )
        if answer.is_success:
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                return msgspec.json.decode(answer.content, type=kind)
        problem = _problem(answer)
        if problem is None:
            raise CannotReach(
                f"what answers at {self.where} is not qgjet's API, or too old for this client ({answer.status_code} to {asked})"
            )
        if answer.status_code >= 500:
            raise CannotReach(f"{self.where} failed: {problem['detail']}")
        if answer.status_code in (401, 403):
            raise self._not_allowed(answer.status_code, problem)
        raise NotAccepted(str(problem["detail"]), status=answer.status_code, problem=problem)

    def _not_allowed(self, status: int, problem: Json) -> NotAllowed:
        detail = str(problem["detail"])
        if status == 403:
            return NotAllowed(
                f"{self.where} does not allow this: {detail}", status=status, problem=problem
            )
        if self._has_token:
            return NeedsToken(
                f"{self.where} does not accept the token of QGJET_API_TOKEN (api_token_file): {detail}",
                status=status,
                problem=problem,
            )
        fix = "set QGJET_API_TOKEN, or api_token_file; `qgjet token create` makes one beside the server"
        return NeedsToken(f"{self.where} asks for a token: {fix}", status=status, problem=problem)


async def _first(pieces: AsyncIterator[bytes]) -> bytes:
    try:
        async with asyncio.timeout(FIRST_BYTE_S):
            return await anext(pieces, b"")
    except TimeoutError:
        raise NoStream from None


def _problem(answer: httpx.Response) -> Json | None:
    """The problem document (RFC 9457) of a refusal; None when it is none of qgjet's, or about a
    route that the server does not have.
    """
    if answer.status_code < 400:
        return None
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = msgspec.json.decode(answer.content, type=Json)
        unknown_route = answer.status_code in (404, 405) and found.get("type") == "about:blank"
        return found if "detail" in found and "type" in found and not unknown_route else None
    return None


def _retry_after(answer: httpx.Response) -> float:
    text = answer.headers.get("retry-after", "")
    return min(float(text), LONGEST_PAUSE_S) if re.fullmatch(r"[0-9]{1,6}", text) else 0.0
