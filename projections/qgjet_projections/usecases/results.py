"""What the use cases answer; the API hands it on as it is."""

from __future__ import annotations

from msgspec import Struct

from qgjet.domain.events import Status
from qgjet.store.event_log import Accepted


class Submission(Struct, frozen=True, kw_only=True):
    """Answer to a submission."""

    job_id: str
    status: Status
    seq: int
    """Hand it to a read as `min_seq` and the read knows of this submission."""
    attached: bool = False
    """A live job held the slot: it is this one, and nothing was written."""
    replaced: str | None = None
    """The live job that was cancelled to make room."""


class CancelAnswer(Struct, frozen=True, kw_only=True):
    job_id: str
    status: Status
    """`running`: its agent was asked to stop it."""
    cancel_requested: bool
    """False: only the named suite does not wait for it any more. Others do, so it goes on."""
    seq: int


def submission(accepted: Accepted) -> Submission:
    return Submission(
        job_id=accepted.job_id,
        status=accepted.status,
        seq=accepted.seq,
        attached=accepted.attached,
        replaced=accepted.replaced or None,
    )
