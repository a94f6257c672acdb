"""Runs one command from start to end, as a process tree that does not outlive its job (`tree.py`)."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from qgjet.process.stop_control import StopControl, StopReason
from qgjet.process.supervised_process import LOG_LIMIT_BYTES, Command, Output, SupervisedProcess
from qgjet.support.clock import lease_time

Ladder = Sequence[tuple[int, float]]
"""Signals for the process group, each with the seconds it gets before the next one. SIGKILL for the
whole tree follows the last.
"""


def stop_ladder(grace_s: float) -> Ladder:
    """SIGINT, on which alone Playwright deletes its device sessions and writes its report; SIGTERM
    after `grace_s`.
    """
    return ((signal.SIGINT, grace_s), (signal.SIGTERM, 2.0))


STOP_LADDER = stop_ladder(15.0)
KILL_MARGIN_S = 0.5
"""Kept of the time to the hard end for killing and collecting the dead."""
HOLD_S = 15.0
"""Of trees that belong to no job: so long they outlive an agent that is frozen. A dead agent's go
at once.
"""


class ProcessResult(Struct, frozen=True, kw_only=True):
    """How a command ended. Nobody of its tree is left."""

    exit_code: int | None
    """None when a signal ended it."""
    signal: str
    """`SIGKILL` and the like; empty when it exited."""
    stopped: StopReason | None
    """Set only when the stop found the command still running; one that had ended before keeps its
    own result.
    """
    duration_s: float
    tail: bytes
    """The last 64 KiB of its output."""


async def run_process(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    stop_control: StopControl,
    on_output: Callable[[bytes], None] | None = None,
    log_path: Path | None = None,
    stop_ladder: Ladder = STOP_LADDER,
    log_limit: int = LOG_LIMIT_BYTES,
) -> ProcessResult:
    """Run a command to its end, or until its stop control ends it. Whoever it left behind is
    killed.

    Raises StartError, and OSError when this host cannot run anything (no memory, disk full). When
    it returns, raises or is cancelled, the tree is dead.
    """
    began = time.monotonic()
    with Output(log_path, on_output, log_limit) as output:
        tree = SupervisedProcess(
            Command(argv=argv, cwd=cwd, env=env), kill_at=stop_control.kill_at, output=output
        )
        unfollow = stop_control.follow(tree.extend)
        try:
            async with asyncio.TaskGroup() as group:
                stopper = group.create_task(_stop_when_told(tree, stop_control, stop_ladder))
                await tree.gone.wait()
                stopper.cancel()
        finally:
            unfollow()
            await tree.end()
        tree.raise_failure()
    code, signal_name = tree.exit
    stopped = (stop_control.reason or StopReason.LEASE_LOST) if tree.was_stopped else None
    return ProcessResult(
        exit_code=code,
        signal=signal_name,
        stopped=stopped,
        duration_s=time.monotonic() - began,
        tail=output.tail,
    )


async def run_within(
    argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout_s: float, log_path: Path
) -> ProcessResult:
    """`run_process` for a command that belongs to no job: held while the event loop turns, stopped
    with DEADLINE after `timeout_s`.
    """
    stop_control = StopControl(lease_time())
    release = keep_alive(stop_control.extend)
    deadline = asyncio.get_running_loop().call_later(
        timeout_s, stop_control.stop, StopReason.DEADLINE
    )
    try:
        return await run_process(
            argv,
            cwd=cwd,
            env=env,
            stop_control=stop_control,
            log_path=log_path,
            stop_ladder=((signal.SIGTERM, 2.0),),
        )
    finally:
        deadline.cancel()
        release()


def keep_alive(
    extend: Callable[[float], None], *, hold_s: float = HOLD_S, every_s: float = 3.0
) -> Callable[[], None]:
    """Extend a hold for as long as the event loop turns, until the returned function is called."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def beat() -> None:
        nonlocal timer
        extend(lease_time() + hold_s)
        timer = loop.call_later(every_s, beat)

    beat()
    return lambda: timer.cancel()


async def _stop_when_told(
    tree: SupervisedProcess, stop_control: StopControl, ladder: Ladder
) -> None:
    await stop_control.stopped()
    for step, (number, _) in enumerate(ladder):
        tree.signal(number)
        graces = [grace_s for _, grace_s in ladder[step:]]
        with suppress(TimeoutError):
            async with asyncio.timeout(_patience(graces, stop_control.kill_at - lease_time())):
                await tree.gone.wait()
    tree.kill()


def _patience(graces: Sequence[float], left_s: float) -> float:
    """The first of the graces, all of them shortened alike where they do not fit into the time that
    is left.
    """
    return graces[0] * min(1.0, max(left_s - KILL_MARGIN_S, 0.0) / (sum(graces) or 1.0))
