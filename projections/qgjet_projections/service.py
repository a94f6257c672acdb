"""One API process put together: the read model, the connection to the log, the projector and the
janitor.

It starts without NATS and mends itself: what is in the read model can be read at any time, writing
and catching up begin when the server is there. Closed in the reverse order. Any number of these
processes may run side by side; they share nothing but the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from qgjet.config.settings import Settings
from qgjet.domain.control import Pauses
from qgjet.domain.deployment import Deployment
from qgjet.errors import (
    IncompatibleServer,
    InvalidSettings,
    NatsUnavailable,
    PermissionDenied,
    QgjetError,
)
from qgjet.jetstream.connection import Connection, connect
from qgjet.store import agent_registry, streams
from qgjet.store.agent_registry import AgentInfo
from qgjet.store.event_log import EventLog
from qgjet.support import private_files
from qgjet.support.addresses import without_password
from qgjet.support.clock import Clock, end, utc_now, within
from qgjet.support.log_limiter import LogLimiter
from qgjet_projections.maintenance.janitor import Janitor
from qgjet_projections.maintenance.retention import Retention
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.readmodel.projector import Lag, Projector

log = logging.getLogger(__name__)

OWN_DIRECTORY = ".qgjet"
"""The default directory of data: it holds nothing of other programs."""
DEFAULT_NATS_URL = "nats://127.0.0.1:4222"
FIRST_TRY_S = 2.0
"""The start waits so long for NATS; then it goes on without."""
PAUSE_S = 1.0
CLOSE_TIMEOUT_S = 4.0
WATCH_S = 0.25
UNHEALTHY_AFTER_S = 5.0
AGENTS_FRESH_S = 1.0
AGENTS_WAIT_S = 0.5
"""A read need not wait longer to say why jobs wait."""
STREAM_THREADS = 2
P = ParamSpec("P")
T = TypeVar("T")


class ReadModelGone(QgjetError):
    """The file of the read model was deleted or replaced."""


class Service:
    """Made by `open_service`."""

    def __init__(self, settings: Settings, read_model: ReadModel, clock: Clock = utc_now) -> None:
        self.settings = settings
        self.read_model = read_model
        self.clock = clock
        self.deployment = settings.deployment
        self.projector: Projector | None = None
        self.closing = asyncio.Event()
        """Set when the process is about to end: whoever streams has to stop."""
        self.refusal: IncompatibleServer | InvalidSettings | None = None
        """Why there is no use in trying again."""
        self._loop = asyncio.get_running_loop()
        self._log: EventLog | None = None
        self._tried = asyncio.Event()
        self._broken = ""
        self._lost_at: float | None = self._loop.time()
        self._agents: list[AgentInfo] = []
        self._complaints = LogLimiter(log)
        """Of what is made again and again: each try begins without a memory of its own."""
        self._agents_until = 0.0
        self._asking: asyncio.Task[list[AgentInfo]] | None = None
        self._answered = True
        self._stream_threads = ThreadPoolExecutor(STREAM_THREADS, thread_name_prefix="stream")

    @property
    def nats_url(self) -> str:
        """For messages: without a password."""
        return without_password(self._address)

    @property
    def _address(self) -> str:
        return self.settings.nats_url or DEFAULT_NATS_URL

    @property
    def log(self) -> EventLog:
        """Raises NatsUnavailable while there is no connection."""
        if self._log is None:
            raise NatsUnavailable(self._broken or f"no NATS server at {self.nats_url} yet")
        return self._log

    @property
    def applied_seq(self) -> int:
        """The read model holds the log up to here."""
        return self.read_model.applied_seq if self.projector is None else self.projector.applied_seq

    @property
    def lag(self) -> Lag | None:
        """How far the read model is behind the log; None while it does not follow one. For any
        thread.
        """
        projector = self.projector
        return None if projector is None else projector.lag

    @property
    def lag_s(self) -> float | None:
        """Seconds since the read model last held all of the log for certain; None: not known."""
        projector = self.projector
        return None if projector is None else projector.lag_s

    # -- what is wrong -----------------------------------------------------------------------------------------------

    def ailments(self, *, patience_s: float = 0.0) -> list[str]:
        """Why reads are not up to date, or writes impossible; empty when all is well. A lost
        connection counts after `patience_s`.
        """
        found = []
        if self._lost_at is not None and self._loop.time() - self._lost_at >= patience_s:
            found.append(self._why_lost() or f"not connected to NATS at {self.nats_url}")
        if self.read_model.is_gone:
            found.append(
                f"the read model {self.read_model.path} was deleted or replaced: it is rebuilt from the log"
            )
        elif self._log is not None and (
            self.projector is None or self.projector.failure is not None
        ):
            found.append(
                f"the projection has stopped: {self._broken or (self.projector and self.projector.failure) or 'it starts'}"
            )
        return found

    def _why_lost(self) -> str:
        return self._broken if self._log is None else self._log.connection.why

    # -- keeping it up -----------------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Connect, project, and begin again whatever breaks. Ends when it is cancelled, and the
        process closes.

        Both, because an error of the clean-up (a connection reset while it is closed) may come in
        the place of the cancellation.
        """
        while not self.closing.is_set():
            try:
                await self._connected()
            except (IncompatibleServer, InvalidSettings) as error:
                self.refusal = error
                self._note(error)
            except NatsUnavailable as error:
                self._note(error)
            except Exception as error:
                self._note(error, exc_info=True)
            self._tried.set()
            await within(PAUSE_S, self.closing)

    async def _connected(self) -> None:
        async with (
            connect(self._address, name="qgjet-api", login=self.settings.nats) as connection,
            self._janitors_connection(connection) as other,
        ):
            self.deployment = await _agree(other, self.settings)
            self._log = EventLog(connection, self.clock)
            try:
                await self._project_for_ever(self._log, other)
            finally:
                self._log = None
                self._lost_at = self._loop.time()

    @contextlib.asynccontextmanager
    async def _janitors_connection(self, shared: Connection) -> AsyncIterator[Connection]:
        """The connection for what is the janitor's: its own when it has a login of its own, so that
        this process's other one needs none of its rights.
        """
        login = self.settings.nats.of_janitor
        if login is None or not self.settings.api.janitor:
            yield shared
        else:
            async with connect(self._address, name="qgjet-janitor", login=login) as connection:
                yield connection

    async def _project_for_ever(self, event_log: EventLog, janitors_connection: Connection) -> None:
        while not self.closing.is_set():
            try:
                await self._project(event_log, janitors_connection)
            except IncompatibleServer:
                raise
            except (PermissionDenied, NatsUnavailable, ReadModelGone) as error:
                self._note(error)
            except (
                Exception
            ) as error:  # whatever it is, reads go on with what is there and the next try may work
                self._note(error)
            await within(PAUSE_S, self.closing)

    async def _project(self, event_log: EventLog, janitors_connection: Connection) -> None:
        """Until the projector fails, or its file is gone; raises why."""
        if self.read_model.is_gone:
            await asyncio.to_thread(self.read_model.renew)
        retention_s = self.deployment.retention_s
        async with (
            Projector(
                event_log, self.read_model, retention_s=retention_s, complaints=self._complaints
            ) as projector,
            self._janitor(janitors_connection),
            Retention(
                EventLog(janitors_connection, self.clock),
                self.read_model,
                projector,
                purges=self.settings.api.janitor,
            ),
        ):
            self.projector, self._broken, self.refusal = projector, "", None
            try:
                await self._watch(event_log.connection, janitors_connection, projector)
            finally:
                self.projector = None
            raise projector.failure or RuntimeError("the projector has ended")

    async def _watch(
        self, connection: Connection, janitors_connection: Connection, projector: Projector
    ) -> None:
        reconnects = connection.reconnects
        while projector.failure is None:
            if self.read_model.is_gone:
                raise ReadModelGone(
                    f"the read model {self.read_model.path} was deleted or replaced: it is rebuilt from the log"
                )
            self._lost_at = _lost(connection, self._lost_at, self._loop.time())
            self._tried.set()
            if connection.is_connected and connection.reconnects != reconnects:
                with contextlib.suppress(NatsUnavailable):  # gone again: the next round tries again
                    seen = connection.reconnects
                    await _agree(
                        janitors_connection, self.settings
                    )  # the server may be a new, empty one
                    reconnects = seen
            await asyncio.sleep(WATCH_S)

    def _janitor(self, connection: Connection) -> contextlib.AbstractAsyncContextManager[object]:
        """The janitor beside the projector, unless it is switched off (`api.janitor`)."""
        return (
            Janitor(EventLog(connection, self.clock), self.read_model, self.settings.queue)
            if self.settings.api.janitor
            else contextlib.nullcontext()
        )

    def _note(self, error: Exception, *, exc_info: bool = False) -> None:
        self._broken = str(error) or type(error).__name__
        self._complaints.warn(self._broken, exc_info=exc_info)

    async def first_try(self) -> None:
        """Wait a moment for the first connection. Raises IncompatibleServer when there is a server
        that must not be used, InvalidSettings for no address.
        """
        await within(FIRST_TRY_S, self._tried)
        if self.refusal is not None:
            raise self.refusal

    # -- waiting -----------------------------------------------------------------------------------------------------

    async def applied(self, seq: int, timeout_s: float) -> bool:
        """Wait until the read model holds the log up to `seq`; False when it does not in time."""
        if self.applied_seq >= seq:
            return True
        return self.projector is not None and await self.projector.wait_for(seq, timeout_s)

    def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        self._stream_threads.shutdown(cancel_futures=True)

    async def rest(self, seconds: float) -> None:
        """Wait so long, or until the process closes."""
        await within(seconds, self.closing)

    async def moved_on(self, seq: int, timeout_s: float) -> None:
        """Wait until the read model holds more than `seq`, the process closes, or the time is over."""
        if self.projector is None or self.projector.failure is not None:
            await within(min(timeout_s, PAUSE_S), self.closing)
            return
        waits = {
            asyncio.create_task(self.projector.wait_for(seq + 1, timeout_s)),
            asyncio.create_task(self.closing.wait()),
        }
        try:
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    # -- reading -----------------------------------------------------------------------------------------------------

    async def read_for_stream(self, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Read in a few threads that all streams share, so that they never hold those that answer
        requests.
        """
        return await self._loop.run_in_executor(
            self._stream_threads, partial(read, *args, **kwargs)
        )

    # -- agents ------------------------------------------------------------------------------------------------------

    async def agents(self) -> list[AgentInfo]:
        """Agents that are alive, at most a second old. Raises NatsUnavailable."""
        return self._agents if self._agents_are_fresh else await asyncio.shield(self._ask())

    async def agents_if_known(self) -> list[AgentInfo] | None:
        """The same; None when NATS does not answer at once. While it is silent, only the first call
        waits, and not for long.
        """
        if self._agents_are_fresh:
            return self._agents
        asking = self._ask()
        await asyncio.wait({asking}, timeout=AGENTS_WAIT_S if self._answered else 0)
        if asking.done() and not asking.cancelled() and asking.exception() is None:
            return asking.result()
        self._answered = False
        return None

    @property
    def _agents_are_fresh(self) -> bool:
        return self._loop.time() < self._agents_until

    def _ask(self) -> asyncio.Task[list[AgentInfo]]:
        """Ask NATS for the agents, once for all calls that wait."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._read_agents(), name="agents")
            self._asking.add_done_callback(
                lambda task: task.cancelled() or task.exception()
            )  # a call may no longer wait for it
        return self._asking

    async def _read_agents(self) -> list[AgentInfo]:
        self._agents = await agent_registry.agents(self.log.connection)
        self._answered = True
        self._agents_until = self._loop.time() + AGENTS_FRESH_S
        return self._agents

    def pauses(self) -> Pauses:
        return Pauses(self.read_model.pauses())


async def _agree(connection: Connection, settings: Settings) -> Deployment:
    """Make what is missing, and put this process's retention in force, and its leases for the
    agents that start from now on: as far as its NATS user may.
    """
    await streams.ensure(connection, settings.deployment)
    await streams.change_retention(connection, settings.queue.retention_s)
    return await streams.change_leases(connection, settings.deployment)


def _lost(connection: Connection, since: float | None, now: float) -> float | None:
    """Since when the connection is lost; None while it is there."""
    if connection.is_connected:
        return None
    return now if since is None else since


@contextlib.asynccontextmanager
async def open_service(settings: Settings, clock: Clock = utc_now) -> AsyncIterator[Service]:
    """A running service, closed at the end. Raises IncompatibleServer when the NATS server must not
    be used; a missing one is waited for.
    """
    path = Path(settings.api.database)
    if path.parent.name == OWN_DIRECTORY:
        private_files.tighten(path.parent)
    read_model = ReadModel.open(path)
    try:
        service = Service(settings, read_model, clock)
        keeper = asyncio.create_task(
            service.keep(), name="service"
        )  # no TaskGroup: it would wrap the errors of the block
        try:
            await service.first_try()
            yield service
        finally:
            service.closing.set()
            await end(keeper, within_s=CLOSE_TIMEOUT_S, again_s=CLOSE_TIMEOUT_S / 2)
            service.close()
    finally:
        read_model.close()
