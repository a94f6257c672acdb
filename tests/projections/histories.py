"""Logs for tests: what many writers could have written on a few slots, and the content of a read
model in one comparable value.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from factories import NOW, spec
from patience import patience
from qgjet.domain import codec, control, subjects, suite
from qgjet.domain.control import Control, Discarded, DrainRequested, Kind, Paused, Resumed
from qgjet.domain.decide import (
    DRAINED,
    Cancel,
    Command,
    EndAttempt,
    Expire,
    Lose,
    OnDuplicate,
    Release,
    Requeue,
    Start,
    Submit,
    decide,
)
from qgjet.domain.events import (
    Artifact,
    Event,
    JobSpec,
    Outcome,
    Requeued,
    Slot,
    Started,
    Submitted,
    TestError,
    TestResult,
    Try,
    Verdict,
    event_type,
)
from qgjet.domain.job import Job, evolve
from qgjet.domain.suite import Member, SuiteOpened
from qgjet.errors import Conflict
from qgjet.store.event_log import EventLog, Recorded, recorded
from qgjet_projections.readmodel import ReadModel, schema
from qgjet_projections.readmodel.projector import Projector
from qgjet_projections.readmodel.writer import Position, Writer

HOSTILE = "'; DROP TABLE jobs; -- \" \x00 \\ % * > . ~ \u2028 \U0001f600 ä"
_SLOTS = (
    Slot("acme", "1.0.0", "emulator", "tests/login.spec.js"),
    Slot("acme", "1.0.0", "device", "tests/login.spec.js"),
    Slot("acme", "1.0.1", "emulator", "tests/cart.spec.js"),
    Slot("o'neill", "1.0.0", "emulator", HOSTILE),
    Slot("\ud800", "1.0.0", "emulator", "half a surrogate pair"),
)
_STRANGERS = (
    (
        "qg.job.acme.1%2E0%2E0.emulator.tests/login%2Espec%2Ejs.paused_for_lunch",
        b'{"type":"paused_for_lunch","job_id":"job-1"}',
    ),
    (
        "qg.job.acme.1%2E0%2E0.emulator.tests/login%2Espec%2Ejs.started.what.ever",
        b"\xff\x00 not JSON",
    ),
    ("qg.job.acme.1%2E0%2E0.emulator.%FF.submitted.p5", b"{}"),
    ("qg.job.short", b""),
    ("qg.suite.acme.suite-1.opened", b'{"type":"opened"}'),
    ("qg.control.all.paused", b'{"type":"paused"}'),
)


def message(seq: int, slot: Slot, event: Event) -> Recorded:
    """The message that the log holds for an event."""
    prefix = subjects.slot_prefix(slot)
    rank = event.spec.rank if isinstance(event, Submitted | Requeued) else None
    return Recorded(
        seq, subjects.event_subject(prefix, event_type(event), rank), event, codec.encode(event)
    )


class Author:
    """Writes a log: `tell` by commands, as production does; `history` at random, with strangers and
    broken rules in between.
    """

    def __init__(self, seed: int = 0, now: datetime = NOW) -> None:
        self.messages: list[Recorded] = []
        self.jobs: dict[Slot, Job | None] = {}
        self.now = now
        self._random = random.Random(seed)
        self._specs: dict[str, JobSpec] = {}

    @property
    def seq(self) -> int:
        return self.messages[-1].seq if self.messages else 0

    def submit(self, on_duplicate: OnDuplicate = OnDuplicate.ATTACH, **fields: Any) -> JobSpec:
        wanted = spec(**{"submitted_at": self.now, **fields})
        self.tell(wanted.slot, Submit(wanted, on_duplicate))
        return wanted

    def start(self, wanted: JobSpec, agent: str = "agent-1") -> None:
        job = self.jobs[wanted.slot]
        assert job is not None
        self.tell(wanted.slot, Start(job.ticket, agent, "Pixel 8", True))

    def end(self, wanted: JobSpec, verdict: Verdict, **fields: Any) -> None:
        job = self.jobs[wanted.slot]
        assert job is not None
        self.tell(
            wanted.slot, EndAttempt(job.agent, job.attempt, Outcome(verdict=verdict, **fields))
        )

    def run(
        self, verdict: Verdict = Verdict.PASSED, *, duration_s: float = 0.0, **fields: Any
    ) -> JobSpec:
        """A job from its submission to its verdict, without retries, a second each step."""
        wanted = self.submit(**{"max_retries": 0, "infra_retries": 0, **fields})
        self.start(wanted)
        self.end(wanted, verdict, duration_s=duration_s)
        return wanted

    def tell(self, slot: Slot, command: Command) -> Event:
        event = decide(command, self.jobs.get(slot), self.now)
        self.append(slot, event)
        return event

    def append(self, slot: Slot, event: Event) -> None:
        seq = self.seq + 1
        self.messages.append(message(seq, slot, event))
        self.jobs[slot] = evolve(self.jobs.get(slot), event, seq)
        if isinstance(event, Submitted):
            self._specs[event.job_id] = event.spec
        self.now += timedelta(seconds=1)

    def history(self, steps: int) -> list[Recorded]:
        for _ in range(steps):
            what, slot = self._random.random(), self._random.choice(_SLOTS)
            if what < 0.05:
                self._stranger()
            elif what < 0.1:
                self._broken_rule(slot)
            elif what < 0.15:
                self._opening()
            elif what < 0.25:
                self._decision()
            else:
                with contextlib.suppress(Conflict):
                    self.tell(slot, self._command(slot))
        return self.messages

    def _stranger(self) -> None:
        subject, data = self._random.choice(_STRANGERS)
        self.messages.append(recorded(self.seq + self._random.randint(1, 3), subject, data))

    def _opening(self) -> None:
        """A suite with jobs that there are, that there were, and that there never were."""
        pick = self._random.choice
        ids = [*self._specs, "nobody"]
        members = tuple(
            Member(
                job_id=pick(ids),
                app_version_id="1.0.0",
                target="emulator",
                test="a.js",
                attached=pick([True, False]),
            )
            for _ in range(self._random.randint(0, 4))
        )
        self.open_suite(
            pick(["suite-1", "suite-3"]),
            members,
            submission=pick(["one", "two"]),
            to_come=pick([0, 5]),
        )

    def open_suite(self, suite_id: str, members: tuple[Member, ...], **fields: Any) -> None:
        event = SuiteOpened(
            **{
                "suite_id": suite_id,
                "org_id": "acme",
                "at": self.now,
                "submission": "one",
                "jobs": members,
                **fields,
            }
        )
        self.messages.append(
            recorded(
                self.seq + 1, f"{suite.suite_prefix('acme', suite_id)}.opened", suite.encode(event)
            )
        )

    def _decision(self) -> None:
        """About what there is and what there is not, and sometimes where it should not be."""
        pick, ids = self._random.choice, [*self._specs, "nobody"]
        said: dict[str, Any] = {"at": self.now, "by": HOSTILE, "reason": "why not"}
        events: list[Control] = [
            Paused(
                kind=Kind.TARGET,
                name=pick(["emulator", "device"]),
                until=pick([None, self.now]),
                **said,
            ),
            Paused(kind=Kind.ORG, name="acme", **said),
            Resumed(kind=Kind.TARGET, name="emulator", **said),
            Resumed(kind=Kind.ORG, name=pick(["acme", "x"]), **said),
            DrainRequested(kind=Kind.AGENT, name="agent-1", **said),
            *[Discarded(kind=Kind.JOB, name=pick(ids), org_id="acme", **said) for _ in range(4)],
        ]
        event = pick(events)
        subject = (
            control.subject_of(event)
            if self._random.random() < 0.95
            else "qg.control.target.sofa.paused"
        )
        self.messages.append(recorded(self.seq + 1, subject, control.encode(event)))

    def _broken_rule(self, slot: Slot) -> None:
        """Something that was legal once, somewhere; now it mostly is not."""
        legal = [one.event for one in self.messages if one.event is not None]
        if legal:
            self.append(slot, self._random.choice(legal))

    def _command(self, slot: Slot) -> Command:
        job, pick = self.jobs.get(slot), self._random.choice
        if job is None or not job.live:
            return self._submission(slot)
        if job.agent:
            verdict = pick([Verdict.FAILED, Verdict.INFRA_ERROR, *Verdict])
            release = Release(
                job.agent, job.ticket, job.attempt, pick([DRAINED, "prepare_failed"]), HOSTILE
            )
            end = EndAttempt(job.agent, job.attempt, self._outcome(verdict), pick([0.0, 0.5]))
            commands: list[Command] = [
                end,
                end,
                end,
                release,
                Lose(job.agent, job.attempt, "janitor"),
                Cancel("me", "enough"),
                self._submission(slot),
            ]
            return pick(commands)
        start = Start(job.ticket, pick(["agent-1", "agent-2"]))
        rare: list[Command] = [
            Requeue(self._specs[job.job_id], "nothing delivers it", "janitor"),
            Release("agent-1", job.ticket, job.attempt, "prepare_failed", "no device"),
            Expire(job.ticket, "queue_timeout", "waited too long", "janitor"),
            Cancel("me"),
            self._submission(slot),
        ]
        return pick([start, start, start, pick(rare)])

    def _submission(self, slot: Slot) -> Submit:
        number = self._random.randrange(10**6)
        fields = {
            "org_id": slot.org_id,
            "app_version_id": slot.app_version_id,
            "target": slot.target,
            "test": slot.test,
        }
        if slot.org_id == "\ud800":
            fields["org_id"] = "in JSON it cannot be said"
        wanted = spec(
            **fields,
            job_id=f"job-{number}",
            priority=number % 10,
            rank=9 - number % 10,
            max_retries=number % 3,
            infra_retries=number % 2,
            suite_ids=self._random.choice([(), ("suite-1",), ("suite-1", "suite-2")]),
            tags=self._random.choice([{}, {"branch": "main"}, {"branch": HOSTILE, HOSTILE: ""}]),
            queue_timeout_s=self._random.choice([None, 0.5]),
            submitted_at=self.now,
            submitted_by=HOSTILE,
            rerun_of=self._random.choice(["", "", "nobody", *self._specs]),
        )
        return Submit(wanted, OnDuplicate.REPLACE)

    def _outcome(self, verdict: Verdict) -> Outcome:
        failed = Try(status="failed", duration_s=1.5, error=TestError(message=HOSTILE * 200))
        return Outcome(
            verdict=verdict,
            reason="tests_failed" if verdict is Verdict.FAILED else "",
            message=HOSTILE,
            duration_s=self._random.choice([0.0, 2.5]),
            tests=(TestResult(id="1", title=HOSTILE, outcome="failed", tries=(failed,)),),
            artifacts=(
                Artifact(name="video.webm", content_type="video/webm", size=3, sha256="00"),
            ),
        )


def started_by_nobody(job_id: str) -> Started:
    """Breaks the rules wherever it stands first."""
    return Started(job_id=job_id, at=NOW, status="running", ticket=1, attempt=1, agent="agent-1")  # type: ignore[arg-type]


def apply(path: Path, messages: Iterable[Recorded], batch: int = 1_000) -> None:
    """What the projector does with them, after what it has applied."""
    with contextlib.closing(Writer(path)) as writer:
        apply_with(writer, list(messages), batch)


def apply_with(writer: Writer, messages: list[Recorded], batch: int = 1_000) -> Position:
    position = writer.position()
    for start in range(0, len(messages), batch):
        position, _ = writer.apply(messages[start : start + batch], position)
    return position


def content(path: Path) -> dict[str, list[Any]]:
    """Every row of every table, in one order."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        tables = {
            table: sorted(connection.execute(f"SELECT * FROM {table}"), key=repr)
            for table in ("position", *schema.CONTENT)
        }
        assert [name for (name,) in connection.execute("PRAGMA quick_check")] == ["ok"]
        others = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        )
        assert {name for (name,) in others} == set(tables)
    return tables


async def rebuilt(log: EventLog, path: Path, *, within_s: float = 30.0) -> dict[str, list[Any]]:
    """The content of a read model that is made from the log in one go."""
    opened = ReadModel.open(path)
    async with Projector(log, opened) as projector:
        assert await projector.wait_for((await log.state()).last_seq, patience(within_s))
    opened.close()
    return content(path)
