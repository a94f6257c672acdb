"""Complaints that come again and again: hours without a server must not fill a disk with log lines."""

from __future__ import annotations

import logging
import time

AGAIN_S = 60.0


class Repeated:
    """`warn` says a new text at once, and one that it has said before a minute later at the earliest."""

    def __init__(self, log: logging.Logger, *, again_s: float = AGAIN_S) -> None:
        self._log = log
        self._again_s = again_s
        self._said = ""
        self._said_at = 0.0
        self._held_back = 0

    def warn(self, text: str) -> None:
        now = time.monotonic()
        if text == self._said and now - self._said_at < self._again_s:
            self._held_back += 1
            return
        more = f" (and {self._held_back} times since the last such line)" if text == self._said and self._held_back else ""
        self._said, self._said_at, self._held_back = text, now, 0
        self._log.warning("%s%s", text, more)

    def over(self) -> None:
        """It went well: the next complaint is a new one."""
        self._said, self._held_back = "", 0
