"""One connection to NATS: many requests in flight at once, and the JetStream API as plain JSON.

nats-py is used for the protocol and the reconnecting; requests go through one inbox of our own,
which costs about the same for one request and a tenth for many, because nothing is awaited between
them. All errors of nats-py, and of answers that cannot be read, end in `translated`: above this
module there are only the errors of `qgjet.errors`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec
import nats
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg as Msg
from nats.aio.subscription import DEFAULT_SUB_PENDING_BYTES_LIMIT, DEFAULT_SUB_PENDING_MSGS_LIMIT
from nats.aio.subscription import Subscription as Subscription

from qgjet.config.settings import NatsSettings
from qgjet.errors import (
    IncompatibleServer,
    InvalidInput,
    InvalidSettings,
    NatsUnavailable,
    Overloaded,
    PermissionDenied,
    StoreFull,
)
from qgjet.jetstream import login as logins
from qgjet.jetstream.login import Identity, WhoAmI
from qgjet.support.addresses import without_password
from qgjet.support.clock import bounded, end, lease_time, within
from qgjet.support.log_limiter import LogLimiter

log = logging.getLogger(__name__)

SERVER_FLOOR = (2, 15, 1)
"""2.14 and older hand finished jobs out again after a restart."""
SERVER_CEILING = (2, 16, 0)
"""2.16 sends acknowledgement subjects that nats-py 2.16 cannot read."""
REQUEST_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 1.0
"""Of each of the steps that close a connection or a subscription; together with what they leave
behind, less than 5 s.
"""
_SWEEP_S = 0.25
_WATCHDOG_S = 8.0
_ROUND_TRIP_S = 4.0
"""Together less than 15 s: so long may a connection that looks alive be dead."""


class ApiError(Struct, frozen=True):
    """An error answer of JetStream."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(Struct, frozen=True):
    """JetStream's answer to a publish: `error`, or the sequence of the stored message."""

    seq: int = 0
    error: ApiError | None = None


class JetStreamError(NatsUnavailable):
    """JetStream answered with an error that the caller did not expect."""

    def __init__(self, what: str, error: ApiError) -> None:
        super().__init__(f"{what}: {error.description} ({error.code}/{error.err_code})")
        self.error = error


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise what nats-py raises, and what reading an answer of another form raises, as
    NatsUnavailable. The one place for both.
    """
    try:
        yield
    except (
        msgspec.MsgspecError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
    ) as error:
        raise NatsUnavailable(
            f"{what}: the answer cannot be read ({type(error).__name__}: {error})"
        ) from error
    # nats-py asserts what a closed connection has lost, and uvloop raises RuntimeError for one
    except (
        nats.errors.Error,
        OSError,
        AssertionError,
        asyncio.InvalidStateError,
        RuntimeError,
    ) as error:
        raise NatsUnavailable(f"{what}: {str(error) or type(error).__name__}") from error


_pub_ack = msgspec.json.Decoder(PubAck)


def read_ack(answer: Msg) -> PubAck:
    """JetStream's answer to a publish; one without a sequence where no stream takes the subject.
    Raises NatsUnavailable for one that cannot be read.
    """
    with translated("publish"):
        return _pub_ack.decode(answer.data or b"{}")


_VIOLATION = "permissions violation"
_DENIED = re.compile(_VIOLATION + r' for (publish|subscription) to "([^"]*)"', re.IGNORECASE)
_NOT_LET_IN = re.compile(
    r"authorization violation|authentication (expired|revoked|timeout)|account authentication",
    re.IGNORECASE,
)
_NO_ROOM = frozenset({10002, 10023, 10047, 10077})
"""Limits of the account, of the server (max_file_store, or its disk), of what it could promise, of
the stream (max_bytes).
"""
_TOO_MANY = 429


def refusal(what: str, error: ApiError) -> NatsUnavailable:
    """What an error answer to a write means."""
    if error.err_code in _NO_ROOM:
        return StoreFull(
            f"the event store is full ({error.description}), so {what} accepts nothing: make room on the NATS server, with a shorter queue.retention, "
            "without old artifacts, or with a higher max_file_store"
        )
    if error.code == _TOO_MANY:
        return Overloaded(f"{what} takes no more at the moment: {error.description}")
    return JetStreamError(what, error)


_OF_AN_APPEND = b"NATS/1.0\r\nNats-Expected-"
_OF_A_DIRECT_GET = b"\r\nNats-Time-Stamp: "


class _Unsafe(nats.errors.Error):
    """What was to be encrypted would go over the line as it is."""


class _Unsupported(nats.errors.Error):
    """After a failover, the server is another one, which qgjet must not be used with."""


class _CertificateMissing(nats.errors.Error):
    """None was shown, or one that the server does not trust."""


class _Client(Client):
    """nats-py, without the time it takes for headers that nobody reads: those of an append, which
    are stored with the event and come with each delivery. A direct get adds what the reader needs,
    so it is read whole.

    And without its read loop ending at a subject or a header that is no text: stored in the log,
    one such message would end every reader for ever.

    And with answers of our own. nats-py goes on without TLS when the server offers none, whatever
    the address says: here the password stays at home then. It closes for good when the server says
    why it hangs up: here it comes back. It forgets the socket of each try that fails: here it is
    closed.
    """

    wants_tls = False
    refuses_unsupported = False
    """Set after the first connection, which fails for good with IncompatibleServer."""

    def _connect_command(self) -> bytes:
        if self.refuses_unsupported:
            try:
                check_server(self)
            except IncompatibleServer as error:
                raise _Unsupported(str(error)) from error
        if self.wants_tls and not self._server_info.get("tls_required"):
            raise _Unsafe("TLS was asked for, and the server does not offer it")
        command: bytes = super()._connect_command()
        return command

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except BaseException as error:
            # nats-py would wait for its end, which never comes after half of a TLS handshake
            writer, self._transport = getattr(self._transport, "_io_writer", None), None
            if writer is not None:
                writer.transport.abort()
            if isinstance(error, ConnectionError) and self._server_info.get("tls_verify"):
                raise _CertificateMissing(
                    "the server wants a certificate"
                ) from error  # it does not say so, it hangs up
            raise

    async def _process_err(self, err_msg: str) -> None:
        if _VIOLATION in err_msg.lower() or "stale connection" in err_msg.lower():
            await super()._process_err(err_msg)
            return
        error = nats.errors.Error(f"nats: {err_msg}")
        await self._error_cb(error)
        await self._process_op_err(error)

    async def _process_headers(self, headers: bytes | None) -> Any:
        if (
            headers is not None
            and headers.startswith(_OF_AN_APPEND)
            and _OF_A_DIRECT_GET not in headers
        ):
            return None
        try:
            return await super()._process_headers(headers)
        except (ValueError, IndexError):
            return None

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any
    ) -> Msg:
        return self.msg_class(
            subject=_text(subject),
            reply=_text(reply),
            data=data,
            headers=headers,
            _client=self,
            _sid=sid,
        )


def _text(token: bytes) -> str:
    """As the server has it; what is not UTF-8 becomes `\\xff`, which is no token of ours."""
    return str(token, "utf-8", "backslashreplace")


class _Pending(Struct):
    future: asyncio.Future[Msg]
    deadline: float
    what: str


class Connection:
    """Requests, publishes and subscriptions on one connection that mends itself.

    Made by `connect`. Safe for any number of tasks of one event loop.
    """

    def __init__(self, client: Client, url: str, user: str = "") -> None:
        self.client = client
        self.url = url
        """Without a password, for messages."""
        self.user = user
        """Empty: nobody, or known by a key or certificate."""
        self._loop = asyncio.get_running_loop()
        self._inbox = client.new_inbox()
        self._pending: dict[str, _Pending] = {}
        self._count = 0
        self._closing = False
        self._keepers: list[asyncio.Task[None]] = []
        self._connected = asyncio.Event()
        self.reconnects = 0
        self.server = _process_of(client)
        """The server process that this connection reaches, or the cluster. Another one after each
        restart of a single server, which may have lost the last second of what it had confirmed, in
        a power cut.
        """
        self.server_since = float("-inf") if _is_clustered(client) else lease_time()
        """When this connection reached it first, by `lease_time()`; a cluster has always been
        there.
        """
        self.store_full = False
        """The last write that the server answered found no room."""
        self.on_reconnect: list[Callable[[], None]] = []
        self._complaints = LogLimiter(log)
        """nats-py says the same four times a second while the server is away."""
        self.why = ""
        """What the server said when it did not let us in again; empty while it does."""
        self._deaf: PermissionDenied | None = None
        """Set when answers cannot be heard."""
        self._identity: Identity | None = None
        self._listeners: dict[str, list[Callable[[PermissionDenied], None]]] = {}

    async def _open(self) -> None:
        await self.subscribe(f"{self._inbox}.*", self._answer, unlimited=True)
        self._connected.set()
        self._keepers = [
            self._loop.create_task(self._sweep(), name="connection-sweep"),
            self._loop.create_task(self._watch(), name="connection-watch"),
        ]

    @property
    def is_connected(self) -> bool:
        return self._connected.is_set() and self.client.is_connected

    async def wait_connected(self, timeout_s: float) -> None:
        """Wait until the connection is up. Raises NatsUnavailable after `timeout_s`."""
        if not await within(max(timeout_s, 0.0), self._connected):
            if self.why:
                raise PermissionDenied(self.why)
            raise NatsUnavailable(f"no NATS server at {self.url}; is it running?")

    async def publish(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        reply: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        """Send and forget. Raises NatsUnavailable while disconnected, so that nothing is sent late
        from a buffer.
        """
        if not self.is_connected:
            raise NatsUnavailable(self.why or f"not connected to NATS at {self.url}")
        if self._deaf is not None and reply:
            raise self._deaf
        try:
            with translated(f"publish to {subject}"):
                await self.client.publish(subject, payload, reply=reply, headers=headers)
        except NatsUnavailable as error:
            if not isinstance(error.__cause__, nats.errors.MaxPayloadError):
                raise
            limit = self.client.max_payload
            raise InvalidInput(
                "message",
                f"{subject} would take {len(payload)} bytes, the NATS server takes {limit} (max_payload): set 1MB",
            ) from error

    async def subscribe(
        self,
        subject: str,
        receive: Callable[[Msg], Awaitable[None]],
        *,
        queue: str = "",
        unlimited: bool = False,
    ) -> Subscription:
        """Call `receive` for each message. Raises NatsUnavailable while disconnected. `unlimited`:
        messages that wait for `receive` are never dropped.
        """
        messages, size = (
            (-1, -1)
            if unlimited
            else (DEFAULT_SUB_PENDING_MSGS_LIMIT, DEFAULT_SUB_PENDING_BYTES_LIMIT)
        )
        with translated(f"subscribe to {subject}"):
            return await self.client.subscribe(
                subject,
                queue=queue,
                cb=receive,
                pending_msgs_limit=messages,
                pending_bytes_limit=size,
            )

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Never raises; a server that is away is not waited for long."""
        with contextlib.suppress(NatsUnavailable), translated("unsubscribe"):
            await bounded(subscription.unsubscribe(), STOP_TIMEOUT_S)

    async def send(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> asyncio.Future[Msg]:
        """Send a request; the answer comes in the future, or NatsUnavailable when none comes in
        time or the connection breaks.
        """
        self._count += 1
        reply = f"{self._inbox}.{self._count}"
        future: asyncio.Future[Msg] = self._loop.create_future()
        self._pending[reply] = _Pending(future, self._loop.time() + timeout_s, subject)
        try:
            await self.publish(subject, payload, reply=reply, headers=headers)
        except (NatsUnavailable, InvalidInput):
            del self._pending[reply]
            raise
        return future

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> Msg:
        return await (await self.send(subject, payload, headers=headers, timeout_s=timeout_s))

    async def api(
        self, subject: str, body: Any = None, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> dict[str, Any]:
        """Call `$JS.API.<subject>`. Raises JetStreamError for an error answer, NatsUnavailable for
        none.
        """
        payload = b"" if body is None else msgspec.json.encode(body)
        message = await self.request(f"$JS.API.{subject}", payload, timeout_s=timeout_s)
        if message.headers and message.headers.get("Status") == "503":
            raise NatsUnavailable(f"JetStream does not answer on the NATS server at {self.url}")
        with translated(subject):
            answer: dict[str, Any] = msgspec.json.decode(message.data, type=dict[str, Any])
            if "error" in answer:
                raise JetStreamError(subject, msgspec.convert(answer["error"], ApiError))
        return answer

    # -- permissions -------------------------------------------------------------------------------------------------

    async def identity(self, *, timeout_s: float = REQUEST_TIMEOUT_S) -> Identity:
        """Who this connection is, and what it may do, by the server's word. One that it does not
        tell may try everything.
        """
        if self._identity is None:
            try:
                self._identity = msgspec.json.decode(
                    (await self.request(logins.WHO_AM_I, timeout_s=timeout_s)).data, type=WhoAmI
                ).data
            except (PermissionDenied, msgspec.MsgspecError):
                self._identity = Identity(user=self.user)
        return self._identity

    async def may_publish(self, subject: str, *, timeout_s: float = REQUEST_TIMEOUT_S) -> bool:
        """Ask first where there is another way: the server logs each attempt that it refuses."""
        return (await self.identity(timeout_s=timeout_s)).permissions.publish.permit(subject)

    @contextlib.contextmanager
    def when_refused(
        self, subject: str, tell: Callable[[PermissionDenied], None]
    ) -> Iterator[None]:
        """`tell` hears it when the server refuses `subject` within the block: it says so apart from
        the request, which simply gets no answer.
        """
        listeners = self._listeners.setdefault(subject.lower(), [])
        listeners.append(tell)
        try:
            yield
        finally:
            listeners.remove(tell)
            if not listeners:
                self._listeners.pop(subject.lower(), None)

    def _told(self, error: Exception, refusal: PermissionDenied | None) -> None:
        """What nats-py reports on the side. `refusal`: why we were not let in again."""
        if denied := _DENIED.search(str(error)):
            self._refused(denied[1].lower(), denied[2].lower())
        elif refusal is None:
            self._complaints.warn(_complaint(error))
        elif self.why != str(refusal):
            self.why = str(refusal)
            log.warning("%s; trying again", refusal)

    def _refused(self, verb: str, subject: str) -> None:
        """The server tells the subject in lower case."""
        lost = [
            reply
            for reply, pending in self._pending.items()
            if verb == "publish" and pending.what.lower() == subject
        ]
        known = self._pending[lost[0]].what if lost else subject
        error = PermissionDenied(_not_permitted(self.user, verb, known))
        self._complaints.warn(str(error))
        for reply in lost:
            _fail(self._pending.pop(reply).future, error)
        if verb == "subscription" and subject.startswith(self._inbox.lower()):
            self._deaf = error
            for reply in list(self._pending):
                _fail(self._pending.pop(reply).future, error)
        for tell in list(self._listeners.get(subject, ())):
            tell(error)

    # ----------------------------------------------------------------------------------------------------------------

    async def stop_listening(self, subscription: Subscription) -> None:
        """Unsubscribe, and let its callback have what the server had sent by then. Never raises; a
        server that is away is not waited for long.
        """
        drained = False
        try:
            with contextlib.suppress(NatsUnavailable), translated("unsubscribe"):
                await bounded(subscription.drain(), STOP_TIMEOUT_S)  # type: ignore[no-untyped-call]
                drained = True
        finally:
            if (
                not drained
            ):  # nats-py has closed it but kept it, and would subscribe it again after a reconnect
                subscription._closed = False
                await self.unsubscribe(subscription)

    async def _answer(self, message: Msg) -> None:
        pending = self._pending.pop(message.subject, None)
        if pending is not None and not pending.future.done():
            pending.future.set_result(message)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = self._loop.time()
            for reply in [
                reply for reply, pending in self._pending.items() if pending.deadline < now
            ]:
                pending = self._pending.pop(reply)
                _fail(
                    pending.future,
                    NatsUnavailable(f"no answer in time from NATS at {self.url} ({pending.what})"),
                )

    async def _watch(self) -> None:
        """A read loop of nats-py that died leaves a connection that looks alive: ask for a round
        trip, and reconnect when none comes.
        """
        while True:
            await asyncio.sleep(_WATCHDOG_S)
            if not self.client.is_connected:
                continue
            try:
                with translated("round trip"):
                    await self.client.rtt(timeout=_ROUND_TRIP_S)  # type: ignore[arg-type]  # passed to asyncio.wait_for: a fraction is fine
            except NatsUnavailable:
                self._complaints.warn(f"the connection to {self.url} is silent: reconnecting")
                with contextlib.suppress(NatsUnavailable), translated("reconnect"):
                    await self.client.force_reconnect()

    async def _disconnected(self) -> None:
        self._connected.clear()
        pending, self._pending = self._pending, {}
        for lost in pending.values():
            _fail(lost.future, NatsUnavailable(f"the connection to NATS at {self.url} broke"))

    async def _reconnected(self) -> None:
        self.reconnects += 1
        if self.server != (server := _process_of(self.client)):
            self.server, self.server_since = server, lease_time()
        self.why, self._deaf, self._identity = "", None, None
        self._connected.set()
        for listener in self.on_reconnect:
            listener()

    async def close(self) -> None:
        """Flush what was published and close, in a bounded time. Never raises: a broken connection
        must not hide why we close it. A second call is harmless.
        """
        if self._closing:
            return
        self._closing = True
        await end(*self._keepers, within_s=STOP_TIMEOUT_S)
        with contextlib.suppress(NatsUnavailable), translated("flush"):
            if self.client.is_connected:
                await bounded(self.client.flush(timeout=STOP_TIMEOUT_S), STOP_TIMEOUT_S)  # type: ignore[arg-type]  # passed to asyncio.wait_for
        await _close(self.client)
        await self._disconnected()


def _process_of(client: Client) -> str:
    """The server makes its own name at each start; a cluster keeps its name, and what it has
    confirmed is on other servers too.
    """
    return str(client._server_info.get("cluster") or client._server_info.get("server_id", ""))


def _is_clustered(client: Client) -> bool:
    return bool(client._server_info.get("cluster"))


async def _close(client: Client) -> None:
    with contextlib.suppress(NatsUnavailable, RuntimeError), translated("close"):
        await bounded(client.close(), STOP_TIMEOUT_S)


def _fail(future: asyncio.Future[Msg], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # a waiter may have gone: then nobody has to see it


@contextlib.asynccontextmanager
async def connect(
    url: str,
    *,
    name: str,
    login: NatsSettings | None = None,
    timeout_s: float = 5.0,
    check: bool = True,
) -> AsyncIterator[Connection]:
    """A Connection on the server at `url`, or on one of several, separated by commas, as who
    `login` says; closed at the end.

    Raises NatsUnavailable when no server answers within `timeout_s`, PermissionDenied at once for
    one that does not let us in or cannot be trusted, IncompatibleServer for one that qgjet must not
    be used with, InvalidSettings for an address that is none, or a login that cannot be used. Later
    losses of the connection are mended for ever, a user that is let in no more too; what is in
    flight then fails with NatsUnavailable.
    """
    connection = await open_connection(
        url, name=name, login=login, timeout_s=timeout_s, check=check
    )
    try:
        yield connection
    finally:
        await connection.close()


async def open_connection(
    url: str,
    *,
    name: str,
    login: NatsSettings | None = None,
    timeout_s: float = 5.0,
    check: bool = True,
) -> Connection:
    """Like `connect`, for owners that close it themselves."""
    login = login or NatsSettings()
    servers = _addresses(url)
    shown, user = without_password(url), logins.user_of(login, servers)
    client = _Client()
    ears = _Ears(client, shown, user)
    client.wants_tls = logins.wants_tls(login, servers)
    try:
        await bounded(
            client.connect(
                servers,
                name=name,
                connect_timeout=max(1, round(timeout_s)),
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.25,  # type: ignore[arg-type]  # passed to asyncio.sleep: a fraction is fine
                ping_interval=20,
                pending_size=64 * 1024 * 1024,
                skip_subject_validation=True,  # `subjects` makes them all, and leaves nothing in them that a protocol line could end in
                error_cb=ears.told,
                disconnected_cb=ears.disconnected,
                reconnected_cb=ears.reconnected,
                **logins.options(login, servers),
            ),
            timeout_s,
        )
    except (nats.errors.Error, OSError) as error:
        await _close(client)
        if ears.refusal is not None:
            raise ears.refusal from None
        raise NatsUnavailable(
            f"no NATS server at {shown}: {ears.complaint or str(error) or type(error).__name__}"
        ) from error
    ears.connection = connection = Connection(client, shown, user)
    try:
        await connection._open()
        if check:
            check_server(client)
            client.refuses_unsupported = True
    except BaseException:
        await connection.close()
        raise
    return connection


class _Ears:
    """What nats-py reports on the side: for the connection, as soon as there is one; before that,
    an error that trying again cannot mend ends the first try.
    """

    def __init__(self, client: Client, url: str, user: str) -> None:
        self._client, self._url, self._user = client, url, user
        self.connection: Connection | None = None
        self.refusal: PermissionDenied | None = None
        self.complaint = ""
        """Of the last try before there is a connection: the reason why there is none."""

    async def disconnected(self) -> None:
        if self.connection is not None:
            await self.connection._disconnected()

    async def reconnected(self) -> None:
        if self.connection is not None:
            await self.connection._reconnected()

    async def told(self, error: Exception) -> None:
        refusal = _refusal(self._url, self._user, error)
        if self.connection is not None:
            self.connection._told(error, refusal)
        elif refusal is None:
            self.complaint = getattr(error, "strerror", None) or str(error) or type(error).__name__
        else:
            self.refusal = refusal
            self._client.options["allow_reconnect"] = (
                False  # looked at next: the first try ends here
            )


def _addresses(url: str) -> list[str]:
    """nats-py ends in an assertion for what it cannot read."""
    servers = [one.strip() for one in url.split(",")]
    for server in servers:
        with contextlib.suppress(ValueError):
            parts = urlsplit(server if "//" in server else f"nats://{server}")
            if parts.hostname and parts.port != 0:
                continue
        raise InvalidSettings(
            "nats_url", f"{without_password(url)!r} is not an address such as nats://127.0.0.1:4222"
        )
    return servers


def _refusal(url: str, user: str, error: Exception) -> PermissionDenied | None:
    """The error to end with, if trying again cannot help."""
    if _NOT_LET_IN.search(str(error)):
        return PermissionDenied(_not_let_in(url, user))
    if isinstance(error, _Unsafe):
        return PermissionDenied(
            f"the NATS server at {url} does not speak TLS: no password was sent; start it with TLS, or use a nats:// address without nats.ca"
        )
    if isinstance(error, _Unsupported):
        return PermissionDenied(f"the NATS server at {url} must not be used: {error}")
    if isinstance(error, ssl.SSLCertVerificationError):
        return PermissionDenied(
            f"the certificate of the NATS server at {url} is not trusted ({error.verify_message}): set nats.ca (QGJET_NATS_CA) to who signed it"
        )
    if isinstance(error, _CertificateMissing):
        return PermissionDenied(
            f"the NATS server at {url} wants a certificate that it trusts: set nats.cert and nats.key (QGJET_NATS_CERT, QGJET_NATS_KEY)"
        )
    return None


def _not_let_in(url: str, user: str) -> str:
    if user:
        return f"the NATS server at {url} does not let user {user!r} in: the password or key is wrong, or it has no such user"
    return f"the NATS server at {url} wants to know who is there: set QGJET_NATS_USER to your role, and QGJET_NATS_PASSWORD or another secret"


def _not_permitted(user: str, verb: str, subject: str) -> str:
    who = f"the NATS user {user!r}" if user else "this NATS user"
    what = f"publish to {subject}" if verb == "publish" else f"subscribe to {subject}"
    return (
        f"{who} may not {what}: use a role that may (QGJET_NATS_USER; docs/security.md lists them)"
    )


def check_server(client: Client) -> None:
    """Raise IncompatibleServer unless the server is one this version was proven on."""
    version = parse_version(str(client._server_info.get("version", "")))
    if not SERVER_FLOOR <= version < SERVER_CEILING:
        raise IncompatibleServer(
            f"NATS server {_dotted(version)} is not supported: use {_dotted(SERVER_FLOOR)} or newer, below {_dotted(SERVER_CEILING)}"
        )
    if not client._server_info.get("jetstream"):
        raise IncompatibleServer(
            "the NATS server runs without JetStream: start it with the nats.conf of qgjet, or with -js"
        )


def parse_version(text: str) -> tuple[int, int, int]:
    """(major, minor, patch) of the leading numbers; zeros where there are none."""
    numbers = [int(number) for number in re.findall(r"\d+", text.split("-")[0])[:3]]
    major, minor, patch = [*numbers, 0, 0, 0][:3]
    return major, minor, patch


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))


def _complaint(error: Exception) -> str:
    return f"NATS: {error or type(error).__name__}"
