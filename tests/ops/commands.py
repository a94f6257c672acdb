"""The real `qgjet` as a process, for tests of commands that run until they are told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from patience import patience
from surroundings import is_ours

ROOT = Path(__file__).parents[2]
QGJET = Path(sys.executable).with_name("qgjet")
DEADLINE_S = 20.0


class Running:
    """A command under way; its output, stderr included, is kept line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self.lines)

    async def says(self, text: str) -> str:
        """The first line from now on that has `text`."""
        assert self.process.stdout is not None
        async with asyncio.timeout(patience(DEADLINE_S)):
            while line := (await self.process.stdout.readline()).decode():
                self.lines.append(line)
                if text in line:
                    return line
        raise AssertionError(
            f"qgjet ended with {await self.process.wait()} and never said {text!r}:\n{self.text}"
        )

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ends(self) -> int:
        """Its exit code, with all output read."""
        assert self.process.stdout is not None
        async with asyncio.timeout(patience(DEADLINE_S)):
            self.lines += (await self.process.stdout.read()).decode().splitlines(keepends=True)
            return await self.process.wait()


def environment(**extra: str) -> dict[str, str]:
    """Ours, without the settings that a developer, or a make around the tests, may have in it."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not is_ours(name) and not name.startswith(("MAKE", "MFLAGS"))
    }
    return {**clean, "NO_COLOR": "1", "COLUMNS": "200", **extra}


@contextlib.asynccontextmanager
async def qgjet(*args: str, cwd: Path, **extra: str) -> AsyncIterator[Running]:
    """`qgjet ARGS` for the length of a block; killed at its end if it still runs."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        QGJET,
        *args,
        cwd=cwd,
        env=environment(TMPDIR=str(cwd), **extra),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=pipe,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Running(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def qgjet_ends(*args: str, cwd: Path, **extra: str) -> tuple[int, str]:
    """Exit code and output of a command that ends by itself."""
    async with qgjet(*args, cwd=cwd, **extra) as running:
        return await running.ends(), running.text
