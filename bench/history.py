"""A read model with a long history: a million jobs, ten thousand of them live. Made by the
projector's own writer, kept for a day.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

from qgjet.domain import codec, subjects, suite
from qgjet.domain.decide import Command, EndAttempt, Start, Submit, decide
from qgjet.domain.events import JobSpec, Outcome, Requeued, Submitted, Verdict, event_type
from qgjet.domain.job import Job, state_of
from qgjet.domain.suite import SuiteOpened, member_of, suite_prefix
from qgjet.store.agent_registry import AgentInfo, TargetSlots
from qgjet.store.event_log import Recorded
from qgjet.support.clock import utc_now
from qgjet_projections.readmodel import schema
from qgjet_projections.readmodel.writer import Writer

SUITES, JOBS_OF_SUITE, LIVE_SUITES = 2_000, 500, 20
DAYS = 30
AGENTS, SLOTS = 20, 10
ORGS = ("acme", "globex", "initech", "umbrella")
TARGETS = ("emulator", "device", "browserstack")
LOG = "bench"
"""Stands for the log's identity until the server has given one."""
_VERDICTS = (
    (Verdict.PASSED,) * 90
    + (Verdict.FAILED,) * 5
    + (Verdict.FLAKY,) * 3
    + (Verdict.TIMED_OUT, Verdict.INFRA_ERROR)
)


def long_history() -> Path:
    """The file; made when there is none of today, which takes minutes."""
    now = utc_now()
    directory = Path(tempfile.gettempdir()) / "qgjet-bench-history"
    directory.mkdir(exist_ok=True)
    path = directory / f"{now:%Y-%m-%d}-v{schema.VERSION}.sqlite"
    if path.exists():
        return path
    for old in directory.iterdir():
        old.unlink()
    print("making a read model with a million jobs, once a day …", flush=True)
    making = path.with_suffix(".making")
    schema.prepare(making)
    with contextlib.closing(Writer(making)) as writer:
        position = writer.reset(LOG)
        author = _Author(now)
        for number in range(SUITES):
            position, _ = writer.apply(author.suite(number), position)
    making.rename(path)
    return path


def belongs_to(path: Path, stream_created: str) -> int:
    """Let the read model be the sum of another log; gives the sequence at which that has to go on."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "UPDATE position SET stream_created = ?, fingerprint = x''", (stream_created,)
        )
        (seq,) = connection.execute("SELECT applied_seq FROM position").fetchone()
    return int(seq)


def agents(path: Path) -> list[AgentInfo]:
    """Those that run what runs."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        running = [
            job_id
            for (job_id,) in connection.execute(
                "SELECT job_id FROM jobs INDEXED BY jobs_by_status WHERE status <> 'done' AND status = 'running'"
            )
        ]
    slots = tuple(TargetSlots(target=target, slots=SLOTS, running=SLOTS) for target in TARGETS)
    return [
        AgentInfo(
            instance=f"agent-{number}-abc",
            name=f"agent-{number}",
            host="bench",
            pid=number + 1,
            version="0",
            targets=slots,
            slots=SLOTS,
            since=utc_now(),
            running=tuple(running[number * SLOTS : (number + 1) * SLOTS]),
            warm=("acme/1.0.1999/emulator",),
        )
        for number in range(AGENTS)
    ]


class _Author:
    """Writes the log: suite after suite, evenly over the days before `now`."""

    def __init__(self, now: datetime) -> None:
        self._end = now
        self._seq = 0
        self._random = random.Random(1)
        self._jobs: dict[str, Job] = {}

    def suite(self, number: int) -> list[Recorded]:
        self._jobs.clear()
        begin = self._end - timedelta(days=DAYS) * ((SUITES - number) / SUITES)
        org, branch = (
            ORGS[number % len(ORGS)],
            "main" if number % 3 == 0 else f"feature/{number % 97}",
        )
        specs = [
            self._spec(
                org, f"1.0.{number}", place, begin, {"branch": branch, "commit": f"{number:040x}"}
            )
            for place in range(JOBS_OF_SUITE)
        ]
        messages = [self._opening(specs, begin)]
        messages += [self._say(spec, Submit(spec), begin) for spec in specs]
        live = number >= SUITES - LIVE_SUITES
        running = specs[:: JOBS_OF_SUITE * LIVE_SUITES // (AGENTS * SLOTS)] if live else specs
        messages += [
            self._say(
                spec,
                Start(self._jobs[spec.job_id].ticket, f"agent-{n % AGENTS}-abc", "Pixel 8", True),
                begin,
            )
            for n, spec in enumerate(running)
        ]
        return (
            messages
            if live
            else messages
            + [self._say(spec, self._end_of(spec), begin + timedelta(minutes=5)) for spec in specs]
        )

    def _spec(
        self, org: str, version: str, place: int, at: datetime, tags: dict[str, str]
    ) -> JobSpec:
        test, target = (
            f"tests/area{place // 2 % 20}/screen{place // 2:04d}.spec.ts",
            TARGETS[(place % 2 + int(version[4:])) % len(TARGETS)],
        )
        suite_id = f"ci-{version[4:]}"
        return JobSpec(
            job_id=f"{version}-{place:04d}-{self._random.getrandbits(80):020x}",
            org_id=org,
            app_version_id=version,
            target=target,
            test=test,
            rank=self._random.choice((2, 5, 5, 5, 8)),
            max_retries=0,
            infra_retries=0,
            submitted_at=at,
            submitted_by="api:ci",
            suite_ids=(suite_id,),
            tags=tags,
        )

    def _opening(self, specs: list[JobSpec], at: datetime) -> Recorded:
        self._seq += 1
        (suite_id,), org, members = (
            specs[0].suite_ids,
            specs[0].org_id,
            tuple(member_of(spec, spec.job_id) for spec in specs),
        )
        event = SuiteOpened(
            suite_id=suite_id,
            org_id=org,
            at=at,
            submission=suite_id,
            jobs=members,
            tags=specs[0].tags,
        )
        return Recorded(
            self._seq, f"{suite_prefix(org, suite_id)}.{suite.OPENED}", None, suite.encode(event)
        )

    def _say(self, spec: JobSpec, command: Command, at: datetime) -> Recorded:
        self._seq += 1
        event = decide(command, self._jobs.get(spec.job_id), at)
        self._jobs[spec.job_id] = state_of(event, self._seq)
        rank = event.spec.rank if isinstance(event, Submitted | Requeued) else None
        return Recorded(
            self._seq,
            subjects.event_subject(subjects.slot_prefix(spec.slot), event_type(event), rank),
            event,
            codec.encode(event),
        )

    def _end_of(self, spec: JobSpec) -> EndAttempt:
        verdict = self._random.choice(_VERDICTS)
        outcome = Outcome(
            verdict=verdict,
            reason="tests_failed" if verdict is Verdict.FAILED else "",
            duration_s=self._random.uniform(5, 300),
        )
        return EndAttempt(self._jobs[spec.job_id].agent, 1, outcome)
