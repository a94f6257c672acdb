"""Processes that try to outlive their tree: chains in which each generation forks, leaves its
session and exits before a walk through /proc finds it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from patience import patience
from privileges import missing
from qgjet.process import cgroup
from qgjet.process.run import ProcessResult, run_process
from qgjet.process.stop_control import StopReason
from qgjet.process.supervised_process import Command, Output, SupervisedProcess
from runners.processes import Alter, FakeAgent, Family, Printed, wait_until
from runners.test_process import AGENT, DAEMON, HANG, guardian_of, stop_control

Script = Callable[[str], list[str]]

BOUND_S = 10.0
"""From the end of a command to a free slot."""
LIFETIME_S = 120.0
"""Of a chain that nothing kills, such as after the end of the tests themselves: on a machine it
would run until the next start.
"""
CHAINS = """
def chain():
    open({alive!r}, "w")
    os.open({alive!r}, os.O_WRONLY)
    while time.monotonic() < {end}:
        if os.fork():
            os._exit(0)
        os.setsid()
    os._exit(0)

for _ in range({number}):
    if os.fork() == 0:
        chain()
time.sleep(0.2)
say("ready", os.getpid())
"""
PID_REUSED = """
command = os.getpid()
said, saying = os.pipe()
if os.fork() == 0:
    os.setsid()
    os.close(saying)
    os.read(said, 1)
    while os.path.exists(f"/proc/{command}"):
        time.sleep(0.001)
    for _ in range(1000):
        with open("/proc/sys/kernel/ns_last_pid", "w") as last:
            last.write(str(command - 1))
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        if pid == command:
            say("reused")
            break
        os.waitpid(pid, 0)
    os._exit(0)
os.close(said)
os._exit(7)
"""


class Alive:
    """A FIFO that the chains hold open for writing while one of their processes lives, however
    short its life is.
    """

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def __bool__(self) -> bool:
        try:
            return os.read(self._fd, 1) != b""
        except BlockingIOError:
            return True

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def alive(tmp_path: Path) -> Iterator[Alive]:
    one = Alive(tmp_path / "alive")
    yield one
    one.close()


@pytest.fixture
def no_cgroup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "make", lambda _: None)


@pytest.fixture
def own_cgroup() -> None:
    made = cgroup.make("probe")
    if made is None:
        missing("this user cannot create a cgroup here")
    made.remove()


async def run(argv: list[str], family: Family, **options: Any) -> ProcessResult:
    given: dict[str, Any] = {"cwd": Path("/"), "env": family.env, "stop_control": stop_control()}
    async with asyncio.timeout(patience(BOUND_S)):
        return await run_process(argv, **(given | options))


def chains(alive: Alive, number: int = 5) -> str:
    return CHAINS.format(alive=str(alive.path), number=number, end=time.monotonic() + LIFETIME_S)


@pytest.mark.parametrize("way", ["with a cgroup", "without"])
async def test_chains_of_processes_end_with_their_command(
    way: str, request: pytest.FixtureRequest, family: Family, python: Script, alive: Alive
) -> None:
    request.getfixturevalue("own_cgroup" if way == "with a cgroup" else "no_cgroup")
    result = await run(python(chains(alive) + "os._exit(7)"), family)
    assert (result.exit_code, result.signal, result.stopped) == (7, "", None)
    assert not alive


async def test_chains_of_processes_end_with_the_hold(
    family: Family, python: Script, alive: Alive
) -> None:
    result = await run(python(chains(alive) + HANG), family, stop_control=stop_control(1.0))
    assert (result.signal, result.stopped) == ("SIGKILL", StopReason.LEASE_LOST)
    assert not alive


async def test_kill_9_of_the_guardian_ends_chains_too(
    own_cgroup: None, family: Family, printed: Printed, python: Script, alive: Alive
) -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(run(python(chains(alive) + HANG), family, on_output=printed))
        await printed.says("ready")
        os.kill(guardian_of(int(printed.text.split()[1])), signal.SIGKILL)
    assert task.result().signal == "SIGKILL"
    assert not alive


async def test_a_cgroup_ends_what_no_walk_finds_and_is_removed(
    own_cgroup: None, family: Family, python: Script, alter: Alter
) -> None:
    alter("guardian.descendants = lambda ancestor: []\nguardian._children = lambda: []")
    result = await run(
        python(DAEMON + "say(open('/proc/self/cgroup').read()); os._exit(7)"), family
    )
    assert result.exit_code == 7
    assert not family.pids()
    own = next(line[3:] for line in result.tail.decode().splitlines() if line.startswith("0::"))
    directory = cgroup.find(own, Path("/proc/self/mountinfo").read_text())
    assert directory is not None
    assert directory.name.startswith(cgroup.PREFIX)
    assert not directory.exists()


async def test_an_agent_ends_what_another_one_left_that_was_killed_with_its_guardian(
    own_cgroup: None, family: Family, fake_agent: Callable[[str], FakeAgent], python: Script
) -> None:
    agent = fake_agent(
        AGENT.format(
            argv=python(DAEMON + "say('pid', os.getpid());" + HANG), env=family.env, hold_s=60
        )
    )
    supervisor = guardian_of(int((await agent.says(b"pid")).split()[1]))
    os.kill(agent.pid, signal.SIGSTOP)
    os.kill(supervisor, signal.SIGKILL)
    os.kill(agent.pid, signal.SIGKILL)
    agent.process.wait()
    await wait_until(
        lambda: len(family.pids()) == 1, "the kernel has killed the command, and not its daemon"
    )
    cgroup.end_those_of_dead_agents.cache_clear()
    await run(["true"], Family())
    await family.dies()


async def test_what_cannot_be_killed_is_named_and_frees_the_slot(
    no_cgroup: None, family: Family, python: Script, alter: Alter, caplog: pytest.LogCaptureFixture
) -> None:
    alter("guardian.KILL_LIMIT_S = 0.2\nguardian._send = lambda *_: None")
    with caplog.at_level(logging.WARNING):
        result = await run(python(DAEMON + "os._exit(7)"), family)
    assert (result.exit_code, result.signal, result.stopped) == (7, "", None)
    [left] = family.pids()
    assert f"{left} {Path(f'/proc/{left}/comm').read_text().strip()}" in caplog.text
    os.kill(left, signal.SIGKILL)
    await family.dies()


async def test_without_a_subreaper_the_tree_is_found_by_its_mark(
    no_cgroup: None, family: Family, python: Script, alter: Alter
) -> None:
    alter("guardian._prctl = lambda *_: False")
    result = await run(python(DAEMON + "os._exit(7)"), family)
    assert result.exit_code == 7
    assert not family.pids()


async def test_a_later_process_with_the_number_of_the_command_does_not_change_its_result(
    family: Family, python: Script, printed: Printed
) -> None:
    if not os.access("/proc/sys/kernel/ns_last_pid", os.W_OK):
        missing("this user cannot choose the next process ID here")
    with Output(listener=printed) as output:
        tree = SupervisedProcess(
            Command(argv=python(PID_REUSED), cwd=Path("/"), env=family.env),
            kill_at=stop_control().kill_at,
            output=output,
            keep=True,
        )
        async with asyncio.timeout(patience(BOUND_S)):
            await tree.gone.wait()
    assert "reused" in printed.text
    assert tree.exit == (7, "")


MOUNTS = """22 1 254:0 / / rw,relatime - ext4 /dev/root rw
35 22 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
36 22 0:32 {root} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
"""


@pytest.mark.parametrize(
    ("root", "own", "found"),
    [
        ("/", "/", "/sys/fs/cgroup"),
        ("/", "/system.slice/qgjet.service", "/sys/fs/cgroup/system.slice/qgjet.service"),
        ("/docker/1", "/docker/1/agent", "/sys/fs/cgroup/agent"),
        ("/docker/1", "/docker/2", None),
        ("/", "/../outside", None),
    ],
)
def test_the_directory_of_a_cgroup_is_found_in_the_mounts(
    root: str, own: str, found: str | None
) -> None:
    assert cgroup.find(own, MOUNTS.format(root=root)) == (found and Path(found))


def test_without_cgroup_v2_there_is_no_directory() -> None:
    assert cgroup.find("/", MOUNTS.splitlines()[0]) is None
