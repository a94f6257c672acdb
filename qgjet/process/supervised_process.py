"""A process tree that ends with its owner: a command, its descendants, and the guardian process
that kills them all.

The guardian (`guardian.py`) ends the tree when it is told to, when its hold runs out, and when this
process dies, freezes or forgets it. Memory is bounded whatever a command prints. The log file is
written on the event loop, so a disk that hangs stops the loop, with it the extensions of the hold,
and so the tree.

What can escape: see `guardian.py`, and a tree whose agent and guardian are killed with SIGKILL at
the same moment: then the command itself still dies, its descendants may not; those in a cgroup end
when the next agent runs its first command. The tree never holds its owner longer than a bound; what
is left then is named in the log.
"""

from __future__ import annotations

import asyncio
import logging
import marshal
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from errno import E2BIG, EACCES, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOEXEC, ENOTDIR
from pathlib import Path
from typing import IO

import psutil
from msgspec import Struct

from qgjet.errors import QgjetError
from qgjet.process import cgroup, supervisor
from qgjet.support.clock import LEASE_CLOCK, LEASE_LOOK_S, lease_time

logger = logging.getLogger(__name__)

TAIL_BYTES = 64 * 1024
LOG_LIMIT_BYTES = 256 * 1024 * 1024
PIECE_BYTES = 64 * 1024
GUARDIAN_GRACE_S = 5.0
"""How long a guardian may take to end a tree that has to end. Then it counts as frozen and is
killed itself.
"""
BURIAL_S = 2.0
"""How long the agent tries to kill what a lost guardian left."""
_LIBRARIES = os.fsencode(Path(psutil.__file__).parents[1])

_LOADER_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""Some builds of Python do not start without them."""
_NOT_A_COMMAND = {E2BIG, EACCES, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOEXEC, ENOTDIR}


class StartError(QgjetError):
    """The command cannot be started, and could not be next time: no such program, not executable,
    no such directory.
    """


class Command(Struct, frozen=True, kw_only=True):
    """What to start. Never goes through a shell."""

    argv: Sequence[str]
    """The first one is looked up in the PATH of `env`, or relative to `cwd` when it has a slash."""
    cwd: Path
    env: Mapping[str, str]
    """The whole environment."""


class Output:
    """Takes what a tree prints: all of it to a listener, the first `log_limit` bytes to a file, the
    last 64 KiB to memory.
    """

    def __init__(
        self,
        log_path: Path | None = None,
        listener: Callable[[bytes], None] | None = None,
        log_limit: int = LOG_LIMIT_BYTES,
    ) -> None:
        self._log = log_path.open("wb", buffering=0) if log_path else None
        self._listener = listener
        self._limit = self._room = log_limit
        self._recent = bytearray()

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        if self._log:
            self._log.close()

    @property
    def tail(self) -> bytes:
        return bytes(self._recent[-TAIL_BYTES:])

    def take(self, data: bytes) -> None:
        """Raises what the listener raises, and OSError when the log cannot be written."""
        self._recent += data
        if len(self._recent) > 2 * TAIL_BYTES:
            del self._recent[:-TAIL_BYTES]
        if self._log and self._room:
            self._write(data)
        if self._listener:
            self._listener(data)

    def _write(self, data: bytes) -> None:
        assert self._log
        kept = memoryview(data)[: self._room]
        self._room -= len(kept)
        while kept:
            kept = kept[self._log.write(kept) :]
        if not self._room:
            self._log.write(
                b"\n[qgjet: the log ends here, it is limited to %d bytes]\n" % self._limit
            )


class SupervisedProcess:
    """A command and all its descendants, seen from the agent that owns them.

    Follows its guardian by callbacks on the event loop and needs no task. `gone` is set in bounded
    time after `end`, `kill` or the hard end, even when the guardian was killed or frozen.
    """

    def __init__(
        self, command: Command, *, kill_at: float, output: Output, keep: bool = False
    ) -> None:
        """Starts at once. With `keep`, processes that the command leaves behind live until `end`,
        `kill` or the hard end.
        """
        self._loop = asyncio.get_running_loop()
        self._command, self._output = command, output
        self._token = secrets.token_hex(8)
        self._cgroup = cgroup.make(self._token)
        self._hold_until = kill_at
        self._inbox = b""
        self._pid: int | None = None
        self._status: int | None = None
        self._failure: Exception | None = None
        self._buried = False
        self._watchdog: asyncio.TimerHandle | None = None
        self.was_stopped = False
        """A signal of ours, or the hard end, found the command alive."""
        self.expired = False
        """The hard end passed, or the guardian was lost: what was left running is not there any
        more.
        """
        self.ended = asyncio.Event()
        """The command has ended. Others of the tree may run on, if they are kept."""
        self.gone = asyncio.Event()
        """Nobody is left and all output is taken."""
        self._process, control, self._report, self._printed = self._start(keep)
        self._control: int | None = control
        self._loop.add_reader(self._report, self._hear)
        self._loop.add_reader(self._printed, self._take)
        self._watch()

    def _start(self, keep: bool) -> tuple[subprocess.Popen[bytes], int, int, int]:
        try:
            directory = self._cgroup.directory if self._cgroup else b""
            return _start_guardian(
                _order(self._command, self._token, self._hold_until, keep, directory)
            )
        except BaseException:
            if self._cgroup:
                self._cgroup.remove()
            raise

    @property
    def exit(self) -> tuple[int | None, str]:
        """(exit code, signal name) of the command; of one whose guardian was lost, (None,
        "SIGKILL").
        """
        if self._status is None:
            return None, "SIGKILL"
        code = os.waitstatus_to_exitcode(self._status)
        return (code, "") if code >= 0 else (None, _signal_name(-code))

    def raise_failure(self) -> None:
        """Raise what went wrong on our side: StartError, OSError, or what the listener raised."""
        if self._failure:
            raise self._failure

    def extend(self, kill_at: float) -> None:
        """Move the hard end. Too late once the tree is being killed."""
        if self._control is not None:
            self._hold_until = kill_at
            self._send(f"until {kill_at!r}")
            self._watch()

    def signal(self, number: int) -> None:
        """To the command's process group, if the command is still running."""
        self._send(f"signal {int(number)}")

    def kill(self) -> None:
        """Have everybody killed, at once. Does not wait; a second call is harmless."""
        if self._control is not None:
            os.close(self._control)
            self._control = None
            self._hold_until = lease_time()
            self._watch()

    async def end(self) -> None:
        """Kill everybody and wait until they are gone. Cancelled, it waits no longer; they die all
        the same.
        """
        self.kill()
        await self.gone.wait()

    def _send(self, line: str) -> None:
        # Lost when the guardian is dead (we are about to notice) or does not read (the hard end
        # stays, and that is the safe side).
        if self._control is not None:
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(self._control, line.encode() + b"\n")

    def _watch(self) -> None:
        """Look after the guardian: one that should have ended its tree by now is frozen. Its end
        shows on the report pipe.
        """
        if self._watchdog:
            self._watchdog.cancel()
        late_s = lease_time() - self._hold_until - GUARDIAN_GRACE_S
        if late_s >= 0:
            self._process.kill()
        else:
            self._watchdog = self._loop.call_later(min(-late_s, LEASE_LOOK_S), self._watch)

    def _take(self) -> None:
        try:
            data = os.read(self._printed, PIECE_BYTES)
            if data:
                self._output.take(data)
            else:
                self._loop.remove_reader(self._printed)
        except BlockingIOError:
            pass
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._loop.remove_reader(self._printed)
        self.kill()

    def _hear(self) -> None:
        try:
            data = os.read(self._report, 4096)
        except BlockingIOError:
            return
        *lines, self._inbox = (self._inbox + data).split(b"\n")
        for line in lines:
            self._note(*line.decode().split())
        if not data:
            self._guardian_ended()

    def _note(self, fact: str, *values: str) -> None:
        match fact:
            case "pid":
                self._pid = int(values[0])
            case "status":
                self._status = int(values[0])
                self.ended.set()
            case "signalled" | "expired":
                self.was_stopped = self.was_stopped or self._status is None
                self.expired = self.expired or fact == "expired"
            case "error":
                self._failure = _start_error(self._command, int(values[0]), values[1])
            case "left":
                logger.warning(
                    "processes of %s could not be killed in time and run on: %s",
                    self._command.argv[0],
                    " ".join(values) or "too short-lived to name",
                )
            case "gone":
                self._buried = True

    def _guardian_ended(self) -> None:
        self.kill()
        if self._watchdog:
            self._watchdog.cancel()
        self._loop.remove_reader(self._report)
        os.close(self._report)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)  # it has closed its pipes, so this is its last moment
        if not self._buried:
            self._bury()
        self._take_the_rest()
        self.ended.set()
        self.gone.set()

    def _bury(self) -> None:
        """The guardian was lost. The kernel has killed the command with it; find and kill the
        others.
        """
        self.expired = True
        if self._pid is None:
            self._failure = self._failure or OSError(
                f"the guardian could not start a process: {self._output.tail.decode(errors='replace')[-500:]}"
            )
        elif self._status is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)
        give_up = time.monotonic() + BURIAL_S
        while (survivors := self._kill_survivors()) or (self._cgroup and self._cgroup.populated):
            if time.monotonic() > give_up:
                logger.warning(
                    "processes of %s, whose guardian was killed, could not be killed in time and run on: %s",
                    self._command.argv[0],
                    survivors,
                )
                return
            time.sleep(0.001)
        if self._cgroup:
            self._cgroup.remove()

    def _kill_survivors(self) -> list[int]:
        if self._cgroup:
            self._cgroup.kill()
        survivors = list(supervisor.marked(self._token))
        for pid in survivors:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        return survivors

    def _take_the_rest(self) -> None:
        """Everybody is dead, what is left is in the pipe. Does not wait for its end: somebody out
        of our reach may hold it open.
        """
        self._loop.remove_reader(self._printed)
        try:
            for _ in range(64):  # 4 MiB, more than any pipe holds
                data = b"" if self._failure else os.read(self._printed, PIECE_BYTES)
                if not data:
                    break
                self._output.take(data)
        except BlockingIOError:
            pass
        except Exception as error:
            self._failure = error
        os.close(self._printed)


def _order(
    command: Command, token: str, kill_at: float, keep: bool, cgroup_directory: bytes
) -> bytes:
    if not command.argv or not command.argv[0]:
        raise StartError("no command is given")
    try:
        argv = [os.fsencode(argument) for argument in command.argv]
        env = {
            os.fsencode(name): os.fsencode(value)
            for name, value in {**command.env, supervisor.TREE_VARIABLE: token}.items()
        }
        cwd = os.fsencode(command.cwd)
    except UnicodeEncodeError as error:
        raise StartError(f"cannot start {command.argv[0]!r}: {error}") from error
    if any(b"\0" in text for text in (*argv, cwd, *env, *env.values())):
        raise StartError(
            f"cannot start {command.argv[0]!r}: a NUL character in its arguments, directory or environment"
        )
    order: supervisor.Order = (
        argv,
        cwd,
        env,
        kill_at,
        keep,
        LEASE_CLOCK,
        cgroup_directory,
        _LIBRARIES,
    )
    return marshal.dumps(order)


def _start_guardian(order: bytes) -> tuple[subprocess.Popen[bytes], int, int, int]:
    """(process, control, report, output): our ends of its pipes, non-blocking."""
    with ExitStack() as ours, ExitStack() as theirs:
        their_control, control = _pipe(theirs, ours)
        report, their_report = _pipe(ours, theirs)
        printed, their_output = _pipe(ours, theirs)
        stdin = theirs.enter_context(_nameless_file())
        stdin.write(order)
        stdin.seek(0)
        process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                "-E",
                supervisor.__file__,
                str(their_control),
                str(their_report),
            ],
            stdin=stdin,
            stdout=their_output,
            stderr=their_output,
            pass_fds=(their_control, their_report),
            cwd="/",
            env={name: os.environ[name] for name in _LOADER_VARIABLES if name in os.environ},
            start_new_session=True,
        )
        for fd in (control, report, printed):
            os.set_blocking(fd, False)
        ours.pop_all()
    return process, control, report, printed


def _nameless_file() -> IO[bytes]:
    """In memory where there is such a thing: the order holds the environment, and the environment
    secrets.
    """
    return (
        os.fdopen(os.memfd_create("order"), "w+b")
        if hasattr(os, "memfd_create")
        else tempfile.TemporaryFile()
    )


def _pipe(reading: ExitStack, writing: ExitStack) -> tuple[int, int]:
    """(readable, writable), each closed with its stack."""
    readable, writable = os.pipe()
    reading.callback(os.close, readable)
    writing.callback(os.close, writable)
    return readable, writable


def _start_error(command: Command, number: int, step: str) -> Exception:
    what = f"cannot start {command.argv[0]!r} in {command.cwd}: {os.strerror(number)}"
    if number not in _NOT_A_COMMAND:
        return OSError(number, what)
    if step == "directory":
        return StartError(f"{what} (the directory)")
    hint = (
        f" (the program, or the interpreter that it names; PATH={command.env.get('PATH', '')})"
        if number == ENOENT
        else ""
    )
    return StartError(what + hint)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"SIG{number}"
