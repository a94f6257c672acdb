"""Real processes for the runner tests: a mark in their environment to find every one of them, and
waits with a deadline.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import qgjet
from patience import patience

MARK = "QGJET_TEST_MARK"
DEADLINE_S = 10.0
Alter = Callable[[str], None]


class Family:
    """Every process that has this family's mark in its environment, whoever its parent is."""

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex
        self.env = {"PATH": os.environ["PATH"], MARK: self.mark}

    def pids(self) -> set[int]:
        wanted = f"{MARK}={self.mark}".encode()
        return {
            int(entry.name) for entry in Path("/proc").glob("[0-9]*") if wanted in _environ(entry)
        }

    async def dies(self, within_s: float = DEADLINE_S) -> None:
        await wait_until(lambda: not self.pids(), "the processes of the job are gone", within_s)

    async def counts(self, number: int) -> None:
        await wait_until(
            lambda: len(self.pids()) >= number, f"{number} processes of the job are there"
        )


def _environ(entry: Path) -> bytes:
    try:
        return (entry / "environ").read_bytes()  # empty for a zombie
    except OSError:
        return b""


async def wait_until(
    condition: Callable[[], object], what: str, within_s: float = DEADLINE_S
) -> None:
    """Poll with a deadline, for what gives no signal to wait for."""
    deadline = time.monotonic() + patience(within_s)
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.005)


class Printed:
    """Collects a job's output; `says` waits for a text in it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._news = asyncio.Event()

    def __call__(self, data: bytes) -> None:
        self.data += data
        self._news.set()

    @property
    def text(self) -> str:
        return self.data.decode()

    async def says(self, text: str) -> None:
        async with asyncio.timeout(patience(DEADLINE_S)):
            while text not in self.text:
                self._news.clear()
                await self._news.wait()


class FakeAgent:
    """Another process that uses the library, to be killed or frozen."""

    def __init__(self, source: str, tmp_path: Path, env: dict[str, str]) -> None:
        script = tmp_path / f"agent-{uuid.uuid4().hex}.py"
        script.write_text(source)
        root = Path(qgjet.__file__).parents[1]
        self.process = subprocess.Popen(
            [sys.executable, "-u", str(script)],
            env={**env, "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            cwd=tmp_path,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    async def says(self, text: bytes) -> bytes:
        """The first line that has the text."""
        assert self.process.stdout is not None
        async with asyncio.timeout(patience(DEADLINE_S)):
            while line := await asyncio.to_thread(self.process.stdout.readline):
                if text in line:
                    return line
        raise AssertionError(f"the fake agent ended without saying {text!r}")

    def close(self) -> None:
        self.process.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.wait()
