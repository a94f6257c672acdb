"""Owns one process tree and lets nothing of it outlive its owner.

A program of its own, run by `process.py` as `python -I -S -E guardian.py <control fd> <report fd>`
in a new session. It imports the standard library only and as little of that as it can, because
every job pays for its start. stdin holds the order, marshalled: see `Order`.

Lines on the control pipe: `until <time>` moves the hard end, `signal <number>` goes to the
command's process group. Its end of file is the order to kill: the owner is dead, or wants it so.
Lines on the report pipe: `pid <n>`; `error <errno> directory|program` when the command could not be
started; `signalled` when a signal found the command alive; `expired` when the hard end passed;
`status <wait status>` of the command; `left <pid> <name> ...` when processes could not be killed in
`KILL_LIMIT_S`, which may find none by name; `gone`, the last one, when the guardian has killed what
it can.

The tree gets SIGKILL when the control pipe ends, when the hard end passes, when somebody asks the
guardian to end (TERM, INT, HUP) and, unless it is to keep what the command leaves behind, when the
command has ended. On Linux the tree has a cgroup where its owner can make one, and the kernel kills
all of it at once: no process can outrun that. On Linux the guardian is also the subreaper of its
descendants: a process that daemonizes stays its descendant, and the tree is only `gone` when the
kernel reports no child. A guardian that is itself killed takes the command with it
(PR_SET_PDEATHSIG); the rest of the tree is then its owner's to kill. Elsewhere (macOS) psutil finds
the children and each process that has the tree's mark in its environment.

Without a cgroup, processes that multiply faster than the guardian kills can outlive it: it gives up
after `KILL_LIMIT_S`, so that they hold no slot. Out of reach everywhere: processes that became
another user, that cleared their environment (macOS), and work handed to a daemon that was running
before.
"""

from __future__ import annotations

import marshal
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LONGEST_NAP_S = 0.25
"""Polling stands still while the host is suspended, the clock of the hard end does not: by this
much it may be late.
"""
MOST_REAPED = 4096
"""At one go."""
MOST_NAMED = 10
"""Of the processes that could not be killed."""
KILL_LIMIT_S = 4.0
"""How long the guardian kills. Shorter than the time after which its owner counts it as frozen."""
TREE_VARIABLE = "QGJET_TREE"
"""Marks every process of a tree."""

Order = tuple[list[bytes], bytes, dict[bytes, bytes], float, bool, int, bytes, bytes]
"""argv, working directory, environment, hard end, keep what the command leaves behind, clock of the
hard end, directory of the tree's cgroup (empty: none), directory that psutil is imported from.
"""


def main() -> None:
    order: Order = marshal.loads(sys.stdin.buffer.read())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    Supervisor(int(sys.argv[1]), int(sys.argv[2]), order).guard()
    os._exit(0)  # the owner waits for our end: no time for an orderly interpreter shutdown


class Cgroup:
    """A tree's own. Of a kernel that has `cgroup.kill`."""

    def __init__(self, directory: bytes) -> None:
        self.directory = directory

    def enter(self) -> None:
        """Move this process into it. Raises OSError."""
        self._write(b"cgroup.procs", b"0")

    def kill(self) -> None:
        """SIGKILL all processes in it and below it at once, also those that are forking."""
        with suppress(OSError):
            self._write(b"cgroup.kill", b"1")

    @property
    def populated(self) -> bool:
        with suppress(OSError), open(self.directory + b"/cgroup.events", "rb") as file:  # noqa: PTH123 - as in `_processes`
            return b"populated 1" in file.read()
        return False

    def remove(self) -> None:
        """With those that its processes made below it."""
        with suppress(OSError):
            for directory, _, _ in os.walk(self.directory, topdown=False):
                os.rmdir(directory)  # noqa: PTH106 - as in `_processes`

    def _write(self, name: bytes, value: bytes) -> None:
        with open(self.directory + b"/" + name, "wb", buffering=0) as file:  # noqa: PTH123 - as in `_processes`
            file.write(value)


class Supervisor:
    def __init__(self, control: int, report: int, order: Order) -> None:
        for fd in (control, report):
            os.set_inheritable(fd, False)
        self.control, self.report, self.order = control, report, order
        *_, self.kill_at, self.keep, self.clock, cgroup, libraries = order
        self.cgroup = Cgroup(cgroup) if cgroup else None
        sys.path.append(os.fsdecode(libraries))
        self.adopts = _prctl(PR_SET_CHILD_SUBREAPER, 1)
        self.wake = _wake_on_signals()
        self.inbox = b""
        self.child = 0
        self.status: int | None = None
        self.collected = False
        """Whether the last `reap` has collected all who were dead."""
        self.over = False

    def guard(self) -> None:
        if (
            self.left_s() <= 0.0
        ):  # the agent stood still before it came to this, and the job may be another one's
            self.tell("expired")
            if self.cgroup:
                self.cgroup.remove()
            self.tell("gone")
            return
        self.start()
        poller = select.poll()
        poller.register(self.control, select.POLLIN)
        poller.register(self.wake, select.POLLIN)
        while not self.over:
            nap_s = min(max(self.left_s(), 0.0), LONGEST_NAP_S)
            for fd, _ in poller.poll(nap_s * 1000):
                self.obey() if fd == self.control else self.notice()
            if not self.over and self.left_s() <= 0.0:
                self.reap()  # a command that has ended by itself is reported first: its own result stands
                self.tell("expired")
                self.over = True
        self.kill_everybody()
        self.tell("gone")

    def left_s(self) -> float:
        return self.kill_at - time.clock_gettime(self.clock)

    def start(self) -> None:
        # Blocked over the fork, or a signal that comes before exec would run our handler in the
        # child and be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, (*ENDINGS, signal.SIGCHLD))
        guardian = os.getpid()
        self.child = os.fork()
        if self.child == 0:
            self.become_the_command(guardian)
        with suppress(OSError):  # the child was first and has called exec already
            os.setpgid(
                self.child, self.child
            )  # here and in the child, so that the group exists from now on
        self.tell(f"pid {self.child}")
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*ENDINGS, signal.SIGCHLD))

    def become_the_command(self, guardian: int) -> None:
        argv, cwd, env, *_ = self.order
        step = "program"
        try:
            os.setpgid(0, 0)
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if (
                os.getppid() == guardian
            ):  # else it died before the line above and nobody would kill us
                _forget_signal_handling()
                self.enter_the_cgroup()
                step = "directory"
                os.chdir(cwd)
                step = "program"
                os.execvpe(argv[0], argv, env)
        except OSError as error:
            self.tell(f"error {error.errno} {step}")
        finally:
            os._exit(127)

    def enter_the_cgroup(self) -> None:
        with suppress(
            OSError
        ):  # not allowed after all: the guardian finds the tree by its descendants
            if self.cgroup:
                self.cgroup.enter()

    def obey(self) -> None:
        data = os.read(self.control, 65536)
        self.over = self.over or not data
        *lines, self.inbox = (self.inbox + data).split(b"\n")
        for line in lines:
            verb, value = line.split()
            if verb == b"until":
                self.kill_at = float(value)
            elif verb == b"signal":
                self.pass_on(int(value))

    def pass_on(self, number: int) -> None:
        self.reap()
        if self.status is None:  # not reaped, so its number still is its own
            _send(os.killpg, self.child, number)
            self.tell("signalled")

    def notice(self) -> None:
        """React to signals: the death of a child, or somebody who wants us to end."""
        asked_to_end = any(number in ENDINGS for number in os.read(self.wake, 512))
        anybody = self.reap()
        ended = self.status is not None and not self.keep
        self.over = self.over or asked_to_end or ended or (self.adopts and not anybody)

    def reap(self) -> bool:
        """Collect who has died, but not for ever where processes die as quickly as that; report the
        command; whether any child is left.
        """
        for _ in range(MOST_REAPED):
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.collected = True
                return False
            if pid == 0:
                self.collected = True
                return True
            if (
                pid == self.child and self.status is None
            ):  # a later process may have got the same number
                self.status = status
                self.tell(f"status {status}")
        self.collected = False
        return True

    def kill_everybody(self) -> None:
        """Until no process is left, or the time for it is over."""
        give_up = time.monotonic() + KILL_LIMIT_S
        # A reaped command's number may be another process's by now. Only where there are no
        # adoptions the group is all there is to go by.
        if self.status is None or not self.adopts:
            _send(os.killpg, self.child, signal.SIGKILL)
            self.wait_for_a_death(0.01)
        while self.kill_once():
            self.wait_for_a_death(0.002)
            if time.monotonic() > give_up:
                self.tell("left " + " ".join(islice(_named(self.survivors()), MOST_NAMED)))
                return
        if self.cgroup:
            self.cgroup.remove()

    def kill_once(self) -> bool:
        """Whether a process was left before."""
        populated = self.cgroup is not None and self.cgroup.populated
        if self.cgroup and populated:
            self.cgroup.kill()
        children = self.reap()
        if not self.adopts:
            return self.kill_marked() or children or populated
        if children and not populated:  # without a cgroup, or it has left it
            self.kill_children()
            if self.collected:
                self.kill_descendants()
        return children or populated

    def kill_children(self) -> None:
        """By one short read: a chain of processes that each fork and exit is quicker than a walk
        through /proc, and its living end is always a child.
        """
        for pid in _children():
            _send(os.kill, pid, signal.SIGKILL)

    def kill_descendants(self) -> None:
        own_group = os.getpgrp()
        for pid, group in descendants(os.getpid()):
            _send(os.kill, pid, signal.SIGKILL)
            if group != own_group:
                _send(
                    os.killpg, group, signal.SIGKILL
                )  # at one go, so that a group cannot outgrow us by forking

    def kill_marked(self) -> bool:
        """Whether there was a process. All are stopped before the first one dies, because a death
        cuts the link to the children.
        """
        stopped: set[int] = set()
        give_up = time.monotonic() + 1.0
        fresh = True
        while fresh and time.monotonic() < give_up:
            fresh = False
            for pid in self.survivors():
                if pid not in stopped:
                    _send(os.kill, pid, signal.SIGSTOP)
                    stopped.add(pid)
                    fresh = True
        for pid in stopped:
            _send(os.kill, pid, signal.SIGKILL)
        return bool(stopped)

    def survivors(self) -> Iterator[int]:
        if self.adopts:
            yield from (pid for pid, _ in descendants(os.getpid()))
        else:
            yield from marked(
                os.fsdecode(self.order[2][os.fsencode(TREE_VARIABLE)]), parent=os.getpid()
            )

    def wait_for_a_death(self, patience_s: float) -> None:
        if select.select([self.wake], [], [], patience_s)[0]:
            os.read(self.wake, 512)

    def tell(self, line: str) -> None:
        with suppress(OSError):  # a dead owner does not listen; its tree ends all the same
            os.write(self.report, line.encode() + b"\n")


def descendants(ancestor: int) -> list[tuple[int, int]]:
    """(pid, process group) of all living descendants, from /proc; empty where there is none."""
    children: dict[int, list[tuple[int, int]]] = {}
    for pid, parent, group in _processes():
        children.setdefault(parent, []).append((pid, group))
    found = children.get(ancestor, [])[:]
    for pid, _ in found:  # grows while it is walked
        found += children.get(pid, ())
    return found


def marked(token: str, parent: int | None = None) -> Iterator[int]:
    """Living processes of a tree by its mark, and children of `parent`: the system's own programs
    hide their environment on macOS. The newest first: of a chain of processes the others are dead
    by now.
    """
    import psutil

    for pid in sorted(psutil.pids(), reverse=True):
        with suppress(psutil.Error, OSError):  # gone since the listing, or another user's
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE and (
                process.ppid() == parent or process.environ().get(TREE_VARIABLE) == token
            ):
                yield pid


def _children() -> list[int]:
    """Of this process, dead ones too; empty where the kernel does not list them."""
    pid = os.getpid()
    with suppress(OSError), open(f"/proc/{pid}/task/{pid}/children", "rb") as file:  # noqa: PTH123 - as in `_processes`
        return [int(child) for child in file.read().split()]
    return []


def _named(pids: Iterator[int]) -> Iterator[str]:
    """`<pid> <name>` of those who live."""
    import psutil

    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE:
                yield f"{pid} {'_'.join(process.name().split())}"


def _processes() -> list[tuple[int, int, int]]:
    found = []
    names = os.listdir("/proc") if os.path.isdir("/proc") else []  # noqa: PTH112, PTH208 - importing pathlib costs 3 ms at every start
    for name in filter(str.isdigit, names):
        with suppress(OSError):  # gone since the listing
            with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - as above
                stat = file.read()
            _state, parent, group = stat[stat.rindex(b")") + 2 :].split(None, 3)[:3]
            found.append((int(name), int(parent), int(group)))
    return found


def _send(kill: Callable[[int, int], None], target: int, number: int) -> None:
    with suppress(
        ProcessLookupError, PermissionError
    ):  # dead already, or another user's and out of reach
        kill(target, number)


def _prctl(option: int, value: int) -> bool:
    """Whether the kernel agreed; False wherever there is no prctl."""
    if sys.platform != "linux":
        return False
    import ctypes

    rest = [ctypes.c_ulong(argument) for argument in (value, 0, 0, 0)]
    return bool(ctypes.CDLL(None).prctl(option, *rest) == 0)


def _wake_on_signals() -> int:
    """The reading end of a pipe that gets one byte, its number, for every signal."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    for number in (*ENDINGS, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return readable


def _forget_signal_handling() -> None:
    """Every signal back to its default and unblocked: an agent started with nohup or `&` ignores
    some, and children inherit that.
    """
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


if __name__ == "__main__":
    main()
