"""Which lane a free slot takes next. Pure: everything it knows is passed in.

Best rank first; at equal rank the partition that is warm; then the org whose turn it is; then the
longest waiting. After `batch` jobs in a row a warm partition loses its precedence for one choice,
so that a long queue of one app version cannot keep all others of its rank waiting.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping

from msgspec import Struct

from qgjet.domain.events import Partition
from qgjet.domain.subjects import Lane

EVERY_VERSION = "all"


class Waiting(Struct, frozen=True, kw_only=True):
    """A lane that is believed to have deliverable jobs."""

    lane: Lane
    since: int
    """Stream sequence: the lower, the longer it waits."""


MAX_ORGS = 1_000
"""Above that, orgs whose turn is over are forgotten; they are treated as new ones, which changes
nothing.
"""


class Turns:
    """Whose turn it is between orgs: start-time fair queueing with equal shares.

    An org that was away does not save up turns, and one that comes new does not wait for the
    others' past.
    """

    def __init__(self) -> None:
        self._now = 0
        self._ends: dict[str, int] = {}

    def of(self, org_id: str) -> int:
        """The lower, the sooner."""
        return max(self._now, self._ends.get(org_id, 0))

    def take(self, org_id: str) -> None:
        """Record that a job of `org_id` was given a slot."""
        self._now = self.of(org_id)
        self._ends[org_id] = self._now + 1
        if len(self._ends) > MAX_ORGS:
            self._ends = {org_id: end for org_id, end in self._ends.items() if end > self._now}


class Bench(Struct, frozen=True, kw_only=True):
    """What there is to give: the free slots of an agent."""

    free_targets: Collection[str]
    """Targets with a slot free."""
    warm: Mapping[Partition, int] = {}
    """Partition prepared in a free slot -> jobs it has run there in a row."""
    warm_busy: Container[Partition] = ()
    """Partitions prepared in slots that are busy now, and will come back for them."""
    cooling: Collection[Partition] = ()
    """Partitions that could not be prepared here lately: others shall have a try first."""
    batch: int = 3


def choose(waiting: Iterable[Waiting], bench: Bench, turns: Turns) -> Waiting | None:
    """The lane to take from next; None when nothing suits a free slot."""
    suitable = (one for one in waiting if _suits(one.lane.partition, bench))
    return min(suitable, key=lambda one: _order(one, bench, turns), default=None)


def _suits(partition: Partition, bench: Bench) -> bool:
    return partition.target in bench.free_targets and partition not in bench.cooling


def _order(one: Waiting, bench: Bench, turns: Turns) -> tuple[int, int, int, int, Lane]:
    partition = one.lane.partition
    return (
        one.lane.rank,
        _distance(partition, bench),
        turns.of(partition.org_id),
        one.since,
        one.lane,
    )


def _distance(partition: Partition, bench: Bench) -> int:
    """0: warm, and its batch not used up; 1: no claim; 2: warm in a slot that will come back for
    it.
    """
    in_a_row = bench.warm.get(partition)
    if in_a_row is not None:
        return 0 if in_a_row < bench.batch else 1
    return 2 if partition in bench.warm_busy else 1
