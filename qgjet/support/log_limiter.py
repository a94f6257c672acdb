"""Complaints that come again and again: hours without a server, or a full disk, must not fill a
disk with log lines.
"""

from __future__ import annotations

import logging
import time

AGAIN_S = 60.0
MOST = 20


class _Said:
    def __init__(self, at: float) -> None:
        self.at = at
        self.held_back = 0


class LogLimiter:
    """`warn` logs a new text at once, one that it has logged before a minute later at the earliest,
    and no more than MOST texts in a minute.
    """

    def __init__(self, log: logging.Logger, *, again_s: float = AGAIN_S) -> None:
        self._log = log
        self._again_s = again_s
        self._said: dict[str, _Said] = {}
        """At most MOST texts, the last ones, oldest first."""
        self._others = 0

    def warn(self, text: str, *, exc_info: bool = False) -> None:
        now = time.monotonic()
        before = self._said.get(text)
        if before is not None and now - before.at < self._again_s:
            before.held_back += 1
            return
        oldest = next(iter(self._said.values()), None)
        if (
            len(self._said) == MOST
            and before is None
            and oldest is not None
            and now - oldest.at < self._again_s
        ):
            self._others += 1
            return
        if before is None and len(self._said) == MOST:
            del self._said[next(iter(self._said))]
        self._said.pop(text, None)
        self._said[text] = _Said(now)
        more = (
            f" (and {before.held_back} times since the last such line)"
            if before is not None and before.held_back
            else ""
        )
        others, self._others = self._others, 0
        more += f" (and {others} other lines were held back)" if others else ""
        self._log.warning("%s%s", text, more, exc_info=exc_info)

    def over(self) -> None:
        """It went well: the next complaint is a new one."""
        self._said.clear()
        self._others = 0
