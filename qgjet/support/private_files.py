"""Directories and files that only their owner may use, whatever the umask."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_directory(path: Path) -> None:
    """Create a directory with mode 0700. One that exists keeps its mode: it may hold files of other
    programs.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def create(path: Path) -> BinaryIO:
    """Open a file of mode 0600 for writing; what it held is gone."""
    file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
    tighten(path)
    return file


def tighten(path: Path) -> None:
    """Take the access of the group and of others from a file or directory, as older versions
    created it. A missing one is ignored.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & _OTHERS:
            path.chmod(mode & ~_OTHERS)
    except FileNotFoundError:
        pass
    except PermissionError as error:
        log.warning("%s stays open to other users: %s", path, error.strerror)
