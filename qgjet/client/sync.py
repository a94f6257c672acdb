"""The library for code without an event loop: the same calls, which return when they are done. An
event loop runs in a thread of its own meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from qgjet.client import base, library
from qgjet.client.base import SubmitResult
from qgjet.client.library import Job, Report
from qgjet.client.tracker import JobUpdate, TrackedJob

T = TypeVar("T")


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qgjet", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns or raises. Ctrl-C, or another exception in the calling thread,
        cancels it first.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
                with contextlib.suppress(BaseException):
                    future.result()
            raise

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class SyncSuite:
    """See `Suite`."""

    def __init__(self, loop: _Loop, suite: library.Suite) -> None:
        self._loop = loop
        self._suite = suite

    @property
    def id(self) -> str:
        """The id under which the API, the dashboard and `qgjet wait --suite` know it."""
        return self._suite.id

    @property
    def jobs(self) -> list[TrackedJob]:
        """The accepted jobs, as far as they have been followed. Copies: they do not change."""
        return self._suite.jobs

    @property
    def refused(self) -> list[SubmitResult]:
        """The jobs that were not accepted, each with its `error`. Only a `partial` submission has
        any.
        """
        return self._suite.refused

    def follow(self) -> Iterator[JobUpdate]:
        """Each change of a job once, until all jobs have ended. See `Suite.follow`."""
        changes = self._suite.follow()
        try:
            while (change := self._loop.run(_next(changes))) is not None:
                yield change
        finally:
            self._loop.run(changes.aclose())

    def wait(self, timeout: float | None = None) -> Report:
        """Wait until all jobs have ended, for at most `timeout` seconds. See `Suite.wait`."""
        return self._loop.run(self._suite.wait(timeout))

    def report(self) -> Report:
        """What is known now. See `Suite.report`."""
        return self._suite.report()

    def cancel(self, reason: str = "") -> None:
        """Ask for the end of all jobs that no other suite waits for. See `Suite.cancel`."""
        self._loop.run(self._suite.cancel(reason))


async def _next(changes: Any) -> JobUpdate | None:
    found: JobUpdate | None = await anext(changes, None)
    return found


class SyncClient:
    """See `Client`. For one thread at a time."""

    def __init__(self, loop: _Loop, client: library.Client) -> None:
        self._loop = loop
        self._client = client

    @property
    def where(self) -> str:
        """The server, for messages; never with a password."""
        return self._client.where

    def submit(
        self,
        jobs: Iterable[Job],
        *,
        suite_id: str = "",
        idempotency_key: str = "",
        partial: bool = False,
    ) -> SyncSuite:
        """Submit jobs as one suite: all of them, or none. See `Client.submit`."""
        submitted = self._client.submit(
            jobs, suite_id=suite_id, idempotency_key=idempotency_key, partial=partial
        )
        return SyncSuite(self._loop, self._loop.run(submitted))


@contextlib.contextmanager
def connect_sync(
    url: str = "",
    *,
    org_id: str = "",
    token: str = "",
    config: str | Path | None = None,
    patience: float = base.LONG_PATIENCE_S,
) -> Iterator[SyncClient]:
    """A client for code without an event loop, closed at the end of the block. See `connect`."""
    loop = _Loop()
    try:
        connection = _Connection(
            library.connect(url, org_id=org_id, token=token, config=config, patience=patience)
        )
        client = loop.run(connection.open())
        try:
            yield SyncClient(loop, client)
        finally:
            loop.run(connection.close())
    finally:
        loop.close()


class _Connection:
    """Keeps the block of `connect` open in one task, as if it were written around the calls."""

    def __init__(self, connecting: contextlib.AbstractAsyncContextManager[library.Client]) -> None:
        self._connecting = connecting
        self._closed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> library.Client:
        opened: asyncio.Future[library.Client] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._hold(opened))
        try:
            either: list[asyncio.Future[Any]] = [opened, self._task]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            raise
        if not opened.done():
            await self._task  # raises what went wrong
        return opened.result()

    async def _hold(self, opened: asyncio.Future[library.Client]) -> None:
        async with self._connecting as client:
            opened.set_result(client)
            await self._closed.wait()

    async def close(self) -> None:
        """Raises what has ended the connection, if something has."""
        self._closed.set()
        if self._task is not None:
            await self._task
