"""What is in force for everybody on one server."""

from __future__ import annotations

from msgspec import Struct

DEFAULT_VISIBILITY_TIMEOUT_S = 30.0
DEFAULT_MAX_DELIVER = 20
DEFAULT_RETENTION_S = 14 * 86_400.0
DEFAULT_LOG_RETENTION_S = 7 * 86_400.0
DEFAULT_EVENT_RETENTION_S = 90 * 86_400.0
MIN_EVENT_RETENTION_S = 86_400.0
"""Clients that wait, rerun or repeat a request look for finished jobs; clocks of agents differ by
minutes, not by a day.
"""


class Deployment(Struct, frozen=True, kw_only=True):
    """What everybody on one server has to agree on; stored with the log's stream by whoever comes
    first.
    """

    priority_order: str = "low-first"
    """`low-first`: 0 is the most urgent; `high-first`: 9 is."""
    replicas: int = 1
    max_consumers: int = 10_000
    """Explicit, because 2.15 limits a stream to 1000 consumers otherwise."""
    agents_ttl_s: float = 30.0
    visibility_timeout_s: float = DEFAULT_VISIBILITY_TIMEOUT_S
    next_visibility_timeout_s: float = 0.0
    """A shorter one that agents adopt before consumers get it; 0: none."""
    max_deliver: int = DEFAULT_MAX_DELIVER
    retention_s: float = DEFAULT_EVENT_RETENTION_S
    """What the log remembers of jobs that have ended; 0: all of it, for ever."""
    artifact_retention_s: float = DEFAULT_RETENTION_S
    """This one and the next are used when the streams are made; those that are there keep theirs.
    """
    log_retention_s: float = DEFAULT_LOG_RETENTION_S

    @property
    def lease_timeout_s(self) -> float:
        """What agents keep to; never longer than what consumers wait for."""
        return self.next_visibility_timeout_s or self.visibility_timeout_s

    def rank(self, priority: int) -> int:
        """Priority 0-9 to rank: 0 runs first."""
        return priority if self.priority_order == "low-first" else 9 - priority
