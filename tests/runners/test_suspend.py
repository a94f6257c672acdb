"""A host that was suspended: the clock of leases has gone on, the monotonic clock, and with it
every timer, has not.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from patience import patience
from privileges import missing
from qgjet.process.stop_control import StopReason
from qgjet.support.clock import lease_time
from runners.processes import Alter, Family, Printed
from runners.test_process import HANG, guardian_of, run, stop_control

Script = Callable[[str], list[str]]

CLOCK_MOVES = """
import signal, time
real = time.clock_gettime
def resume(*_):
    time.clock_gettime = lambda clock: real(clock) + 3600
signal.signal(signal.SIGUSR1, resume)
"""
NAMESPACE_CHANGES = """
import ctypes, os, signal
namespace = os.open("/proc/{pid}/ns/time", os.O_RDONLY)
def resume(*_):
    if ctypes.CDLL(None).setns(namespace, 0x80):
        os.abort()
signal.signal(signal.SIGUSR1, resume)
"""


@pytest.fixture
def hour_ahead() -> Iterator[int]:
    """A process in whose time namespace the clock of leases is an hour ahead, and the monotonic one
    is not.
    """
    argv = [
        "unshare",
        "--time",
        "--fork",
        "--kill-child",
        "--boottime",
        "3600",
        "sh",
        "-c",
        "echo $$; exec sleep 1000",
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        if not (pid := process.stdout.readline()):
            missing("this user cannot create a time namespace here")
        yield int(pid)
        process.kill()


@pytest.mark.parametrize("way", ["another time namespace", "another clock"])
async def test_a_tree_whose_hold_ran_out_during_a_suspend_is_killed_at_once(
    way: str,
    request: pytest.FixtureRequest,
    family: Family,
    printed: Printed,
    python: Script,
    alter: Alter,
) -> None:
    alter(
        CLOCK_MOVES
        if way == "another clock"
        else NAMESPACE_CHANGES.format(pid=request.getfixturevalue("hour_ahead"))
    )
    rope = stop_control(600.0)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            run(
                python("say('pid', os.getpid());" + HANG),
                family,
                stop_control=rope,
                on_output=printed,
            )
        )
        await printed.says("ready")
        assert not task.done()
        os.kill(guardian_of(int(printed.text.split()[1])), signal.SIGUSR1)
        async with asyncio.timeout(patience(10.0)):
            await asyncio.wait([task])
    assert (task.result().signal, task.result().stopped) == ("SIGKILL", StopReason.LEASE_LOST)
    assert not family.pids()
    assert lease_time() < rope.kill_at, "only the guardian's clock has moved"


async def test_an_agent_that_wakes_up_finds_a_frozen_guardian(
    family: Family, printed: Printed, python: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    rope, real = stop_control(600.0), time.clock_gettime
    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            run(
                python("say('pid', os.getpid());" + HANG),
                family,
                stop_control=rope,
                on_output=printed,
            )
        )
        await printed.says("ready")
        guardian = guardian_of(int(printed.text.split()[1]))
        os.kill(guardian, signal.SIGSTOP)
        monkeypatch.setattr(time, "clock_gettime", lambda clock: real(clock) + 3600)
        async with asyncio.timeout(patience(10.0)):
            await asyncio.wait([task])
    assert task.result().signal == "SIGKILL"


def test_the_clock_of_leases_counts_the_time_of_a_suspend(hour_ahead: int) -> None:
    source = "import time; from qgjet.support.clock import lease_time; print(lease_time(), time.monotonic())"
    printed = subprocess.run(
        ["nsenter", f"--time=/proc/{hour_ahead}/ns/time", "--", sys.executable, "-c", source],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    ahead_s = float(printed.split()[0]) - float(printed.split()[1])
    assert ahead_s > 3500.0
