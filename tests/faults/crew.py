"""Real agent processes that run real processes, and the yard where those leave their traces."""

from __future__ import annotations

import contextlib
import fcntl
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from agents import eventually
from qgjet.config.settings import QueueSettings

SOON = QueueSettings(visibility_timeout_s=2.0, retry_base_s=0.02, retry_cap_s=0.05)
"""Visibility for jobs that are processes: on a busy machine one takes a while to start and to die.
"""
CONFIG = """
nats_url = {url}
[queue]
visibility_timeout = {queue.visibility_timeout_s}
retry_base = {queue.retry_base_s}
retry_cap = {queue.retry_cap_s}
[agent]
name = {name}
poll = 0.5
work_dir = {yard}
[targets.emulator]
runner = "command"
dir = {yard}
command = {command}
slots = {slots}
{more}
"""
_HERE = Path(__file__).parent


class Line(NamedTuple):
    """What a job has written down: start, end or overlap."""

    word: str
    test: str
    attempt: int
    at: float
    """time.monotonic(): one clock for all processes."""


class Yard:
    """The directory in which the jobs of `job.py` leave their lines and hold their locks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    @property
    def command(self) -> tuple[str, ...]:
        return (
            sys.executable,
            "-I",
            "-S",
            str(_HERE / "job.py"),
            str(self.path),
            "{test}",
            "{attempt}",
        )

    def lines(self, word: str = "", test: str = "") -> list[Line]:
        ledger = self.path / "ledger"
        if not ledger.exists():
            return []
        lines = [
            Line(found[0], found[1], int(found[2]), float(found[3]))
            for found in map(str.split, ledger.read_text().splitlines())
        ]
        return [line for line in lines if word in ("", line.word) and test in ("", line.test)]

    def is_alive(self, test: str) -> bool:
        """Whether anybody of the test's process tree is left."""
        path = self.path / f"{test.replace('/', '_')}.alive"
        if not path.exists():
            return False
        with path.open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def open_gate(self) -> None:
        (self.path / "gate").touch()

    async def started(self, test: str, attempt: int = 1, *, within_s: float = 15.0) -> Line:
        async def ask() -> list[Line]:
            return [line for line in self.lines("start", test) if line.attempt == attempt]

        return (
            await eventually(ask, within_s=within_s, what=f"start of attempt {attempt} of {test}")
        )[0]

    async def dead(self, test: str, *, within_s: float = 5.0) -> None:
        async def ask() -> bool:
            return not self.is_alive(test)

        await eventually(ask, within_s=within_s, what=f"end of all processes of {test}")


class AgentProcess:
    """A `qgjet agent` for the target `emulator`. What it says goes to a file, for failing tests."""

    def __init__(
        self,
        url: str,
        yard: Yard,
        name: str,
        *,
        slots: int = 1,
        command: tuple[str, ...] = (),
        queue: QueueSettings = SOON,
        more: str = "",
    ) -> None:
        self.output = yard.path / f"{name}.log"
        config = yard.path / f"{name}.toml"
        quoted = {
            key: json.dumps(value)
            for key, value in {
                "url": url,
                "name": name,
                "yard": str(yard.path),
                "command": command or yard.command,
            }.items()
        }
        config.write_text(CONFIG.format(**quoted, queue=queue, slots=slots, more=more))
        argv = [str(Path(sys.executable).with_name("qgjet")), "agent", "--config", str(config)]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def says(self, text: str, *, within_s: float = 15.0) -> str:
        """The first line that holds `text`, once it is there."""

        async def ask() -> str:
            assert self.process.poll() is None or text in self.output.read_text(), (
                f"the agent has ended:\n{self.output.read_text()[-3000:]}"
            )
            return next((line for line in self.output.read_text().splitlines() if text in line), "")

        return await eventually(ask, within_s=within_s, what=f"{text!r} of {self.output.name}")

    async def ready(self) -> str:
        """Its instance id, once it serves."""
        line = await self.says(" serves emulator ")
        return line.split("agent ")[1].split()[0]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def ends(self, *, within_s: float = 10.0) -> int:
        """Its exit code."""

        async def ask() -> bool:
            return self.process.poll() is not None

        await eventually(ask, within_s=within_s, what=f"end of {self.output.name}")
        return int(self.process.returncode)

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()


class Crew:
    """Starts agent processes; all are killed at the end of the test."""

    def __init__(self, url: str, yard: Yard) -> None:
        self.url, self.yard = url, yard
        self.agents: list[AgentProcess] = []

    def start(self, name: str, **options: Any) -> AgentProcess:
        self.agents.append(AgentProcess(self.url, self.yard, name, **options))
        return self.agents[-1]

    def close(self) -> None:
        for agent in self.agents:
            agent.close()


@contextlib.contextmanager
def crew(url: str, yard: Yard) -> Iterator[Crew]:
    found = Crew(url, yard)
    try:
        yield found
    finally:
        found.close()
