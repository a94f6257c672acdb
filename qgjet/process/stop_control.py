"""Ends a process tree before its time: by a request that names its reason, or by a time after which
nobody asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum


class StopReason(StrEnum):
    """Why a running attempt was told to end before its time."""

    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    LEASE_LOST = "lease_lost"
    DRAINED = "drained"


class StopControl:
    """Ties a process tree to the agent's hold on its job.

    Two ways to end it: `stop(reason)` asks politely and once (the first reason stays), and
    `kill_at`, a reading of `lease_time()`, after which the tree is killed without question. A
    holder that freezes or dies stops extending, so its processes end before the job is given to
    somebody else.
    """

    def __init__(self, kill_at: float) -> None:
        self.kill_at = kill_at
        self.reason: StopReason | None = None
        self._stopped = asyncio.Event()
        self._followers: list[Callable[[float], None]] = []

    def extend(self, kill_at: float) -> None:
        """Move the hard end. Followers are told at once."""
        self.kill_at = kill_at
        for follower in self._followers:
            follower(kill_at)

    def follow(self, follower: Callable[[float], None]) -> Callable[[], None]:
        """Call `follower(kill_at)` now and at every extension, until the returned function is
        called.
        """
        self._followers.append(follower)
        follower(self.kill_at)
        return lambda: self._followers.remove(follower)

    def stop(self, reason: StopReason) -> None:
        """Ask the tree to end. A second call changes nothing."""
        if self.reason is None:
            self.reason = reason
            self._stopped.set()

    async def stopped(self) -> StopReason:
        """Wait until somebody asks for the end; gives the reason."""
        await self._stopped.wait()
        assert self.reason is not None
        return self.reason
