"""The vocabulary: jobs, verdicts and the events that tell a job's story.

Imports nothing of ours. Stored shapes only grow: a new field has a default, a new meaning is a new
event; `tests/golden/` holds one file per event and is never edited. Every event carries the job's
counters and its status *after* the event, so the last event of a slot is the job's whole state.

The structs hold values only and cannot be in a cycle: with `gc=False` the garbage collector passes
them by, a fifth of the time of a large catch-up.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar

from msgspec import Meta, Struct

Instant = Annotated[datetime, Meta(tz=True)]
"""An aware point in time; naive ones are refused when an event is decoded."""
Whole = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""What SQLite and the NATS server can hold; what asks for more is no event of ours."""


class Status(StrEnum):
    """Where a job is.

    | status    | entered by                                                       | left by                                        |
    |-----------|------------------------------------------------------------------|------------------------------------------------|
    | queued    | submitted, requeued, attempt_ended, attempt_lost, released       | started, finished, cancel_requested            |
    | running   | started                                                          | attempt_ended, attempt_lost, released, finished, cancelled |
    | done      | finished (passed, flaky, skipped)                                | submitted, for a new job in the slot           |
    | failed    | finished (any other verdict)                                     | submitted, for a new job in the slot           |
    | cancelled | cancel_requested while queued, cancelled, attempt_ended or attempt_lost after a cancel_requested | submitted, for a new job |

    `attached` and `detached` leave a queued or running job where it is. A submission that
    `replaces` a live job ends that one as cancelled and puts its own into the slot.
    `qgjet.domain.job.TRANSITIONS` is the same table for the machine; a test holds them together.
    """

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ACTIVE = frozenset({Status.QUEUED, Status.RUNNING})
TERMINAL = frozenset({Status.DONE, Status.FAILED, Status.CANCELLED})


class Verdict(StrEnum):
    """What a finished job, or one attempt of it, means."""

    PASSED = "passed"
    FLAKY = "flaky"
    """Passed after at least one failed try, inside the runner or by a retry of the queue."""
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    INFRA_ERROR = "infra_error"
    """No statement about the app: device, farm, network or agent."""
    CONFIG_ERROR = "config_error"
    """No statement about the app: the set-up is wrong and would be wrong again."""
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


LEGACY_STATUS = {
    Status.QUEUED: "queued",
    Status.RUNNING: "in_progress",
    Status.DONE: "completed",
    Status.FAILED: "failed",
    Status.CANCELLED: "failed",
}
"""The words of the systems before qgjet, which have none for cancelled."""
PASSING = frozenset({Verdict.PASSED, Verdict.FLAKY, Verdict.SKIPPED})
"""Verdicts of `done` jobs."""
INCONCLUSIVE = frozenset({Verdict.INFRA_ERROR, Verdict.CONFIG_ERROR})
"""Verdicts that say nothing about the app."""


OUTSIDE = "*"
"""Stands for submissions outside of any suite, among the ids of suites, of which none has this one.
"""


class Partition(Struct, frozen=True, gc=False, order=True):
    """Jobs that can share a booted device with the app installed."""

    org_id: str
    app_version_id: str
    target: str


class Slot(Struct, frozen=True, gc=False, order=True):
    """The key of the aggregate: at most one live job has it."""

    org_id: str
    app_version_id: str
    target: str
    test: str

    @property
    def partition(self) -> Partition:
        return Partition(self.org_id, self.app_version_id, self.target)


class JobSpec(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A job as it was asked for. Durations are seconds."""

    job_id: str
    org_id: str
    app_version_id: str
    target: str
    test: str
    priority: Whole = 5
    rank: Whole = 5
    """`priority` after the deployment's order is applied: 0 runs first, 9 last."""
    max_retries: Whole = 3
    infra_retries: Whole = 3
    execution_timeout_s: float | None = None
    """Deadline of one attempt; None: the agent's own."""
    queue_timeout_s: float | None = None
    submitted_at: Instant
    submitted_by: str = ""
    suite_ids: tuple[str, ...] = ()
    tags: dict[str, str] = {}
    request_hash: str = ""
    """sha256 of the request body when it came with an idempotency key."""
    rerun_of: str = ""

    @property
    def slot(self) -> Slot:
        return Slot(self.org_id, self.app_version_id, self.target, self.test)

    @property
    def partition(self) -> Partition:
        return Partition(self.org_id, self.app_version_id, self.target)


class TestError(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Why one try of a test failed. ANSI codes are gone, `message` is bounded."""

    __test__: ClassVar[bool] = False  # not for pytest, which collects what is called Test…

    message: str
    file: str = ""
    """Relative to the project's directory, with `/`."""
    line: Whole = 0


class Try(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One run of one test inside an attempt."""

    status: str
    """passed, failed, timed_out, skipped or interrupted."""
    duration_s: float = 0.0
    error: TestError | None = None


class TestResult(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One test of the job's file, with all its tries."""

    __test__: ClassVar[bool] = False

    id: str
    title: str
    file: str = ""
    line: Whole = 0
    outcome: str
    """passed, flaky, failed, timed_out, skipped or interrupted."""
    tries: tuple[Try, ...] = ()


class Artifact(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A file that an attempt left behind."""

    name: str
    content_type: str
    size: Whole
    sha256: str
    """Of what is stored; empty when the file was left out."""
    note: str = ""
    """What was cut, or why the file was left out; empty for a whole one."""


class Outcome(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What one attempt came to."""

    verdict: Verdict
    reason: str = ""
    """A code for machines, such as `tests_failed`, `no_tests`, `deadline`; see docs/verdicts.md."""
    message: str = ""
    exit_code: Whole | None = None
    signal: str = ""
    duration_s: float = 0.0
    tests: tuple[TestResult, ...] = ()
    tests_omitted: Whole = 0
    artifacts: tuple[Artifact, ...] = ()
    final: bool = False
    """Another attempt would end the same way: the job finishes with this verdict and spends no
    retry.
    """


class FailedTest(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A test case that failed in an attempt and has not passed in a later one."""

    id: str
    title: str = ""
    """Bounded; empty where there was no room for it."""
    message: str = ""
    """Error of its first failure, bounded; empty where there was no room for it."""
    attempt: Whole = 0
    """The attempt in which it failed first."""


class FirstFailure(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """The job's first attempt that failed or timed out."""

    attempt: Whole
    verdict: Verdict
    reason: str = ""
    message: str = ""
    """Bounded; the error of its first failed test case where the attempt has no message."""


class JobEvent(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True, tag_field="type"):
    """A fact about one job. The fields here are the job's state after the fact."""

    job_id: str
    at: Instant
    status: Status
    ticket: Whole = 0
    """Sequence of the submission in force; 0: the event's own sequence."""
    attempt: Whole = 0
    """The running attempt, or the last one; counted from 1."""
    retries_left: Whole = 0
    infra_retries_left: Whole = 0
    failures: Whole = 0
    """Attempts so far that ended failed or timed_out."""
    unresolved: tuple[FailedTest, ...] = ()
    """Test cases that failed in one of these attempts and have not passed since, first failed
    first.
    """
    unresolved_omitted: Whole = 0
    """More of them, for which there was no room; it never decreases."""
    first_failure: FirstFailure | None = None
    """The first of these attempts; None also in events of versions that did not record it."""
    suite_ids: tuple[str, ...] = ()
    """Suites that the job was created in."""
    attached: tuple[str, ...] = ()
    """Suites whose submissions have joined the job since; OUTSIDE for one outside of any suite."""
    detached: tuple[str, ...] = ()
    """Suites of both that do not wait for the job any more."""
    execution_timeout_s: float | None = None
    """The shortest limit of an attempt that a submission has brought; None: that of the job's spec.
    """
    agent: str = ""
    """Instance id of the agent that runs the job; empty unless running."""
    cancel_requested: bool = False
    by: str = ""


class Submitted(JobEvent, frozen=True, kw_only=True, omit_defaults=True, tag="submitted"):
    spec: JobSpec
    replaces: str = ""
    """Id of the live job that this submission ends as cancelled."""


class Requeued(JobEvent, frozen=True, kw_only=True, omit_defaults=True, tag="requeued"):
    spec: JobSpec
    reason: str
    retry_at: Instant | None = None


class Started(JobEvent, frozen=True, kw_only=True, omit_defaults=True, tag="started"):
    device: str = ""
    warm: bool = False
    """The session already had the app installed: one install avoided."""


class AttemptEnded(JobEvent, frozen=True, kw_only=True, omit_defaults=True, tag="attempt_ended"):
    outcome: Outcome
    retry_at: Instant | None = None


class Released(JobEvent, frozen=True, kw_only=True, omit_defaults=True, tag="released"):
    reason: str
    """`drained` costs nothing, `prepare_failed` costs one infra retry."""
    message: str = ""
    retry_at: Instant | None = None


class AttemptLost(JobEvent, frozen=True, kw_only=True, omit_defaults=True, tag="attempt_lost"):
    lost_agent: str
    reason: str = "lease_expired"


class Finished(JobEvent, frozen=True, kw_only=True, omit_defaults=True, tag="finished"):
    verdict: Verdict
    """The job's; the outcome's own is the last attempt's."""
    outcome: Outcome
    reason: str = ""
    """The job's, where its earlier attempts decide: `flaky`, `not_passed_again`. Empty: the
    outcome's reason and message are the job's.
    """
    message: str = ""


class CancelRequested(
    JobEvent, frozen=True, kw_only=True, omit_defaults=True, tag="cancel_requested"
):
    reason: str = ""


class Attached(JobEvent, frozen=True, kw_only=True, omit_defaults=True, tag="attached"):
    """Another submission has joined the job: what it asks for counts, too."""

    tags: dict[str, str] = {}
    """Those of the submission that the job did not have."""
    queue_timeout_s: float | None = None
    """If it is shorter than the job's, and the job has not been started."""
    retry_at: Instant | None = None


class Detached(JobEvent, frozen=True, kw_only=True, omit_defaults=True, tag="detached"):
    """A suite does not wait for the job any more, and others do."""

    suite_id: str
    reason: str = ""
    retry_at: Instant | None = None


class Cancelled(JobEvent, frozen=True, kw_only=True, omit_defaults=True, tag="cancelled"):
    outcome: Outcome | None = None
    """What the interrupted attempt left behind, where there was one."""


Event = (
    Submitted
    | Requeued
    | Started
    | AttemptEnded
    | Released
    | AttemptLost
    | Finished
    | CancelRequested
    | Attached
    | Detached
    | Cancelled
)
EVENT_TYPES: tuple[type[JobEvent], ...] = (
    Submitted,
    Requeued,
    Started,
    AttemptEnded,
    Released,
    AttemptLost,
    Finished,
    CancelRequested,
    Attached,
    Detached,
    Cancelled,
)


def event_type(event: Struct | type[Struct]) -> str:
    """The event's name in subjects and JSON, such as `attempt_ended`."""
    return str(event.__struct_config__.tag)
