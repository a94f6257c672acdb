"""What commands rely on in the answers of the API. They show and pass on the JSON as it came, so it
is only held against these, not turned into them.
"""

from __future__ import annotations

from typing import ClassVar, TypeVar

import msgspec
from msgspec import Struct

from qgjet.client.transport import Http, Json, NotOurs
from qgjet.domain.attempts import AttemptRecord
from qgjet.domain.events import Artifact, Instant

J = TypeVar("J", Json, list[Json])


class Job(Struct, frozen=True, kw_only=True):
    job_id: str
    org_id: str
    app_version_id: str
    target: str
    test: str
    status: str
    verdict: str | None
    reason: str
    message: str
    priority: int
    rank: int
    seq: int
    attempt: int
    max_retries: int
    retries_left: int
    infra_retries: int
    infra_retries_left: int
    duration_s: float | None
    created_at: Instant
    started_at: Instant | None
    finished_at: Instant | None
    cancel_requested: bool
    tags: dict[str, str]
    suite_ids: list[str]
    pending_reason: str | None = None
    attempts: list[AttemptRecord] = []


class Suite(Struct, frozen=True, kw_only=True):
    suite_id: str
    status: str
    verdict: str | None
    total: int
    live: int
    to_come: int = 0
    missing: int = 0
    verdicts: dict[str, int]
    created_at: Instant
    duration_s: float | None
    tags: dict[str, str]


class SuitePage(Struct, frozen=True, kw_only=True):
    suites: list[Suite]
    next_cursor: str | None


class Figures(Struct, frozen=True, kw_only=True):
    """How a test went."""

    target: str
    runs: int
    pass_rate: float | None
    flaky_rate: float | None
    mean_s: float | None


class Test(Figures, frozen=True, kw_only=True):
    __test__: ClassVar[bool] = False  # not for pytest

    org_id: str
    test: str


class TestPage(Struct, frozen=True, kw_only=True):
    __test__: ClassVar[bool] = False

    tests: list[Test]
    next_cursor: str | None


class TestDay(Test, frozen=True, kw_only=True):
    __test__: ClassVar[bool] = False

    day: str


class TestVersion(Figures, frozen=True, kw_only=True):
    __test__: ClassVar[bool] = False

    app_version_id: str


class TestHistory(Struct, frozen=True, kw_only=True):
    __test__: ClassVar[bool] = False

    days: list[TestDay]
    versions: list[TestVersion]


class File(Artifact, frozen=True, kw_only=True):
    """Of an attempt."""

    attempt: int


class Settlement(Struct, frozen=True, kw_only=True):
    how: str
    at: str
    by: str
    note: str


class Dead(Job, frozen=True, kw_only=True):
    finished_at: Instant
    settlement: Settlement | None


class DeadDetail(Dead, frozen=True, kw_only=True):
    output: list[str]


class DeadPage(Struct, frozen=True, kw_only=True):
    dead_letters: list[Dead]
    next_cursor: str | None


class Settled(Struct, frozen=True, kw_only=True):
    job_id: str
    new_job_id: str | None
    error: str | None


class SettledList(Struct, frozen=True, kw_only=True):
    settled: int
    left: int
    dead_letters: list[Settled]


class Partition(Struct, frozen=True, kw_only=True):
    org_id: str
    app_version_id: str
    target: str
    queued: int
    running: int
    oldest_queued_at: Instant | None
    pending_reason: str | None


class PartitionList(Struct, frozen=True, kw_only=True):
    partitions: list[Partition]


class Pause(Struct, frozen=True, kw_only=True):
    kind: str
    name: str
    paused: bool
    until: str | None
    reason: str


class PauseList(Struct, frozen=True, kw_only=True):
    pauses: list[Pause]


class Slots(Struct, frozen=True, kw_only=True):
    target: str
    slots: int


class Agent(Struct, frozen=True, kw_only=True):
    instance: str
    name: str
    draining: bool
    running: list[str]
    slots: int
    targets: list[Slots]
    app_version_id: str
    since: Instant
    version: str
    warm: list[str]


class AgentList(Struct, frozen=True, kw_only=True):
    agents: list[Agent]


class Priority(Struct, frozen=True, kw_only=True):
    job_id: str
    priority: int
    before: int


def checked(http: Http, answer: J, kind: object) -> J:
    """`answer` itself. Raises NotOurs when it is not of the shape `kind`."""
    try:
        msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise NotOurs(
            f"what answers at {http.where} is not qgjet's API, or too old for this client ({error})"
        ) from None
    return answer
