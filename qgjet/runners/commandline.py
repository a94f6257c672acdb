"""Targets that are driven by commands: their sessions, and the commands around the jobs.

`prepare` runs once per session and may leave processes behind (an Appium, an emulator): they live
until `release`, and no longer than the agent. It hands variables to the jobs through the file in
QGJET_ENV (`environment.py`); `QGJET_DEVICE=...` there names the device. `healthy` runs before each
job, `release` at the end. A `prepare` that fails has to clean up outside of this host by itself:
`release` does not run then, nor when the agent was killed.

The values of the variables in `redact` stay on this host: a session removes them from the output
and the outcome of a job, and its `redactor` removes them from the artifacts when the agent stores
these. The files in the attempt's directory stay as the job wrote them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import stat
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct, field
from msgspec.structs import replace

from qgjet.config.settings import TargetSettings
from qgjet.domain.events import Outcome, Partition, Verdict
from qgjet.errors import InvalidInput, PrepareFailed, QgjetError
from qgjet.process.run import HOLD_S, ProcessResult, keep_alive, run_within
from qgjet.process.supervised_process import Command, Output, StartError, SupervisedProcess
from qgjet.runners import adb
from qgjet.runners.base import Attempt, Session
from qgjet.runners.environment import DEVICE_VARIABLE, read_variables, session_environment
from qgjet.runners.redaction import Redactor
from qgjet.support import private_files
from qgjet.support.clock import lease_time
from qgjet.verdict.patterns import Patterns, default_patterns
from qgjet.verdict.reasons import Reason

logger = logging.getLogger(__name__)

EXCERPT_LINES = 20
EXCERPT_CHARACTERS = 2000
TERM_GRACE_S = 2.0


class ReportUnusable(QgjetError):
    """What lies where the report is due is not fit to be read."""


class PreparedTarget(Struct, kw_only=True):
    """A target made ready for one partition: where its jobs run, and with which variables."""

    target: TargetSettings
    project: Path
    """The target's `dir`, absolute and without symbolic links: Playwright compares test files with
    its real path.
    """
    directory: Path
    """Of the session."""
    env: dict[str, str]
    redactor: Redactor = field(default_factory=Redactor)
    patterns: Patterns = field(default_factory=default_patterns)
    """Errors that are not about the app."""


Execute = Callable[[PreparedTarget, Attempt], Awaitable[Outcome]]
"""Runs one job in a place. InvalidInput, StartError and ReportUnusable become config errors,
OSError an infrastructure error.
"""


class CommandLineRunner:
    """A Runner whose sessions are made by the target's commands, and whose jobs are run by
    `execute`.
    """

    def __init__(
        self, target: TargetSettings, execute: Execute, patterns: Patterns | None = None
    ) -> None:
        self._patterns = patterns or default_patterns()
        self._target = target
        self._project = Path(target.dir).resolve()
        self._execute = execute

    async def prepare(self, partition: Partition, directory: Path) -> Session:
        try:
            place = _place(self._target, self._project, partition, directory)
        except InvalidInput as error:
            return MisconfiguredSession(self._target.name, error)
        await adb.ensure_server(place.env)
        try:
            kept = await _prepare(place) if self._target.prepare else None
        except PrepareFailed as failure:
            raise PrepareFailed(_redactor(self._target, place.env).text(str(failure))) from None
        place.redactor = _redactor(self._target, place.env)
        place.patterns = self._patterns
        return CommandLineSession(place, self._execute, kept)


class CommandLineSession:
    """A prepared place, with the processes that `prepare` left in it."""

    def __init__(self, place: PreparedTarget, execute: Execute, kept: Kept | None) -> None:
        self.device = place.redactor.text(place.env.pop(DEVICE_VARIABLE, "")) or place.target.name
        self.redactor = place.redactor
        self._place, self._execute, self._kept = place, execute, kept
        self._released = False

    async def healthy(self) -> bool:
        target = self._place.target
        if self._released or (self._kept and self._kept.lost):
            return False
        try:
            return (
                not target.healthy
                or (
                    await self._command("healthy", target.healthy, target.healthy_timeout_s)
                ).exit_code
                == 0
            )
        except (StartError, OSError) as error:
            logger.warning("target %s: the health check did not run: %s", target.name, error)
            return False

    async def run(self, attempt: Attempt) -> Outcome:
        if not self.redactor:
            return await self._run(attempt)
        stream = self.redactor.listener(attempt.on_output)
        try:
            outcome = await self._run(replace(attempt, on_output=stream.write))
        finally:
            stream.close()
        return self.redactor.outcome(outcome)

    async def _run(self, attempt: Attempt) -> Outcome:
        await adb.ensure_server(self._place.env)
        try:
            private_files.make_directory(attempt.directory)
            return await self._execute(self._place, attempt)
        except InvalidInput as error:
            return config_error(Reason.INVALID_INPUT, str(error))
        except ReportUnusable as error:
            return config_error(Reason.REPORT_UNREADABLE, str(error))
        except StartError as error:
            return config_error(Reason.COMMAND_NOT_FOUND, str(error))
        except OSError as error:
            return Outcome(
                verdict=Verdict.INFRA_ERROR,
                reason=Reason.AGENT_IO,
                message=f"the agent's host could not run the job: {error}",
            )

    async def release(self) -> None:
        if self._released:
            return
        self._released = True
        try:
            await self._give_back()
        finally:
            if self._kept:
                await self._kept.end()

    async def _give_back(self) -> None:
        target = self._place.target
        try:
            result = (
                await self._command("release", target.release, target.release_timeout_s)
                if target.release
                else None
            )
        except (StartError, OSError) as error:
            logger.warning("target %s: release did not run: %s", target.name, error)
            return
        if result and result.exit_code != 0:
            logger.warning(
                "target %s: release %s",
                target.name,
                self._place.redactor.text(
                    _how_it_failed(result.exit_code, result.signal, result.tail)
                ),
            )

    async def _command(self, name: str, argv: tuple[str, ...], timeout_s: float) -> ProcessResult:
        place = self._place
        return await run_within(
            argv,
            cwd=place.project,
            env=place.env,
            timeout_s=timeout_s,
            log_path=place.directory / f"{name}.log",
        )


class MisconfiguredSession:
    """Answers every job with the same config error: a retry, here or elsewhere, would not help."""

    def __init__(self, device: str, error: InvalidInput) -> None:
        self.device = device
        self.redactor = Redactor()
        self._error = error

    async def healthy(self) -> bool:
        return True

    async def run(self, attempt: Attempt) -> Outcome:
        return config_error(Reason.INVALID_INPUT, str(self._error))

    async def release(self) -> None:
        return


class Kept:
    """The processes of a session, held for as long as the event loop turns."""

    def __init__(self, command: Command, log_path: Path) -> None:
        self.output = Output(log_path)
        with ExitStack() as unless_started:
            unless_started.enter_context(self.output)
            self.tree = SupervisedProcess(
                command, kill_at=lease_time() + HOLD_S, output=self.output, keep=True
            )
            unless_started.pop_all()
        self._let_go = keep_alive(self.tree.extend)

    @property
    def lost(self) -> bool:
        """The processes were killed because the agent was frozen, or their guardian died."""
        return self.tree.expired

    async def end(self) -> None:
        self._let_go()
        with self.output:
            await self.tree.end()


def _place(
    target: TargetSettings, project: Path, partition: Partition, directory: Path
) -> PreparedTarget:
    directory = directory.absolute()
    return PreparedTarget(
        target=target,
        project=project,
        directory=directory,
        env=session_environment(target, project, partition, directory),
    )


def _redactor(target: TargetSettings, env: Mapping[str, str]) -> Redactor:
    return Redactor(env[name] for name in target.redact if name in env)


async def _prepare(place: PreparedTarget) -> Kept:
    """Run `prepare`, add its variables to the place. Raises PrepareFailed, and then nothing is left
    running.
    """
    env_file = place.directory / "env"
    try:
        env_file.touch(mode=0o600)
        kept = Kept(
            Command(argv=place.target.prepare, cwd=place.project, env=place.env),
            place.directory / "prepare.log",
        )
    except StartError as error:
        raise PrepareFailed(f"target {place.target.name}: prepare did not run: {error}") from error
    try:
        await _wait_until_prepared(place.target, kept)
        place.env |= read_variables(env_file)
    except BaseException:
        await kept.end()
        raise
    return kept


async def _wait_until_prepared(target: TargetSettings, kept: Kept) -> None:
    tree = kept.tree
    try:
        async with asyncio.timeout(target.prepare_timeout_s):
            await tree.ended.wait()
    except TimeoutError:
        tree.signal(signal.SIGTERM)
        await _wait_briefly(tree.ended)
        await tree.end()
        raise PrepareFailed(
            f"target {target.name}: prepare took longer than {target.prepare_timeout_s:g} s{excerpt(kept.output.tail)}"
        ) from None
    try:
        tree.raise_failure()
    except StartError as error:
        raise PrepareFailed(f"target {target.name}: prepare did not run: {error}") from error
    code, signal_name = tree.exit
    if code != 0:
        await tree.end()  # and with it take what is still in the pipe
        raise PrepareFailed(
            f"target {target.name}: prepare {_how_it_failed(code, signal_name, kept.output.tail)}"
        )


async def _wait_briefly(event: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(TERM_GRACE_S):
            await event.wait()
    except TimeoutError:
        pass  # SIGKILL is next


def open_report(path: Path) -> BinaryIO | None:
    """Open a report of any size; None when there is none. The caller closes it.

    Raises:
        ReportUnusable: It is no regular file, or cannot be opened: a job may have put anything there.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ReportUnusable(f"the report {path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ReportUnusable(f"the report {path} is no regular file")
    return os.fdopen(fd, "rb")


@contextmanager
def report_of(result: ProcessResult, path: Path | None) -> Iterator[BinaryIO | None]:
    """The report of a run, open while it is judged.

    After a stop an unusable report counts as none, because the stop decides what the attempt came
    to.
    """
    try:
        file = open_report(path) if path is not None else None
    except ReportUnusable:
        if result.stopped is None:
            raise
        file = None
    with file or nullcontext():
        yield file


def config_error(reason: str, message: str) -> Outcome:
    return Outcome(verdict=Verdict.CONFIG_ERROR, reason=reason, message=message)


def excerpt(output: bytes) -> str:
    """The last lines of an output, for a message; empty without output."""
    lines = output.decode(errors="replace").strip().splitlines()[-EXCERPT_LINES:]
    return ":\n" + "\n".join(lines)[-EXCERPT_CHARACTERS:] if lines else ""


def _how_it_failed(exit_code: int | None, signal_name: str, output: bytes) -> str:
    how = (
        f"was ended by {signal_name}" if exit_code is None else f"failed with exit code {exit_code}"
    )
    return how + excerpt(output)
