"""The real command as a process, and the API in this one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from patience import patience
from qgjet.agent.agent import Agent
from qgjet.config.settings import Settings
from qgjet_projections.serving.server import serve
from surroundings import is_ours

BIN = Path(sys.executable).parent
DEADLINE_S = 30.0
ORG, VERSION, TARGET = "qualgent", "xyz123", "emulator"


class Ended:
    """A command that has ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        """All of stdout as one JSON document; fails when there is anything else."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line that says what went wrong."""
        lines = [line for line in self.err.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1, self.err
        return lines[0]


class Running:
    """A command under way."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.err = ""
        self._out = asyncio.ensure_future(_read_all(process.stdout))

    async def says(self, *texts: str) -> str:
        """The next line on stderr that has all of `texts`."""
        assert self.process.stderr is not None
        async with asyncio.timeout(patience(DEADLINE_S)):
            while line := (await self.process.stderr.readline()).decode():
                self.err += line
                if all(text in line for text in texts):
                    return line
        raise AssertionError(
            f"it ended with {await self.process.wait()} and never said {texts}:\n{self.err}"
        )

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ends(self) -> Ended:
        assert self.process.stderr is not None
        async with asyncio.timeout(patience(DEADLINE_S)):
            self.err += (await self.process.stderr.read()).decode()
            return Ended(await self.process.wait(), await self._out, self.err)

    async def close(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        assert self.process.stderr is not None
        await asyncio.gather(self._out, self.process.stderr.read(), self.process.wait())


async def _read_all(stream: asyncio.StreamReader | None) -> str:
    assert stream is not None
    return (await stream.read()).decode()


class Cli:
    """Runs `qgjet` in `cwd` with nothing of the developer's own settings, and with `variables`."""

    def __init__(self, cwd: Path, **variables: str) -> None:
        self.cwd = cwd
        self.environment = {
            name: value for name, value in os.environ.items() if not is_ours(name)
        } | variables

    async def __call__(self, *args: str, program: str = "qgjet", **variables: str) -> Ended:
        async with self.start(*args, program=program, **variables) as running:
            return await running.ends()

    @contextlib.asynccontextmanager
    async def start(
        self, *args: str, program: str = "qgjet", **variables: str
    ) -> AsyncIterator[Running]:
        process = await asyncio.create_subprocess_exec(
            str(BIN / program),
            *args,
            cwd=self.cwd,
            env=self.environment | variables,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1024 * 1024,
        )
        running = Running(process)
        try:
            yield running
        finally:
            await running.close()

    def with_variables(self, **variables: str) -> Cli:
        changed = Cli(self.cwd)
        changed.environment = self.environment | variables
        return changed


@contextlib.asynccontextmanager
async def api_of(settings: Settings) -> AsyncIterator[str]:
    """The API in this process, for the length of a block: its URL."""
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(settings, ready=url.set_result))
    try:
        await asyncio.wait({serving, url}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving
        yield await url
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving


Work = Callable[..., contextlib.AbstractAsyncContextManager[Agent]]


Inside = Callable[..., Ended]
"""Runs a command in this process, for what ends before anything is reached."""
