"""Token buckets: so many requests at once, so many per second over time. Pure: the time is passed
in.

Litestar's own rate limit counts in fixed windows (twice the limit passes around their border),
keeps a list of every request in a store without a bound, and runs before anybody knows whose
request it is.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

MAX_KEYS = 10_000


class Buckets:
    """A bucket for each key; the keys that were silent longest are forgotten first, which only ever
    gives them more room.
    """

    def __init__(self, *, rate: float, burst: int, max_keys: int = MAX_KEYS) -> None:
        self._rate, self._burst, self._max_keys = rate, burst, max_keys
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """key -> what was left in its bucket, and when"""

    def take(self, key: str, now: float) -> float:
        """Take one; 0.0, or in how many seconds there will be one to take. A rate of 0 is no limit.
        `now` is monotonic, in seconds.
        """
        if not self._rate:
            return 0.0
        left, at = self._left.pop(key, (float(self._burst), now))
        left = min(left + max(now - at, 0.0) * self._rate, float(self._burst))
        granted = left >= 1.0
        self._left[key] = (left - granted, now)
        if len(self._left) > self._max_keys:
            self._left.popitem(last=False)
        return 0.0 if granted else (1.0 - left) / self._rate

    def __len__(self) -> int:
        return len(self._left)


class Places:
    """At most so many places at the same time for each key."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: Counter[str] = Counter()

    def take(self, key: str) -> bool:
        """False: all are taken."""
        if self._taken[key] >= self._most:
            return False
        self._taken[key] += 1
        return True

    def give_back(self, key: str) -> None:
        self._taken[key] -= 1
        if not self._taken[key]:
            del self._taken[key]
