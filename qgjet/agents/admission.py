"""What to do with a delivery, by the state of its job. Pure."""

from __future__ import annotations

from datetime import datetime
from enum import Enum, auto

from qgjet.events import Status
from qgjet.job import Job


class Admission(Enum):
    """The answer to a delivery."""

    CLAIM = auto()
    """Start it."""
    FORGET = auto()
    """Acknowledge: the message stands for nothing any more."""
    WAIT = auto()
    """Its retry is not due yet: give it back until then."""
    LEAVE = auto()
    """Somebody runs it: give it back for a visibility timeout."""
    LOSE = auto()
    """Who ran it let the lease expire: record that, then look again."""


def admit(job: Job | None, ticket: int, now: datetime, *, num_delivered: int, running_here: bool) -> Admission:
    """Judge the delivery of message `ticket`. `running_here`: this very process runs the job; its agent's name on the log does not prove that.

    A message that JetStream hands out again says that nobody has renewed its lease for a visibility timeout. A first delivery of a job that runs says nothing:
    the consumer was made anew and knows no leases. Given back once for a visibility timeout, it comes again only if nobody's heartbeats reach the new
    consumer: their subject is the same.
    """
    if job is None or not job.live or job.ticket != ticket:
        return Admission.FORGET
    if job.status is Status.QUEUED:
        due = job.retry_at is None or job.retry_at <= now
        return Admission.CLAIM if due else Admission.WAIT
    if running_here or num_delivered <= 1:
        return Admission.LEAVE
    return Admission.LOSE
