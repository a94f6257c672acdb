"""What an agent believes about the lanes it serves: which have work, and since when. Beliefs may be
wrong both ways; taking from a lane corrects them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from qgjet.agent.scheduling import EVERY_VERSION, Waiting
from qgjet.domain.subjects import Lane
from qgjet.store.job_queue import QueueState


class _Belief:
    __slots__ = ("rung", "since", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self.since = 0
        self.rung = False


class Catalog:
    """Lanes of some targets, and of one app version or all."""

    def __init__(self, targets: Collection[str], app_version_id: str = EVERY_VERSION) -> None:
        self._targets = frozenset(targets)
        self._app_version_id = app_version_id
        self._beliefs: dict[Lane, _Belief] = {}
        self.running: Counter[Lane] = Counter()
        """Deliveries that this agent holds."""

    def serves(self, lane: Lane) -> bool:
        partition = lane.partition
        return partition.target in self._targets and self._app_version_id in (
            EVERY_VERSION,
            partition.app_version_id,
        )

    def ring(self, lane: Lane) -> bool:
        """A job was submitted, or is due again. False when the lane is not served here."""
        if not self.serves(lane):
            return False
        belief = self._beliefs.setdefault(lane, _Belief())
        belief.waiting += 1
        belief.rung = True
        return True

    def refresh(self, states: Iterable[QueueState]) -> None:
        """Take over what the server says about all lanes.

        An unacknowledged message that nobody here holds may be due for redelivery: that is worth a
        look, as no bell rings for it.
        """
        self._beliefs = {lane: belief for lane, belief in self._beliefs.items() if belief.rung}
        for state in states:
            if not self.serves(state.lane):
                continue
            held_elsewhere = state.unacknowledged > self.running[state.lane]
            if state.pending or held_elsewhere:
                belief = self._beliefs.setdefault(state.lane, _Belief())
                belief.waiting = max(belief.waiting, state.pending + held_elsewhere)
                belief.since = state.since

    def take(self, lane: Lane) -> bool:
        """Account for one attempt to take from the lane; True when a bell has just rung for it,
        whose message may not be stored yet.
        """
        belief = self._beliefs[lane]
        belief.waiting -= 1
        rung, belief.rung = belief.rung, False
        return rung

    def taken(self, lane: Lane, *, since: int, pending: int) -> None:
        """A delivery said that `pending` more wait behind it."""
        belief = self._beliefs.setdefault(lane, _Belief())
        belief.since = since
        belief.waiting = max(belief.waiting, pending)

    def empty(self, lane: Lane) -> None:
        """Nothing was there."""
        belief = self._beliefs.get(lane)
        if belief is not None and not belief.rung:
            del self._beliefs[lane]

    def ended(self, lane: Lane) -> None:
        """A delivery is answered. Nothing is kept of a lane without one: there is a new lane for
        every build.
        """
        self.running[lane] -= 1
        if not self.running[lane]:
            del self.running[lane]

    def waiting(self) -> list[Waiting]:
        return [
            Waiting(lane=lane, since=belief.since)
            for lane, belief in self._beliefs.items()
            if belief.waiting > 0
        ]

    def has_waiting(self, lane: Lane) -> bool:
        belief = self._beliefs.get(lane)
        return belief is not None and belief.waiting > 0
