"""One connection to NATS: many requests in flight at once, and the JetStream API as plain JSON.

nats-py is used for the protocol and the reconnecting; requests go through one inbox of our own, which costs about the same for one request and a tenth for
many, because nothing is awaited between them. All errors of nats-py end here: above this module there are only the errors of `qgjet.errors`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec
import nats
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from qgjet.clock import within
from qgjet.errors import IncompatibleServer, InvalidSettings, LogUnavailable

log = logging.getLogger(__name__)

SERVER_FLOOR = (2, 15, 1)
"""2.14 and older hand finished jobs out again after a restart."""
SERVER_CEILING = (2, 16, 0)
"""2.16 sends acknowledgement subjects that nats-py 2.16 cannot read."""
REQUEST_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 2.0
_SWEEP_S = 0.25
_WATCHDOG_S = 10.0


class ApiError(Struct, frozen=True):
    """An error answer of JetStream."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(Struct, frozen=True):
    """JetStream's answer to a publish: `error`, or the sequence of the stored message."""

    seq: int = 0
    error: ApiError | None = None


class JetStreamError(LogUnavailable):
    """JetStream answered with an error that the caller did not expect."""

    def __init__(self, what: str, error: ApiError) -> None:
        super().__init__(f"{what}: {error.description} ({error.code}/{error.err_code})")
        self.error = error


_OF_AN_APPEND = b"NATS/1.0\r\nNats-Expected-"


class _Client(Client):
    """nats-py, without the time it takes for headers that nobody reads: those of an append, which are stored with the event and come with each delivery.

    And without its read loop ending at a subject or a header that is no text: stored in the log, one such message would end every reader for ever.
    """

    async def _process_headers(self, headers: bytes | None) -> Any:
        if headers is not None and headers.startswith(_OF_AN_APPEND):
            return None
        try:
            return await super()._process_headers(headers)
        except (ValueError, IndexError):
            return None

    def _build_message(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> Msg:
        return self.msg_class(subject=_text(subject), reply=_text(reply), data=data, headers=headers, _client=self, _sid=sid)


def _text(token: bytes) -> str:
    """As the server has it; what is not UTF-8 becomes `\\xff`, which is no token of ours."""
    return str(token, "utf-8", "backslashreplace")


class _Pending(Struct):
    future: asyncio.Future[Msg]
    deadline: float
    what: str


class Bus:
    """Requests, publishes and subscriptions on one connection that mends itself.

    Made by `connect`. Safe for any number of tasks of one event loop.
    """

    def __init__(self, client: Client, url: str) -> None:
        self.client = client
        self.url = url
        self._loop = asyncio.get_running_loop()
        self._inbox = client.new_inbox()
        self._pending: dict[str, _Pending] = {}
        self._count = 0
        self._closing = False
        self._keepers: list[asyncio.Task[None]] = []
        self._connected = asyncio.Event()
        self.reconnects = 0
        self.on_reconnect: list[Callable[[], None]] = []

    async def _open(self) -> None:
        await self.client.subscribe(f"{self._inbox}.*", cb=self._answer, pending_msgs_limit=-1, pending_bytes_limit=-1)
        self._connected.set()
        self._keepers = [
            self._loop.create_task(self._sweep(), name="bus-sweep"),
            self._loop.create_task(self._watch(), name="bus-watch"),
        ]

    @property
    def is_connected(self) -> bool:
        return self._connected.is_set() and self.client.is_connected

    async def wait_connected(self, timeout_s: float) -> None:
        """Wait until the connection is up. Raises LogUnavailable after `timeout_s`."""
        if not await within(max(timeout_s, 0.0), self._connected):
            raise LogUnavailable(f"no NATS server at {self.url}; is it running?")

    async def publish(self, subject: str, payload: bytes = b"", *, reply: str = "", headers: dict[str, str] | None = None) -> None:
        """Send and forget. Raises LogUnavailable while disconnected, so that nothing is sent late from a buffer."""
        if not self.is_connected:
            raise LogUnavailable(f"not connected to NATS at {self.url}")
        try:
            await self.client.publish(subject, payload, reply=reply, headers=headers)
        except (nats.errors.Error, OSError) as error:
            raise LogUnavailable(f"publish to {subject}: {error}") from error

    async def send(
        self, subject: str, payload: bytes = b"", *, headers: dict[str, str] | None = None, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> asyncio.Future[Msg]:
        """Send a request; the answer comes in the future, or LogUnavailable when none comes in time or the connection breaks."""
        self._count += 1
        reply = f"{self._inbox}.{self._count}"
        future: asyncio.Future[Msg] = self._loop.create_future()
        self._pending[reply] = _Pending(future, self._loop.time() + timeout_s, subject)
        try:
            await self.publish(subject, payload, reply=reply, headers=headers)
        except LogUnavailable:
            del self._pending[reply]
            raise
        return future

    async def request(self, subject: str, payload: bytes = b"", *, headers: dict[str, str] | None = None, timeout_s: float = REQUEST_TIMEOUT_S) -> Msg:
        return await (await self.send(subject, payload, headers=headers, timeout_s=timeout_s))

    async def api(self, subject: str, body: Any = None, *, timeout_s: float = REQUEST_TIMEOUT_S) -> dict[str, Any]:
        """Call `$JS.API.<subject>`. Raises JetStreamError for an error answer, LogUnavailable for none."""
        payload = b"" if body is None else msgspec.json.encode(body)
        message = await self.request(f"$JS.API.{subject}", payload, timeout_s=timeout_s)
        if message.headers and message.headers.get("Status") == "503":
            raise LogUnavailable(f"JetStream does not answer on the NATS server at {self.url}")
        answer: dict[str, Any] = msgspec.json.decode(message.data)
        if "error" in answer:
            raise JetStreamError(subject, msgspec.convert(answer["error"], ApiError))
        return answer

    async def stop_listening(self, subscription: Subscription) -> None:
        """Unsubscribe, and let its callback have what the server had sent by then. Never raises; a server that is away is not waited for long."""
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await subscription.drain()  # type: ignore[no-untyped-call]
        except BaseException as error:
            # nats-py has closed it but kept it, and would subscribe it again after a reconnect
            subscription._closed = False
            with contextlib.suppress(nats.errors.Error, OSError):
                await subscription.unsubscribe()
            if not isinstance(error, nats.errors.Error | OSError | TimeoutError):
                raise

    async def _answer(self, message: Msg) -> None:
        pending = self._pending.pop(message.subject, None)
        if pending is not None and not pending.future.done():
            pending.future.set_result(message)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = self._loop.time()
            for reply in [reply for reply, pending in self._pending.items() if pending.deadline < now]:
                pending = self._pending.pop(reply)
                _fail(pending.future, LogUnavailable(f"no answer in time from NATS at {self.url} ({pending.what})"))

    async def _watch(self) -> None:
        """A read loop of nats-py that died leaves a connection that looks alive: ask for a round trip, and reconnect when none comes."""
        while True:
            await asyncio.sleep(_WATCHDOG_S)
            if not self.client.is_connected:
                continue
            try:
                await self.client.rtt(timeout=5)
            except (nats.errors.Error, OSError, TimeoutError):
                log.warning("the connection to %s is silent: reconnecting", self.url)
                with contextlib.suppress(nats.errors.Error, OSError):
                    await self.client.force_reconnect()

    async def _disconnected(self) -> None:
        self._connected.clear()
        pending, self._pending = self._pending, {}
        for lost in pending.values():
            _fail(lost.future, LogUnavailable(f"the connection to NATS at {self.url} broke"))

    async def _reconnected(self) -> None:
        self.reconnects += 1
        self._connected.set()
        for listener in self.on_reconnect:
            listener()

    async def close(self) -> None:
        """Flush what was published and close. A second call is harmless."""
        if self._closing:
            return
        self._closing = True
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
            if self.client.is_connected:
                await self.client.flush(timeout=2)
        with contextlib.suppress(nats.errors.Error, OSError, RuntimeError):  # a broken connection must not hide why we close it
            await self.client.close()
        await self._disconnected()


def _fail(future: asyncio.Future[Msg], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # a waiter may have gone: then nobody has to see it


@contextlib.asynccontextmanager
async def connect(url: str, *, name: str, timeout_s: float = 5.0, check: bool = True) -> AsyncIterator[Bus]:
    """A Bus on the server at `url`, or on one of several, separated by commas; closed at the end.

    Raises LogUnavailable when no server answers within `timeout_s`, IncompatibleServer for one that qgjet must not be used with, InvalidSettings for an
    address that is none. Later losses of
    the connection are mended for ever; what is in flight then fails with LogUnavailable.
    """
    bus = await open_bus(url, name=name, timeout_s=timeout_s, check=check)
    try:
        yield bus
    finally:
        await bus.close()


async def open_bus(url: str, *, name: str, timeout_s: float = 5.0, check: bool = True) -> Bus:
    """Like `connect`, for owners that close it themselves."""
    servers = [_address(one.strip()) for one in url.split(",")]
    client = _Client()
    box: list[Bus] = []

    async def disconnected() -> None:
        for bus in box:
            await bus._disconnected()

    async def reconnected() -> None:
        for bus in box:
            await bus._reconnected()

    try:
        async with asyncio.timeout(timeout_s):
            await client.connect(
                servers,
                name=name,
                connect_timeout=max(1, round(timeout_s)),
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.25,  # type: ignore[arg-type]  # passed to asyncio.sleep: a fraction is fine
                ping_interval=20,
                pending_size=64 * 1024 * 1024,
                skip_subject_validation=True,  # `subjects` makes them all, and leaves nothing in them that a protocol line could end in
                error_cb=_log_error,
                disconnected_cb=disconnected,
                reconnected_cb=reconnected,
            )
    except (nats.errors.Error, OSError, TimeoutError) as error:
        await client.close()
        raise LogUnavailable(f"no NATS server at {_without_password(url)}: {str(error) or type(error).__name__}") from error
    bus = Bus(client, _without_password(url))
    box.append(bus)
    try:
        await bus._open()
        if check:
            check_server(client)
    except BaseException:
        await bus.close()
        raise
    return bus


def _address(url: str) -> str:
    """nats-py ends in an assertion for what it cannot read."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url if "//" in url else f"nats://{url}")
        if parts.hostname and parts.port != 0:
            return url
    raise InvalidSettings("nats_url", f"{_without_password(url)!r} is not an address such as nats://127.0.0.1:4222")


def check_server(client: Client) -> None:
    """Raise IncompatibleServer unless the server is one this version was proven on."""
    version = parse_version(str(client._server_info.get("version", "")))
    if not SERVER_FLOOR <= version < SERVER_CEILING:
        raise IncompatibleServer(f"NATS server {_dotted(version)} is not supported: use {_dotted(SERVER_FLOOR)} or newer, below {_dotted(SERVER_CEILING)}")
    if not client._server_info.get("jetstream"):
        raise IncompatibleServer("the NATS server runs without JetStream: start it with the nats.conf of qgjet, or with -js")


def parse_version(text: str) -> tuple[int, int, int]:
    """(major, minor, patch) of the leading numbers; zeros where there are none."""
    numbers = [int(number) for number in re.findall(r"\d+", text.split("-")[0])[:3]]
    major, minor, patch = [*numbers, 0, 0, 0][:3]
    return major, minor, patch


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))


def _without_password(url: str) -> str:
    return re.sub(r"//[^@/]*@", "//", url)


async def _log_error(error: Exception) -> None:
    log.warning("NATS: %s", error or type(error).__name__)
