"""Everything on this machine: a NATS server, the API and an agent for all declared targets. For
`qgjet up`, and for `qgjet run` without a server.

API and agent are tasks of this process, not processes of their own: there is one thing to signal
and one thing that can die, nothing has to be supervised, and the load is small, because tests run
in processes of their own anyway. Whatever happens to this process, the jobs end with it (their
guardians see to that) and so does the NATS server.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from types import TracebackType

from msgspec.structs import replace

from qgjet.agent.agent import Agent
from qgjet.agent.cleanup import own_directory
from qgjet.agent.factory import chosen_targets, make_agent, work_dir
from qgjet.config.settings import NatsSettings, Settings
from qgjet.errors import InvalidSettings, NatsUnavailable, QgjetError
from qgjet.jetstream.connection import connect
from qgjet.jetstream.server import NatsServer, nats_server
from qgjet.store import streams
from qgjet.store.event_log import EventLog
from qgjet.support import private_files
from qgjet.support.plugins import extra

ANY_NATS_PORT = -1
WATCH_S = 0.2
AGENT_ENDS_S = 30.0
"""How long what runs may take to end when the stack is closed. Then it is killed."""

_KEEPER = (
    "import os, signal, sys; sys.stdin.buffer.read(); os.kill(int(sys.argv[1]), signal.SIGKILL)"
)


class LocalStack:
    """`async with LocalStack(settings) as stack`: `stack.nats_url` and `stack.api_url` answer
    inside the block, and nothing is left after it.

    Without a `data_dir` everything lives in a temporary directory and is gone with it. Ports are
    free ones unless they are named. A part that ends by itself ends the block: it is cancelled, and
    the part's error is raised in its place. Leaving the block halts the agent: what still runs is
    stopped.

    Raises InvalidSettings (no targets, a port or directory in use), NatsUnavailable when the server
    does not start.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        data_dir: Path | None = None,
        nats_port: int = ANY_NATS_PORT,
        api_port: int = 0,
        with_agent: bool = True,
    ) -> None:
        if with_agent:
            chosen_targets(settings)
        self.settings = settings
        """Inside the block with the addresses of this stack."""
        self.agent: Agent | None = None
        self._data_dir, self._nats_port, self._api_port, self._with_agent = (
            data_dir,
            nats_port,
            api_port,
            with_agent,
        )
        self._parts = contextlib.AsyncExitStack()
        self._owner: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._closing = False
        self._failure: BaseException | None = None
        self._agent_ended = asyncio.Event()

    @property
    def nats_url(self) -> str:
        return self.settings.nats_url

    @property
    def api_url(self) -> str:
        return self.settings.api_url

    async def agent_ended(self) -> None:
        """Wait for the end of the agent, after its `drain` or `halt`. At once without one."""
        if self.agent is not None:
            await self._agent_ended.wait()

    async def __aenter__(self) -> LocalStack:
        self._owner = asyncio.current_task()
        self._cancelling = self._owner.cancelling() if self._owner else 0
        try:
            await self._start()
        except BaseException as error:
            await self._close(error)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._close(error)

    async def _close(self, error: BaseException | None) -> None:
        """Close the parts. In place of the cancellation that a part's end caused, and only of that
        one, raises the part's error.
        """
        self._closing = True
        try:
            await self._parts.aclose()
        except asyncio.CancelledError as cancelled:
            error = cancelled
        if not isinstance(error, asyncio.CancelledError):
            return
        if (
            self._failure is not None
            and self._owner is not None
            and self._owner.uncancel() <= self._cancelling
        ):
            raise self._failure from None
        raise error

    # -- parts: each is closed before the one it needs ---------------------------------------------------------------------

    async def _start(self) -> None:
        enter = self._parts.enter_async_context
        directory = self._parts.enter_context(_data_directory(self._data_dir))
        server = await enter(self._server(directory))
        one = replace(
            self.settings.queue, replicas=1
        )  # a single server, whatever the cluster of these settings has
        api = replace(
            self.settings.api,
            host="127.0.0.1",
            port=self._api_port,
            database=str(directory / "read-model.sqlite"),
        )
        if self._data_dir is None:  # for one run: gone before anybody could have a token for it
            api = replace(api, auth=False)
        # the login of these settings is for another server
        self.settings = replace(
            self.settings, nats_url=server.url, nats=NatsSettings(), queue=one, api=api
        )
        connection = await enter(connect(server.url, name="qgjet-local"))
        await streams.ensure(
            connection, self.settings.deployment
        )  # the API, next, puts these settings in force
        self.settings = replace(self.settings, api_url=await enter(self._api()))
        if self._with_agent:
            await enter(self._serving(EventLog(connection)))

    @contextlib.asynccontextmanager
    async def _server(self, directory: Path) -> AsyncIterator[NatsServer]:
        async with nats_server(directory / "nats", port=self._nats_port) as server:
            with _kept(server):
                watch = self._part("the NATS server", _ended(server))
                try:
                    yield server
                finally:
                    await _cancelled(watch)

    @contextlib.asynccontextmanager
    async def _api(self) -> AsyncIterator[str]:
        with extra("embedded", "the API"):
            from qgjet_projections.serving.server import serve

        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        serving = self._part("the API", serve(self.settings, ready=ready.set_result))
        try:
            serving.add_done_callback(lambda _: ready.cancel())  # _part_ended tells why
            yield await ready
        finally:
            await _cancelled(serving)

    @contextlib.asynccontextmanager
    async def _serving(self, event_log: EventLog) -> AsyncIterator[None]:
        async with work_dir(self.settings) as directory:
            agent = make_agent(self.settings, event_log, directory)
            running = self._part("the agent", agent.run())
            running.add_done_callback(lambda _: self._agent_ended.set())
            self.agent = agent
            try:
                yield
                agent.halt()
                await asyncio.wait([running], timeout=AGENT_ENDS_S)
            finally:
                await _cancelled(running)

    def _part(self, name: str, work: Awaitable[None]) -> asyncio.Task[None]:
        async def run() -> None:
            await work

        # no TaskGroup: it would wrap the errors of the block
        task = asyncio.create_task(run(), name=name)
        task.add_done_callback(self._part_ended)
        return task

    def _part_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self._closing or self._failure is not None:
            return
        if self.agent is not None and self.agent.draining and task.exception() is None:
            return  # it was asked to
        self._failure = task.exception() or QgjetError(f"{task.get_name()} has ended by itself")
        if self._owner is not None:
            self._owner.cancel()


async def _cancelled(task: asyncio.Task[None]) -> None:
    """Cancel it and wait for its end. What it raised was seen when it ended."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _ended(server: NatsServer) -> None:
    """Raises NatsUnavailable when the server has ended by itself."""
    while server.process is not None and server.process.poll() is None:  # noqa: ASYNC110 - a Popen tells nobody
        await asyncio.sleep(WATCH_S)
    if server.process is not None:
        raise NatsUnavailable(
            f"the embedded NATS server ended with code {server.process.returncode}; its log is {server.log_file}"
        )


@contextlib.contextmanager
def _kept(server: NatsServer) -> Iterator[None]:
    """Where the kernel does not end the server with its owner (it does on Linux), a process of our
    own does: its stdin ends when we do.
    """
    if sys.platform == "linux" or server.process is None:
        yield
        return
    argv = [sys.executable, "-I", "-S", "-E", "-c", _KEEPER, str(server.process.pid)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True) as keeper:
        try:
            yield
        finally:
            keeper.kill()


@contextlib.contextmanager
def _data_directory(asked: Path | None) -> Iterator[Path]:
    """A directory that nobody else uses at the same time."""
    if asked is None:
        with own_directory(Path(tempfile.gettempdir()), "qgjet-run-") as own:
            yield own
        return
    path = asked.expanduser().absolute()
    try:
        private_files.make_directory(path)
        lock = (path / "lock").open("w")
    except OSError as error:
        raise InvalidSettings("data_dir", f"{path} cannot be used: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(
                lock, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # the kernel lets go of it when we are gone, however
        except BlockingIOError:
            raise InvalidSettings(
                "data_dir",
                f"{path} is in use by another qgjet; stop that one, or name another directory",
            ) from None
        yield path
