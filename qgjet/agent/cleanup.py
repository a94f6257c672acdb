"""Removing what jobs leave behind: trees of any depth, and the directories of agents that were
killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import logging
import os
import secrets
import stat
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

LOCK = ".lock"
"""In a directory of a process, locked by it for as long as it lives."""
_MODE = 0o700


async def remove(path: str | Path) -> None:
    """`remove_tree` beside the event loop; on it where the system has no thread left."""
    try:
        await asyncio.to_thread(remove_tree, path)
    except RuntimeError:
        remove_tree(path)


def remove_tree(path: str | Path) -> None:
    """Remove a file or a directory with all it holds, without following a symlink. Never raises:
    what cannot be removed is logged, once.

    Its depth does not matter: the directories in a directory are moved up to the top before it is
    removed, so no path gets long, no more than two directories are open, and nothing recurs.
    """
    try:
        left = _remove(Path(path))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:  # a ValueError for a path that holds a null byte
        log.warning("%s could not be removed: %s", path, getattr(error, "strerror", None) or error)
        return
    if left:
        log.warning(
            "%s could not be removed: %d entries in it stay, the first is %s",
            path,
            len(left),
            os.fsdecode(left[0]),
        )


def _remove(path: Path) -> list[bytes]:
    """Names of what stays below the top. Raises OSError."""
    if not stat.S_ISDIR(path.lstat().st_mode):
        path.unlink()
        return []
    with _opened(os.fsencode(path)) as top:
        left = _empty(top)
    if not left:
        path.rmdir()
    return left


def _empty(top: int) -> list[bytes]:
    """Remove everything in a directory; gives the names of what stays."""
    left: list[bytes] = []
    prefix = f"{secrets.token_hex(8)}-".encode()
    new_names = (prefix + b"%d" % number for number in itertools.count())
    todo = deque(_names(top))
    while todo:
        name = todo.popleft()
        try:
            if not _is_directory(name, top):
                os.unlink(name, dir_fd=top)
                continue
            with _opened(name, top) as directory:
                todo += [
                    moved
                    for inner in _names(directory)
                    if (moved := _take_out(inner, directory, next(new_names), top))
                ]
            os.rmdir(name, dir_fd=top)
        except OSError:
            left.append(name)
    return left


def _take_out(name: bytes, directory: int, new_name: bytes, top: int) -> bytes:
    """Remove a file, or move a directory up to the top and give its new name. What does neither
    stays, and its directory with it.
    """
    with contextlib.suppress(OSError):
        if _is_directory(name, directory):
            _move(name, directory, new_name, top)
            return new_name
        os.unlink(name, dir_fd=directory)
    return b""


def _names(directory: int) -> list[bytes]:
    with os.scandir(directory) as entries:
        return [os.fsencode(entry.name) for entry in entries]


def _is_directory(name: bytes, parent: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _move(name: bytes, parent: int, new_name: bytes, new_parent: int) -> None:
    """A directory that is moved is changed, as `..` is an entry of it."""
    try:
        os.rename(name, new_name, src_dir_fd=parent, dst_dir_fd=new_parent)
    except PermissionError:
        os.chmod(name, _MODE, dir_fd=parent)
        os.rename(name, new_name, src_dir_fd=parent, dst_dir_fd=new_parent)


@contextlib.contextmanager
def _opened(name: bytes, parent: int | None = None) -> Iterator[int]:
    """A directory, open and writable for its owner. Raises OSError for a symlink."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=parent)
    except PermissionError:
        os.chmod(name, _MODE, dir_fd=parent)
        fd = os.open(name, flags, dir_fd=parent)
    try:
        if os.fstat(fd).st_mode & _MODE != _MODE:
            os.fchmod(fd, _MODE)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def own_directory(parent: Path, prefix: str) -> Iterator[Path]:
    """A new directory for this process, removed at the end of the block. Those of the same prefix
    whose processes were killed are removed meanwhile.

    A process holds a lock on a file in its directory, which the system releases however the process
    ends. Raises OSError if it cannot be created.
    """
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    lock = _lock(path)
    try:
        with contextlib.suppress(RuntimeError):  # no thread is left: the next start removes them
            threading.Thread(
                target=remove_abandoned, args=(parent, prefix), daemon=True, name="cleanup"
            ).start()
        yield path
    finally:
        remove_tree(path)
        os.close(lock)


def _lock(path: Path) -> int:
    """Locked before it has its name: another process never sees it unlocked while this one lives."""
    unnamed = path / f"{LOCK}.new"
    fd = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    unnamed.rename(path / LOCK)
    return fd


def remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove the directories of processes that were killed: of this user, and with a lock that no
    process holds. Never raises.
    """
    with contextlib.suppress(OSError):
        for path in list(parent.glob(f"{prefix}*")):
            if _is_abandoned(path):
                log.info("removing %s: its process was killed", path)
                remove_tree(path)


def _is_abandoned(path: Path) -> bool:
    """False for a directory without a lock: it is being created, or of an older version."""
    try:
        if path.is_symlink() or path.stat().st_uid != os.getuid():
            return False
        fd = os.open(path / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
