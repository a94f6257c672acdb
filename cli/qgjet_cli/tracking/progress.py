"""Progress on stderr: a live line on a terminal, one line per change elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from qgjet.client.tracker import JobTracker, JobUpdate
from qgjet.domain.events import AttemptEnded, AttemptLost, Finished, Released, Started, Status
from qgjet.domain.job import explanation_of
from qgjet_cli.output import console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class View(Protocol):
    def changed(self, change: JobUpdate) -> None:
        """Tell a change."""

    def say(self, text: str) -> None:
        """Tell something else."""

    def tick(self) -> None:
        """Bring up to date what shows the whole."""


@contextlib.contextmanager
def view_of(tracker: JobTracker) -> Iterator[View]:
    """The view that fits where stderr goes."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    if console.is_dumb_terminal:
        yield Lines()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.completed}/{task.total}", markup=False),
        BarColumn(24),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as progress:
        yield Bar(tracker, progress)


class Lines:
    def changed(self, change: JobUpdate) -> None:
        console.note(described(change))

    def say(self, text: str) -> None:
        console.note(text)

    def tick(self) -> None:
        return


class Bar:
    def __init__(self, tracker: JobTracker, progress: Progress) -> None:
        self._tracker = tracker
        self._progress = progress
        self._task: TaskID = progress.add_task("", total=len(tracker.tracks))
        self.tick()

    def changed(self, change: JobUpdate) -> None:
        if not isinstance(change.event, Started):
            self.say(described(change))

    def say(self, text: str) -> None:
        from rich.text import Text

        self._progress.console.print(Text(console.one_line(text)), soft_wrap=True)

    def tick(self) -> None:
        total = len(self._tracker.tracks)
        self._progress.update(
            self._task,
            total=total,
            completed=total - len(self._tracker.live),
            description=summary(self._tracker),
        )


def summary(tracker: JobTracker) -> str:
    """`3 passed, 1 failed, 2 running, 5 queued`"""
    return ", ".join(f"{count} {word}" for word, count in tracker.counts().items())


def described(change: JobUpdate) -> str:
    """`Job 1234abcd → running · tests/onboarding.spec.js · emulator · attempt 2`"""
    track = change.job
    parts = [
        f"Job {track.job_id} → {track.status}",
        track.slot.test,
        track.slot.target,
        _detail(change),
    ]
    return " · ".join(part for part in parts if part)


def _detail(change: JobUpdate) -> str:
    track, event = change.job, change.event
    if track.cancel_requested and track.status is Status.RUNNING:
        return "asked to stop"
    match event:
        case Started(attempt=attempt) if attempt > 1:
            return f"attempt {attempt}"
        case AttemptEnded(outcome=outcome):
            return f"attempt {event.attempt} {outcome.verdict}{_because(outcome.reason)}"
        case AttemptLost() | Released():
            return (
                f"attempt {event.attempt} given back{_because(event.reason)}"
                if event.attempt
                else f"given back{_because(event.reason)}"
            )
        case Finished(verdict=verdict, outcome=outcome):
            reason, _ = explanation_of(event) or ("", "")
            return f"{verdict}{_because(reason)} in {console.duration(outcome.duration_s)}"
        case _:
            return track.message if track.status is Status.CANCELLED else ""


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""


class Pulse:
    """When something should be said although nothing has changed: a CI stops a job that is silent
    for too long.
    """

    EVERY_S = 60.0

    def __init__(self) -> None:
        self._last = time.monotonic()

    def beat(self) -> None:
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        return time.monotonic() - self._last >= self.EVERY_S
