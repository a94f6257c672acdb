"""What to do with a delivery, by the state of its job. Pure."""

from __future__ import annotations

from datetime import datetime
from enum import Enum, auto

from qgjet.domain.events import Status
from qgjet.domain.job import Job


class ClaimDecision(Enum):
    """The answer to a delivery."""

    CLAIM = auto()
    """Start it."""
    FORGET = auto()
    """Acknowledge: the message stands for nothing any more."""
    WAIT = auto()
    """Its retry is not due yet: give it back until then."""
    LEAVE = auto()
    """Somebody runs it: give it back for a visibility timeout."""
    STOP = auto()
    """This process runs an attempt that the log does not know of: the log has lost its end. Stop
    it, and give the message back until it has ended.
    """
    LOSE = auto()
    """Who ran it let the lease expire: record that, then look again."""


def admit(
    job: Job | None, ticket: int, now: datetime, *, num_delivered: int, attempt_here: int
) -> ClaimDecision:
    """Judge the delivery of message `ticket`. `attempt_here`: of the job, the attempt that this
    very process runs, which its agent's name on the log does not prove; 0: none.

    A message that JetStream hands out again says that nobody has renewed its lease for a visibility
    timeout. A first delivery of a job that runs says nothing: the consumer was made anew and knows
    no leases. Given back once for a visibility timeout, it comes again only if nobody's heartbeats
    reach the new
    consumer: their subject is the same.
    """
    if job is None or not job.live or job.ticket != ticket:
        return ClaimDecision.FORGET
    if job.status is Status.QUEUED:
        if job.attempt < attempt_here:
            return ClaimDecision.STOP
        due = job.retry_at is None or job.retry_at <= now
        return ClaimDecision.CLAIM if due else ClaimDecision.WAIT
    if attempt_here or num_delivered <= 1:
        return ClaimDecision.LEAVE
    return ClaimDecision.LOSE
