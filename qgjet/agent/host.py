"""Whether the agent's host can run jobs at all, and how long the agent leaves them to others when
it cannot.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from datetime import datetime
from pathlib import Path

from qgjet.errors import HostFailed
from qgjet.support import private_files
from qgjet.support.clock import Clock
from qgjet.support.log_limiter import LogLimiter

log = logging.getLogger(__name__)

FIRST_DELAY_S = 1.0
MAX_DELAY_S = 300.0
"""After each failure without a job in between the delay doubles, up to this."""
CHECK_INTERVAL_S = 1.0
_PROBE = bytes(4096)
"""A file system that is full takes an empty file, often."""


class Host:
    """The work directory, and the failures of this host: a full disk, a directory that is gone, no
    processes or files left.
    """

    def __init__(self, work_dir: Path, clock: Clock) -> None:
        self._work_dir = work_dir
        self._clock = clock
        self._delay_s = 0.0
        self._until = 0.0
        self._checked_at = float("-inf")
        self._complaints = LogLimiter(log)
        self.problem = ""
        """What the host cannot do; empty while it is well."""
        self.problem_since: datetime | None = None

    def backs_off_s(self) -> float:
        """How long no job is to be taken; 0.0: now. Looks at the work directory, at most once a
        second.
        """
        now = time.monotonic()
        if now < self._until:
            return self._until - now
        if now - self._checked_at >= CHECK_INTERVAL_S or self.problem:
            try:
                check(self._work_dir)
            except HostFailed as failure:
                return self.failed(str(failure))
            self._checked_at = now
        return 0.0

    def failed(self, problem: str) -> float:
        """Take no job for a while, longer each time; gives the delay in seconds."""
        now = time.monotonic()
        if now < self._until:  # another slot has reported it
            return self._until - now
        self._delay_s = min(2 * self._delay_s or FIRST_DELAY_S, MAX_DELAY_S)
        self._until = now + self._delay_s
        if not self.problem:
            self.problem_since = self._clock()
        self.problem = problem
        self._complaints.warn(f"this host cannot run jobs, the agent takes none for now: {problem}")
        return self._delay_s

    def ran(self) -> None:
        """A job's process ran: the host is well."""
        if self.problem:
            log.info("this host runs jobs again")
        self._delay_s, self.problem, self.problem_since = 0.0, "", None
        self._complaints.over()


def check(work_dir: Path) -> None:
    """Create the work directory if it is missing, and write a file in it. Raises HostFailed."""
    try:
        private_files.make_directory(work_dir)
        fd, name = tempfile.mkstemp(prefix=".check-", dir=work_dir)
        try:
            os.write(fd, _PROBE)
        finally:
            os.close(fd)
            with contextlib.suppress(OSError):
                Path(name).unlink()
    except OSError as error:
        raise HostFailed(
            f"the work directory {work_dir} cannot be used: {error.strerror or error}"
        ) from error
