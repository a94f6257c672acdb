"""A suite's own events: which jobs a submission brought into it. Pure.

`qg.suite.<org>.<suite_id>.opened` stands in one atomic batch with the `submitted` of the jobs that
it created, so that all of them are there or none. A suite may be opened again: each submission
under its id adds jobs. A submission of more jobs than a batch holds is told by several events, and
complete with the one that has nothing `to_come` and nothing `missing`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from qgjet.domain import subjects
from qgjet.domain.events import Instant, JobSpec, Slot, Whole
from qgjet.errors import UndecodableEvent

OPENED = "opened"
MAX_BATCH = 1000
"""Messages of one atomic batch that JetStream accepts."""
MAX_EVENT_BYTES = 900_000
"""A message holds 1 MiB."""


class Member(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A job of a suite."""

    job_id: str
    app_version_id: str
    target: str
    test: str
    attached: bool = False
    """It was live before: the suite waits for it, and does not cancel it."""
    seq: Whole = 0
    """Of an attached job: its last event that the submission knew of. A created one's `submitted`
    stands in the batch, in this order, by org.
    """


class SuiteOpened(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True, tag=OPENED):
    suite_id: str
    org_id: str
    at: Instant
    by: str = ""
    submission: str
    """Id of the submission; a repeated one has the same."""
    request_hash: str = ""
    """sha256 of the request when it came with an idempotency key."""
    jobs: tuple[Member, ...]
    to_come: Whole = 0
    """Jobs of the submission that later events bring."""
    missing: Whole = 0
    """Jobs of the submission that never arrived: the janitor closed it without them."""
    tags: dict[str, str] = {}

    def slot_of(self, member: Member) -> Slot:
        return Slot(self.org_id, member.app_version_id, member.target, member.test)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(SuiteOpened)


def encode(event: SuiteOpened) -> bytes:
    return _encoder.encode(event)


def decode(data: bytes) -> SuiteOpened:
    """Raises UndecodableEvent for what this version cannot read."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UndecodableEvent(f"suite event cannot be read: {error}") from error


def member_of(spec: JobSpec, job_id: str, *, attached: bool = False, seq: int = 0) -> Member:
    return Member(
        job_id=job_id,
        app_version_id=spec.app_version_id,
        target=spec.target,
        test=spec.test,
        attached=attached,
        seq=seq,
    )


def shared_tags(tags: Sequence[dict[str, str]]) -> dict[str, str]:
    """What all jobs of a submission have in common is said of the suite."""
    return (
        {key: value for key, value in tags[0].items() if all(one.get(key) == value for one in tags)}
        if tags
        else {}
    )


def suite_prefix(org_id: str, suite_id: str) -> str:
    """All that a suite's expected version covers."""
    return f"{subjects.SUITE_PREFIX}.{subjects.encode_part(org_id, 'org_id')}.{subjects.encode_token(suite_id)}"
