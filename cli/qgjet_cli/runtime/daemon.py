"""Commands that run until they are told to stop: their event loop, their log on stderr, and what
signals mean to them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from qgjet.support.clock import end

T = TypeVar("T")

LEAVE_BEHIND_S = 1.0
"""What a command leaves behind gets this long to end."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stops:
    """The signals that asked this process to stop, in order."""

    def __init__(self) -> None:
        self.heard: list[signal.Signals] = []
        self.first = asyncio.Event()

    @property
    def exit_code(self) -> int:
        """0 after one: what was begun was finished. Of more than one, as shells have it."""
        return 0 if len(self.heard) < 2 else 128 + self.heard[-1]


@contextlib.contextmanager
def stopping(on_first: Callable[[], object], on_next: Callable[[], object]) -> Iterator[Stops]:
    """Hear stop signals for the length of a block: the first asks, every further one insists.

    A signal that the process was started to ignore (nohup, a script's `&`) stays ignored.
    """
    stops, loop = Stops(), asyncio.get_running_loop()

    def hear(number: signal.Signals) -> None:
        if number is signal.SIGHUP and number in stops.heard:
            return  # a terminal hangs up once: it can be noticed by its signal and by a failed write
        stops.heard.append(number)
        stops.first.set()
        (on_first if len(stops.heard) == 1 else on_next)()

    heeded = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in heeded:
        loop.add_signal_handler(number, hear, number)
    try:
        yield stops
    finally:
        for number in heeded:
            loop.remove_signal_handler(number)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop where there is one: it moves twice the messages. The collector looks less
    often: what flows through here is freed by its last reference.
    """
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_to_the_end(main))


async def _to_the_end(main: Coroutine[Any, Any, T]) -> T:
    """Run, and end what is left behind: the runner would wait without a limit for a task that has
    lost its cancellation.
    """
    try:
        return await main
    finally:
        await end(*(asyncio.all_tasks() - {asyncio.current_task()}), within_s=LEAVE_BEHIND_S)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def log_to_stderr(level: int = logging.INFO) -> None:
    """One line per record, with the time of day."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level,
        format="%(asctime)s %(levelname)-7s %(message)s",
        datefmt="%H:%M:%S",
    )
