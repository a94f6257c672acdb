"""The read model: what the event log adds up to, in one SQLite file, asked with plain synchronous
queries.

Every method takes its own connection from a pool, so it may be called from any thread
(`asyncio.to_thread`) while the projector writes. One call sees one
moment: its statements share a snapshot. Nothing here is an authority; the file can be thrown away and is made anew from the log.
"""

from __future__ import annotations

from qgjet_projections.readmodel.queries.dead import DeadLetterReads
from qgjet_projections.readmodel.queries.event import EventReads
from qgjet_projections.readmodel.queries.job import JobReads
from qgjet_projections.readmodel.queries.maintenance import MaintenanceReads
from qgjet_projections.readmodel.queries.queue import QueueReads
from qgjet_projections.readmodel.queries.reader import MAX_LIMIT
from qgjet_projections.readmodel.queries.statistics import StatisticsReads
from qgjet_projections.readmodel.queries.suite import SuiteReads
from qgjet_projections.readmodel.views import (
    Counts,
    DeadLetter,
    DeadQuery,
    Duration,
    EventView,
    JobQuery,
    JobView,
    LiveJob,
    Page,
    PartitionView,
    SuiteView,
)

__all__ = [
    "MAX_LIMIT",
    "Counts",
    "DeadLetter",
    "DeadQuery",
    "Duration",
    "EventView",
    "JobQuery",
    "JobView",
    "LiveJob",
    "Page",
    "PartitionView",
    "ReadModel",
    "SuiteView",
]


class ReadModel(
    JobReads, EventReads, SuiteReads, QueueReads, StatisticsReads, DeadLetterReads, MaintenanceReads
):
    """Made by `open`; `close` when done. `seen_by` gives what somebody may see of it, of the same
    connections.
    """
