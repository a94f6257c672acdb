"""Keeps two jobs from writing the same report at the same time, also jobs of two agents on one
host.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import logging
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from qgjet.process.stop_control import StopControl

log = logging.getLogger(__name__)

_LOOK_S = 0.1


@contextlib.asynccontextmanager
async def own_report(path: Path, stop_control: StopControl) -> AsyncIterator[bool]:
    """Hold the report at `path` for one job.

    Gives False when the job was stopped before it was free: then it must not run. The hold is a
    lock of the operating system, so it ends with the agent, also after `kill -9`.
    """
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
    fd = os.open(
        Path(tempfile.gettempdir()) / f"qgjet-report-{os.getuid()}-{name}.lock",
        os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW,
        0o600,
    )
    try:
        yield await _locked(fd, path, stop_control)
    finally:
        os.close(fd)


async def _locked(fd: int, path: Path, stop_control: StopControl) -> bool:
    waits = False
    while stop_control.reason is None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not waits:
                log.warning("report in use path=%s: another job writes it, waiting", path)
            waits = True
            await asyncio.sleep(_LOOK_S)
        else:
            return True
    return False
