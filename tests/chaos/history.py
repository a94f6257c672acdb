"""What a run under faults has left: the clients' records, the agents' own, the event log, the
faults. All times are one host's monotonic clock, in seconds.

Values only: the checker reads a history, the campaign writes one, and a file of it can be checked
again at any time.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from qgjet.domain.events import Event, Slot
from qgjet.domain.suite import SuiteOpened

SUBMIT, CANCEL, READ, SUITE = "submit", "cancel", "read", "suite"
OK, REFUSED, UNKNOWN = "ok", "refused", "unknown"
"""A refused operation has not happened; an unknown one, whose answer was lost, may have."""


class Wanted(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One job of a submission, and what the answer said of it."""

    slot: Slot
    job_id: str = ""
    """Of the answer; empty when there was none."""
    attached: bool = False


class Op(Struct, kw_only=True, omit_defaults=True):
    """One thing that a client asked for."""

    client: str
    kind: str
    began: float
    ended: float | None = None
    """None: still waiting when the run was over."""
    fate: str = UNKNOWN
    wanted: list[Wanted] = []
    asked_id: str = ""
    """The job id that the client chose, or asked about."""
    key: str = ""
    """Idempotency key."""
    suite_id: str = ""
    min_seq: int = 0
    seq: int = 0
    """Of the answer."""
    status: str = ""
    """Of the answer."""
    why: str = ""


class Execution(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One run of a job, as its runner wrote it down."""

    job_id: str
    attempt: int
    agent: str
    began: float
    ended: float
    """When nothing of it was left: it ended, its agent was killed, or its hold was over and its
    guardian has killed it.
    """
    verdict: str = ""
    """What it came to; empty when it was cut short."""


def of_test(test: str) -> str:
    """Stands for the id of a job that the log does not know."""
    return f"of {test}"


class Logged(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message of the event log."""

    seq: int
    at: float
    """When the server stored it."""
    slot: Slot | None = None
    """None: not about a job."""
    event: Event | None = None
    opened: SuiteOpened | None = None


class Fault(Struct, frozen=True, kw_only=True, omit_defaults=True):
    kind: str
    victim: str
    began: float
    ended: float
    note: str = ""


class Cut(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A moment at which the log lost its end."""

    began: float
    ended: float
    """When the server was back."""
    lost: list[Logged] = []


class Replica(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A read model at the end of the run."""

    name: str
    differs: list[str] = []
    """Tables whose content is not that of a rebuild."""


class History(Struct, kw_only=True):
    visibility_s: float
    ops: list[Op] = []
    executions: list[Execution] = []
    log: list[Logged] = []
    faults: list[Fault] = []
    cuts: list[Cut] = []
    replicas: list[Replica] = []
    deliverable: list[str] = []
    """Consumers that have something to deliver, or have delivered what is not answered."""
    clashes: list[str] = []
    """Real processes that met another one of their job."""
    surprises: list[str] = []
    """What nobody asked for, such as an agent that ended by itself."""
    unread: int = 0
    """Lines of the agents' records that could not be read."""


def save(history: History, path: Path) -> None:
    path.write_bytes(msgspec.json.encode(history))


def load(path: Path) -> History:
    return msgspec.json.decode(path.read_bytes(), type=History)
