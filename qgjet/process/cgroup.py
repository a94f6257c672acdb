"""Where cgroup v2 lets a process tree have a cgroup of its own (Linux): the kernel then keeps every
descendant in it, whatever it forks or calls.

Needs a cgroup that belongs to this user, such as a systemd service with `Delegate=yes` or a
privileged container gives it, and Linux 5.14 (`cgroup.kill`).
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

from qgjet.process.supervisor import Cgroup

PREFIX = "qgjet-"


def make(name: str) -> Cgroup | None:
    """A new cgroup below this process's own; None where there cannot be one."""
    parent = _own_directory()
    if parent is None or not os.access(parent / "cgroup.procs", os.W_OK):
        return None
    end_those_of_dead_agents(parent)
    directory = parent / f"{PREFIX}{os.getpid()}-{name}"
    cgroup = Cgroup(os.fsencode(directory))
    try:
        directory.mkdir()
    except OSError:  # read-only, or there are as many as there may be
        return None
    if (directory / "cgroup.kill").exists():
        return cgroup
    cgroup.remove()
    return None


@cache
def end_those_of_dead_agents(parent: Path) -> None:
    """Kill what an agent left that was killed together with its guardian. Once per process and
    directory.
    """
    for directory in parent.glob(f"{PREFIX}*-*"):
        owner = directory.name.split("-")[1]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            left = Cgroup(os.fsencode(directory))
            left.kill()
            left.remove()


def _own_directory() -> Path | None:
    with suppress(OSError):
        own = next(
            (
                line[3:]
                for line in Path("/proc/self/cgroup").read_text().splitlines()
                if line.startswith("0::")
            ),
            None,
        )
        if own is not None:
            return find(own, Path("/proc/self/mountinfo").read_text())
    return None


def find(own: str, mounts: str) -> Path | None:
    """The directory of the cgroup `own`, given the text of /proc/self/mountinfo; None when it is
    mounted nowhere.
    """
    for mount in mounts.splitlines():
        place, _, source = mount.partition(" - ")
        if source.startswith("cgroup2 "):
            root, point = map(Path, place.split()[3:5])
            if Path(own).is_relative_to(root) and ".." not in Path(own).parts:
                return point / Path(own).relative_to(root)
    return None
