"""The interface between an agent and what executes its jobs.

A runner prepares a partition once (`prepare`), then runs job after job in that session, and
releases it. It knows nothing of NATS, leases or retries: the agent ties every process to its hold
on the job through a `StopControl`, and turns the `Outcome` into events.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from qgjet.domain.events import JobSpec, Outcome, Partition
from qgjet.process.stop_control import StopControl
from qgjet.runners.redaction import Redactor


class Attempt(Struct, frozen=True, kw_only=True):
    """One execution to make."""

    spec: JobSpec
    number: int
    """Counted from 1."""
    path: str
    """Of `directory`."""
    stop_control: StopControl
    failed_before: frozenset[str] = frozenset()
    """IDs of test cases that failed in an earlier attempt and have not passed since: they have
    precedence in the outcome.
    """
    on_output: Callable[[bytes], None] = lambda _: None
    """Gets the output as it comes, in pieces of any size; called on the event loop, must not block.
    """

    @property
    def directory(self) -> Path:
        """Private to this attempt and not made yet: a runner that needs it makes it. Reports, logs
        and media are left in it for the agent to collect.
        """
        return Path(self.path)


class Session(Protocol):
    """A prepared partition. Used for one job at a time."""

    device: str
    """What runs the jobs, for people: a device name, a serial, a URL."""

    redactor: Redactor
    """Knows the secrets of the session's jobs. The session removes them from the output and the
    outcome of `run`; the agent removes them from the names and the content of the artifacts. Empty
    when there are no secrets.
    """

    async def healthy(self) -> bool:
        """Whether the next job may be run here; asked before each one. Never raises."""

    async def run(self, attempt: Attempt) -> Outcome:
        """Run one job to its end, or until its stop control stops it.

        Whatever the job does is an Outcome; an exception is a defect of the runner. When this
        returns, or is cancelled, no process of the attempt is left.
        """

    async def release(self) -> None:
        """Give the device back and end everything the session left running. A second call is
        harmless.
        """


class Runner(Protocol):
    """Executes the jobs of one target."""

    async def prepare(self, partition: Partition, directory: Path) -> Session:
        """Make a device ready with the partition's app. `directory` is private to the session.

        Raises PrepareFailed with the reason, and then nothing is left running; the job burns no
        attempt.
        """
