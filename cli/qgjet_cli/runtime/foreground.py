"""Commands that do one thing and end: their event loop, what signals mean to them, and their time
limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, NoReturn

import typer

from qgjet_cli.exits import Exit
from qgjet_cli.output import console
from qgjet_cli.runtime import daemon

LEAVE_S = 2.0
"""From the second signal on, connections get so long to close."""
_QUIET = (
    "nats",
    "asyncio",
    "httpx",
    "httpcore",
    "uvicorn",
    "qgjet.jetstream.connection",
    "qgjet.store.event_log",
)
"""What they have to say about broken connections the commands say themselves, once."""


class Interrupted(Exception):
    """A signal ended the wait."""


class TimedOut(Exception):
    """The time limit ended the wait."""


class Interrupts:
    """Signals and time limit of one command.

    Without further ado the first signal cancels the command. Inside `limit` it ends the block, so
    that the command can put things in order; inside `held` it waits for the next `limit`. The
    second one cancels the command whatever it does.
    """

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._scope: asyncio.Timeout | None = None
        self._held = ""
        self.stops = daemon.Stops()
        self.leave_s = LEAVE_S

    @property
    def heard(self) -> bool:
        return bool(self.stops.heard)

    @property
    def code(self) -> Exit:
        """As shells have it: 128 and the number of the first signal."""
        return Exit(128 + self.stops.heard[0])

    def first(self) -> None:
        if self._scope is not None:
            with contextlib.suppress(RuntimeError):  # it is over at this moment
                self._scope.reschedule(asyncio.get_running_loop().time())
        elif self._held:
            console.note(f"Interrupted: {self._held} first. Once more to leave at once.")
        else:
            self._task.cancel()

    def again(self) -> None:
        self._task.cancel()
        asyncio.get_running_loop().call_later(self.leave_s, self._leave)

    def _leave(self) -> None:
        if sys.stderr.isatty():
            sys.stderr.write("\x1b[?25h")  # a live display hides the cursor
        sys.stderr.flush()
        os._exit(self.code)

    @contextlib.contextmanager
    def held(self, what: str) -> Iterator[None]:
        self._held = what
        try:
            yield
        finally:
            self._held = ""

    @contextlib.asynccontextmanager
    async def limit(self, timeout_s: float | None) -> AsyncIterator[None]:
        """Raises TimedOut when the block takes longer, Interrupted at a signal, at once if there
        was one before.
        """
        if self.heard:
            raise Interrupted
        try:
            async with asyncio.timeout(timeout_s) as self._scope:
                yield
        except TimeoutError:
            if self._scope is None or not self._scope.expired():
                raise
            raise Interrupted if self.heard else TimedOut from None
        finally:
            self._scope = None


def run(body: Callable[[Interrupts], Coroutine[Any, Any, Exit]]) -> NoReturn:
    """Run a command's body; the process ends with its exit code. Errors are the caller's to tell."""
    _quiet_logs()
    raise typer.Exit(int(daemon.run(_run(body))))


async def _run(body: Callable[[Interrupts], Coroutine[Any, Any, Exit]]) -> int:
    interrupts = Interrupts()
    with daemon.stopping(interrupts.first, interrupts.again) as interrupts.stops:
        try:
            return await body(interrupts)
        except asyncio.CancelledError:
            if not interrupts.heard:
                raise
            return interrupts.code


class _Inert(logging.Formatter):
    """An agent of our own logs what others have printed."""

    def format(self, record: logging.LogRecord) -> str:
        return console.inert(super().format(record))


def _quiet_logs() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Inert("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)
