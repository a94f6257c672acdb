"""The read model: what the event log adds up to, in one SQLite file, asked with plain synchronous queries.

Every method takes its own connection from a pool, so it may be called from any thread (`asyncio.to_thread`) while the projector writes. One call sees one
moment: its statements share a snapshot. Nothing here is an authority; the file can be thrown away and is made anew from the log.
"""

from __future__ import annotations

import base64
import contextlib
import sqlite3
import statistics
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from qgjet import codec, subjects
from qgjet.attempts import AttemptRecord, attempts_of, end_replaced
from qgjet.controls import Kind, Paused
from qgjet.errors import InvalidInput
from qgjet.events import LIVE, JobSpec, Partition, Requeued, Slot, Status, Submitted, Verdict
from qgjet.job import status_of
from qgjet_projections import schema
from qgjet_projections.batch import DAY, HOUR, Row
from qgjet_projections.schema import instant, micros
from qgjet_projections.views import (
    Counts,
    DeadLetter,
    DeadQuery,
    Duration,
    EndedSuite,
    EventView,
    HourView,
    JobQuery,
    JobView,
    LiveJob,
    Page,
    PartitionView,
    Settlement,
    SlotHistory,
    SuiteView,
    T,
    TestDay,
    TestQuery,
    TestView,
    WaitingView,
    job_view,
    maybe_instant,
)

__all__ = ["Counts", "DeadLetter", "DeadQuery", "Duration", "EventView", "JobQuery", "JobView", "LiveJob", "Page", "PartitionView", "ReadModel", "SuiteView"]

MAX_LIMIT = 500
MAX_EVENTS = 1_000
_PIECE = 1_000
_NEAR = 1_000
"""This close to its end the log is looked through event by event; what is further back is found by the jobs of the suite."""
_RECENT_JOBS, _RECENT_RUNS = 50_000, 10_000
"""How far back durations are looked for; without the first one a target with few runs would be looked for in everything."""
_RUNS_PER_TEST = 10
_COLUMNS = ", ".join(f"jobs.{name}" for name in Row.__struct_fields__)
_SAYS_SOMETHING = (Verdict.PASSED, Verdict.FLAKY, Verdict.FAILED, Verdict.TIMED_OUT)
_OF_DEAD = "settled, settled_at, settled_by, note"
_DEAD_COLUMNS = 4
_LIVE = ", ".join(f"'{status.value}'" for status in sorted(LIVE))
_BY_STATUS = "jobs INDEXED BY jobs_by_status"
"""Goes with the condition `status <> 'done'`, which SQLite wants to read before it takes the index."""

_OF_JOB = """(events.submitted_seq IN (SELECT submitted_seq FROM jobs WHERE job_id = :job_id)
    OR events.seq IN (SELECT seq FROM jobs WHERE job_id = :job_id AND replaced_by <> ''))"""
_OF_SUITE = """(events.submitted_seq IN (SELECT submitted_seq FROM suite_jobs WHERE suite_id = :suite_id)
    OR events.seq IN (SELECT seq FROM suite_jobs CROSS JOIN jobs USING (submitted_seq) WHERE suite_id = :suite_id AND replaced_by <> ''))"""


class _Pool:
    """Connections that wait for their next use."""

    def __init__(self) -> None:
        self.idle: deque[sqlite3.Connection] = deque()
        self.closed = False


class ReadModel:
    """Made by `open`; `close` when done. `seen_by` gives what somebody may see of it, of the same connections."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pool = _Pool()
        self._orgs: frozenset[str] | None = None
        """The orgs that there seem to be; None: all there are."""

    def seen_by(self, orgs: frozenset[str] | None) -> ReadModel:
        """The same as if there were nothing but `orgs` in it; None: no limit. `counts` knows no orgs, and is for those who may see all."""
        if orgs is None:
            return self
        view = ReadModel(self.path)
        view._pool, view._orgs = self._pool, orgs if self._orgs is None else orgs & self._orgs
        return view

    @classmethod
    def open(cls, path: Path) -> ReadModel:
        """The read model in `path`, made when it is missing.

        A file of another schema version, or one that is damaged, is thrown away: the projector fills the new one from the log. Raises SchemaMismatch for
        a database that is not ours.
        """
        schema.prepare(path)
        return cls(path)

    def close(self) -> None:
        """Close all connections; those in use close when they are given back. A second call is harmless."""
        self._pool.closed = True
        with contextlib.suppress(IndexError):
            while True:
                self._pool.idle.pop().close()

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one moment of the database."""
        connection = self._take()
        try:
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.rollback()
            self._pool.idle.append(connection)
            if self._pool.closed:
                self.close()

    def _take(self) -> sqlite3.Connection:
        if self._pool.closed:
            raise RuntimeError(f"the read model {self.path} is closed")
        try:
            return self._pool.idle.pop()
        except IndexError:
            connection = schema.connect(self.path)
            connection.execute("PRAGMA query_only = 1")
            return connection

    @property
    def applied_seq(self) -> int:
        """The log is applied up to here."""
        with self._snapshot() as connection:
            return int(connection.execute("SELECT applied_seq FROM position").fetchone()[0])

    def _asked(self, org_id: str | None) -> list[str | None]:
        """The orgs to look at, one query each: each then has its index, and comes in order. [None]: all of them at once."""
        if self._orgs is None:
            return [org_id]
        return [org for org in sorted(self._orgs) if org_id in (None, org)]

    def _find(self, connection: sqlite3.Connection, job_id: str) -> Row | None:
        sql = f"SELECT {_COLUMNS} FROM jobs WHERE job_id = :job_id AND {self._seen('jobs')} ORDER BY submitted_seq DESC LIMIT 1"
        found = connection.execute(sql, {"job_id": job_id, "orgs": self._orgs_json}).fetchone()
        return None if found is None else Row(*found)

    def _seen(self, table: str) -> str:
        """The condition that a row of a table is of an org that is seen, with the value `:orgs`. No index is used for it."""
        return "TRUE" if self._orgs is None else f"+{table}.org_id IN (SELECT value FROM json_each(:orgs))"

    @property
    def _orgs_json(self) -> str | None:
        return None if self._orgs is None else msgspec.json.encode(sorted(self._orgs)).decode()

    # -- jobs --------------------------------------------------------------------------------------------------------

    def job(self, job_id: str) -> JobView | None:
        """The job; of several submissions under one id the last."""
        with self._snapshot() as connection:
            row = self._find(connection, job_id)
        return None if row is None else job_view(row)

    def spec(self, job_id: str) -> JobSpec | None:
        """The job as it was last submitted or requeued: what a rerun or a requeue starts from."""
        with self._snapshot() as connection:
            row = self._find(connection, job_id)
            found = None if row is None else connection.execute("SELECT data FROM events WHERE seq = ?", (row.ticket,)).fetchone()
        event = None if found is None else codec.decode(found[0])
        return event.spec if isinstance(event, Submitted | Requeued) else None

    def jobs(self, query: JobQuery) -> Page[JobView]:
        """Jobs, last submitted first. Raises InvalidInput for a cursor that is none, or a limit out of bounds."""
        with self._snapshot() as connection:
            selects = [_select_jobs(msgspec.structs.replace(query, org_id=org_id)) for org_id in self._asked(query.org_id)]
            rows = [Row(*found) for sql, values in selects for found in connection.execute(sql, values)]
        rows = sorted(rows, key=lambda row: -row.submitted_seq)[: query.limit + 1]
        return _page([job_view(row) for row in rows], [[row.submitted_seq] for row in rows], query.limit)

    def all_jobs(self, query: JobQuery) -> Iterator[JobView]:
        """Every job that the query is about, page by page; its cursor and limit are not looked at. Reads in pieces, not one snapshot."""
        query = msgspec.structs.replace(query, cursor=None, limit=MAX_LIMIT)
        while True:
            page = self.jobs(query)
            yield from page.items
            if page.next_cursor is None:
                return
            query = msgspec.structs.replace(query, cursor=page.next_cursor)

    def attempts(self, job_id: str) -> list[AttemptRecord]:
        """The job's attempts, first to last, with their tests and artifacts."""
        with self._snapshot() as connection:
            row = self._find(connection, job_id)
            if row is None:
                return []
            history = connection.execute("SELECT data FROM events WHERE submitted_seq = ? AND legal ORDER BY seq", (row.submitted_seq,)).fetchall()
        attempts = attempts_of(codec.decode(data) for (data,) in history)
        if row.replaced_by and row.finished_at is not None:
            end_replaced(attempts, instant(row.finished_at))
        return attempts

    def live_jobs(self) -> Iterator[LiveJob]:
        """Queued jobs, then running ones, each first submitted first. Read in pieces: no snapshot is held while the caller works."""
        for status in (Status.QUEUED, Status.RUNNING):
            after_seq = 0
            while True:
                with self._snapshot() as connection:
                    sql = f"SELECT {_COLUMNS} FROM {_BY_STATUS} WHERE status <> 'done' AND status = ? AND submitted_seq > ? ORDER BY submitted_seq LIMIT ?"
                    rows = [Row(*found) for found in connection.execute(sql, (status.value, after_seq, _PIECE))]
                if not rows:
                    break
                yield from map(_live_job, rows)
                after_seq = rows[-1].submitted_seq

    def durations(self, org_id: str, target: str) -> dict[str, Duration]:
        """test -> how long its last runs on the target took, over all app versions, as far as they are among the last jobs of the org."""
        sql = """
            SELECT test, duration_s FROM jobs INDEXED BY jobs_of_org
            WHERE org_id = :org_id AND target = :target AND verdict IN ('passed', 'flaky', 'failed', 'timed_out') AND duration_s IS NOT NULL
            AND submitted_seq > coalesce((SELECT submitted_seq FROM jobs WHERE org_id = :org_id ORDER BY submitted_seq DESC LIMIT 1 OFFSET :jobs), 0)
            ORDER BY submitted_seq DESC LIMIT :runs"""
        values = {"org_id": org_id, "target": target, "jobs": _RECENT_JOBS, "runs": _RECENT_RUNS}
        runs: dict[str, list[float]] = {}
        if self._orgs is not None and org_id not in self._orgs:
            return {}
        with self._snapshot() as connection:
            for test, duration_s in connection.execute(sql, values):
                runs.setdefault(test, []).append(duration_s)
        return {
            test: Duration(median_s=statistics.median(last_first[:_RUNS_PER_TEST]), last_s=last_first[0], runs=len(last_first))
            for test, last_first in runs.items()
        }

    # -- events ------------------------------------------------------------------------------------------------------

    def events(
        self, *, after_seq: int, job_id: str | None = None, org_id: str | None = None, suite_id: str | None = None, limit: int = MAX_EVENTS
    ) -> list[EventView]:
        """Events after a sequence, in order. Those of a job, or a suite, include the submission that replaced the job: it is the job's end."""
        _check_limit(limit, MAX_EVENTS)
        with self._snapshot() as connection:
            (applied_seq,) = connection.execute("SELECT applied_seq FROM position").fetchone()
            near = applied_seq - after_seq <= _NEAR
            found: list[Sequence[Any]] = []
            for org in self._asked(org_id):
                sql = _select_events(near=near, job_id=job_id, org_id=org, suite_id=suite_id)
                values = {"after_seq": after_seq, "job_id": job_id, "org_id": org, "suite_id": suite_id, "limit": limit}
                found += connection.execute(sql, values)
        return [_event_view(one) for one in sorted(found, key=lambda one: int(one[0]))[:limit]]

    # -- suites, partitions, counts ----------------------------------------------------------------------------------

    def suite(self, suite_id: str, org_id: str | None = None) -> SuiteView | None:
        """The suite; without an org the first that has one of this id."""
        sql = f"SELECT min(org_id) FROM suite_jobs WHERE suite_id = :suite_id AND (:org_id IS NULL OR org_id = :org_id) AND {self._seen('suite_jobs')}"
        with self._snapshot() as connection:
            (org,) = connection.execute(sql, {"suite_id": suite_id, "org_id": org_id, "orgs": self._orgs_json}).fetchone()
            return None if org is None else _suite_view(connection, suite_id, org)

    def suites(self, org_id: str | None = None, limit: int = 100, cursor: str | None = None) -> Page[SuiteView]:
        """Suites, newest first."""
        _check_limit(limit, MAX_LIMIT)
        opened_before, below = _read_cursor(cursor, [2**63 - 1, ""])
        found: list[Sequence[Any]] = []
        with self._snapshot() as connection:
            for org in self._asked(org_id):
                sql = f"""
                    SELECT suite_id, org_id, opened_seq FROM suites
                    WHERE (opened_seq, suite_id) < (:opened_before, :below) {"" if org is None else "AND org_id = :org_id"}
                    ORDER BY opened_seq DESC, suite_id DESC LIMIT :limit + 1"""
                found += connection.execute(sql, {"org_id": org, "opened_before": opened_before, "below": below, "limit": limit})
            found = sorted(found, key=lambda one: (one[2], one[0]), reverse=True)[: limit + 1]
            views = [_suite_view(connection, suite_id, org) for suite_id, org, _ in found[:limit]]
        return _page([view for view in views if view is not None], [[opened_seq, suite_id] for suite_id, _, opened_seq in found], limit)

    def suite_before(self, suite: SuiteView) -> SuiteView | None:
        """The org's last suite before this one on the same branch, as the tag `branch` says; None when there is none, or it has no such tag."""
        branch = suite.tags.get("branch")
        if not branch:
            return None
        sql = """
            SELECT suite_id FROM openings WHERE org_id = :org_id AND suite_id <> :suite_id AND tags ->> '$.branch' = :branch
            AND seq < (SELECT min(seq) FROM openings WHERE org_id = :org_id AND suite_id = :suite_id) ORDER BY seq DESC LIMIT 1"""
        with self._snapshot() as connection:
            found = connection.execute(sql, {"org_id": suite.org_id, "suite_id": suite.suite_id, "branch": branch}).fetchone()
            return None if found is None else _suite_view(connection, found[0], suite.org_id)

    def incomplete_submissions(self, before: datetime) -> list[tuple[str, str, str]]:
        """(org, suite, submission) of large submissions that have not gone on since `before`."""
        sql = """
            SELECT org_id, suite_id, submission FROM openings GROUP BY org_id, suite_id, submission
            HAVING min(to_come) > 0 AND max(at) < ? ORDER BY max(seq)"""
        with self._snapshot() as connection:
            return connection.execute(sql, (micros(before),)).fetchall()

    def ended_histories(self, before: datetime, after_seq: int, limit: int) -> tuple[list[SlotHistory], int | None]:
        """For each slot the last job that ended before and was not replaced, among the next `limit` submissions; and where to go on, None at the end."""
        later = "SELECT * FROM jobs AS later WHERE later.slot = jobs.slot AND later.submitted_seq > jobs.submitted_seq"
        with self._snapshot() as connection:
            window = connection.execute("SELECT submitted_seq FROM jobs WHERE submitted_seq > ? ORDER BY 1 LIMIT ?", (after_seq, limit)).fetchall()
            if not window:
                return [], None
            found = connection.execute(
                f"""SELECT slot, job_id, seq, (SELECT min(submitted_seq) FROM ({later})) FROM jobs
                WHERE submitted_seq > ? AND submitted_seq <= ? AND finished_at < ? AND replaced_by = ''
                AND NOT EXISTS ({later} AND finished_at < ? AND replaced_by = '')""",
                (after_seq, window[-1][0], micros(before), micros(before)),
            ).fetchall()
        histories = [SlotHistory(prefix=slot, job_id=job_id, last_seq=seq, next_seq=following or 0) for slot, job_id, seq, following in found]
        return histories, window[-1][0] if len(window) == limit else None

    def ended_suites(self, before: datetime) -> list[EndedSuite]:
        """Suites that were last opened before and have no jobs any more."""
        sql = """
            SELECT org_id, suite_id, max(seq) FROM openings
            WHERE NOT EXISTS (SELECT * FROM suite_jobs WHERE (suite_jobs.suite_id, suite_jobs.org_id) = (openings.suite_id, openings.org_id))
            GROUP BY 1, 2 HAVING max(at) < ?"""
        with self._snapshot() as connection:
            found = connection.execute(sql, (micros(before),)).fetchall()
        return [EndedSuite(org_id=org_id, suite_id=suite_id, last_seq=seq) for org_id, suite_id, seq in found]

    def partitions(self) -> list[PartitionView]:
        """Partitions with live jobs."""
        sql = f"""
            SELECT org_id, app_version_id, target, status, rank, count(*), min(queued_at) FROM {_BY_STATUS}
            WHERE status <> 'done' AND status IN ({_LIVE}) AND {self._seen("jobs")} GROUP BY 1, 2, 3, 4, 5"""
        with self._snapshot() as connection:
            found = connection.execute(sql, {"orgs": self._orgs_json}).fetchall()
        partitions: dict[Partition, list[Sequence[Any]]] = {}
        for org_id, app_version_id, target, *lane in found:
            partitions.setdefault(Partition(org_id, app_version_id, target), []).append(lane)
        return [_partition_view(partition, lanes) for partition, lanes in sorted(partitions.items())]

    def waiting(self, now: datetime) -> list[WaitingView]:
        """Queued jobs, counted by partition."""
        sql = f"""
            SELECT org_id, app_version_id, target, count(*), coalesce(sum(retry_at > :now), 0) FROM {_BY_STATUS}
            WHERE status <> 'done' AND status = 'queued' AND {self._seen("jobs")} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"""
        with self._snapshot() as connection:
            found = connection.execute(sql, {"now": micros(now), "orgs": self._orgs_json}).fetchall()
        return [WaitingView(partition=Partition(*tokens), queued=queued, in_backoff=backoff) for *tokens, queued, backoff in found]

    def pauses(self) -> list[Paused]:
        """What was told to wait; `until` may be over."""
        sql = "SELECT kind, name, at, until, reason, by FROM pauses WHERE kind <> 'org' OR :orgs IS NULL OR name IN (SELECT value FROM json_each(:orgs))"
        with self._snapshot() as connection:
            found = connection.execute(f"{sql} ORDER BY kind, name", {"orgs": self._orgs_json}).fetchall()
        return [
            Paused(kind=Kind(kind), name=name, at=instant(at), until=maybe_instant(until), reason=reason, by=by) for kind, name, at, until, reason, by in found
        ]

    # -- statistics --------------------------------------------------------------------------------------------------

    def hours(self, since: datetime, *, org_id: str | None = None, target: str | None = None) -> list[HourView]:
        """Hours from `since` on in which jobs ended, first to last."""
        sql = f"""
            SELECT hour, verdict, sum(jobs) FROM hours
            WHERE hour >= :since AND (:org_id IS NULL OR org_id = :org_id) AND (:target IS NULL OR target = :target) AND {self._seen("hours")}
            GROUP BY 1, 2 ORDER BY 1"""
        hours: dict[int, dict[str, int]] = {}
        with self._snapshot() as connection:
            for hour, verdict, jobs in connection.execute(sql, {"since": micros(since) // HOUR, "org_id": org_id, "target": target, "orgs": self._orgs_json}):
                hours.setdefault(hour, {})[verdict] = jobs
        return [HourView(hour=instant(hour * HOUR), verdicts=verdicts) for hour, verdicts in hours.items()]

    def hours_by_place(self, since: datetime) -> dict[tuple[str, str], list[HourView]]:
        """(target, org) -> hours from `since` on in which its jobs ended, first to last."""
        sql = f"""
            SELECT target, org_id, hour, verdict, jobs FROM hours WHERE hour >= :since AND {self._seen("hours")} ORDER BY 1, 2, 3, 4"""
        places: dict[tuple[str, str], dict[int, dict[str, int]]] = {}
        with self._snapshot() as connection:
            for target, org_id, hour, verdict, jobs in connection.execute(sql, {"since": micros(since) // HOUR, "orgs": self._orgs_json}):
                places.setdefault((target, org_id), {}).setdefault(hour, {})[verdict] = jobs
        return {place: [HourView(hour=instant(hour * HOUR), verdicts=found) for hour, found in hours.items()] for place, hours in places.items()}

    def tests(self, query: TestQuery) -> list[TestView]:
        """How each test went on each target since then."""
        return [TestView(**said) for _, said in self._test_sums(query, "0")]

    def test_days(self, query: TestQuery) -> list[TestDay]:
        """The same day by day, first to last."""
        return [TestDay(**said, day=instant(day * DAY)) for day, said in self._test_sums(query, "day")]

    def _test_sums(self, query: TestQuery, by: str) -> list[tuple[int, dict[str, Any]]]:
        values = {"since": micros(query.since) // DAY, "orgs": self._orgs_json}
        conditions = ["day >= :since", self._seen("test_days")]
        for name in ("org_id", "target", "test"):
            if (value := getattr(query, name)) is not None:
                conditions.append(f"{name} = :{name}")
                values[name] = value
        sql = f"""
            SELECT {by}, org_id, target, test, verdict, sum(jobs), sum(timed), sum(duration_ms) FROM test_days
            WHERE {" AND ".join(conditions)} GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4"""
        sums: dict[tuple[Any, ...], list[Sequence[Any]]] = {}
        with self._snapshot() as connection:
            for *key, verdict, jobs, timed, duration_ms in connection.execute(sql, values):
                sums.setdefault(tuple(key), []).append((verdict, jobs, timed, duration_ms))
        return [(key[0], _test_fields(key, counts)) for key, counts in sums.items()]

    # -- dead letters ------------------------------------------------------------------------------------------------

    def dead_letters(self, query: DeadQuery) -> Page[DeadLetter]:
        """Last submitted first. Raises InvalidInput for a cursor that is none, or a limit out of bounds."""
        sql, values = _select_dead(query, self._seen("jobs"))
        with self._snapshot() as connection:
            found = connection.execute(sql, {**values, "orgs": self._orgs_json}).fetchall()
        return _page([_dead_letter(one) for one in found], [[one[_DEAD_COLUMNS]] for one in found], query.limit)

    def dead_count(self) -> int:
        """Dead letters that nobody has dealt with."""
        with self._snapshot() as connection:
            sql = f"SELECT count(*) FROM dead_letters WHERE settled = '' AND {self._seen('dead_letters')}"
            return int(connection.execute(sql, {"orgs": self._orgs_json}).fetchone()[0])

    def dead_letter(self, job_id: str) -> DeadLetter | None:
        """The job as a dead letter; None when it is none."""
        sql = f"""
            SELECT {_OF_DEAD}, {_COLUMNS} FROM jobs CROSS JOIN dead_letters USING (submitted_seq)
            WHERE job_id = :job_id AND {self._seen("jobs")} ORDER BY submitted_seq DESC LIMIT 1"""
        with self._snapshot() as connection:
            found = connection.execute(sql, {"job_id": job_id, "orgs": self._orgs_json}).fetchone()
        return None if found is None else _dead_letter(found)

    def counts(self) -> Counts:
        with self._snapshot() as connection:
            dead = connection.execute("SELECT target, count(*) FROM dead_letters WHERE settled = '' GROUP BY target").fetchall()
            tallies = connection.execute("SELECT target, status, verdict, jobs, attempts FROM tallies").fetchall()
            oldest = connection.execute(
                f"SELECT target, min(queued_at) FROM {_BY_STATUS} WHERE status <> 'done' AND status = 'queued' GROUP BY target"
            ).fetchall()
        jobs: dict[tuple[str, Status], int] = {}
        finished: dict[tuple[str, Verdict], int] = {}
        attempts: dict[str, int] = {}
        for target, status, verdict, count, started in tallies:
            jobs[target, Status(status)] = jobs.get((target, Status(status)), 0) + count
            attempts[target] = attempts.get(target, 0) + started
            if verdict:
                finished[target, Verdict(verdict)] = finished.get((target, Verdict(verdict)), 0) + count
        return Counts(jobs=jobs, finished=finished, attempts=attempts, oldest_queued_at={target: instant(at) for target, at in oldest}, dead_letters=dict(dead))


def _select_jobs(query: JobQuery) -> tuple[str, dict[str, Any]]:
    _check_limit(query.limit, MAX_LIMIT)
    (before_seq,) = _read_cursor(query.cursor, [2**63 - 1])
    values: dict[str, Any] = {"before_seq": before_seq, "limit": query.limit + 1}
    status = status_of(query.verdict) if query.verdict is not None and query.status is None else query.status
    wanted = {
        "org_id": query.org_id,
        "app_version_id": query.app_version_id,
        "target": query.target,
        "test": query.test,
        "status": status,
        "verdict": query.verdict,
    }
    conditions = []
    for name, value in wanted.items():
        if value is not None:
            conditions.append(f"jobs.{name} = :{name}")
            values[name] = str(value)
    source, seq, more = _source(query, status, values)
    conditions += [f"{seq} < :before_seq", *more]
    return f"SELECT {_COLUMNS} FROM {source} WHERE {' AND '.join(conditions)} ORDER BY {seq} DESC LIMIT :limit", values


def _source(query: JobQuery, status: Status | None, values: dict[str, Any]) -> tuple[str, str, list[str]]:
    """Where to look first, by which column in order, and the conditions that go with it; the narrowest that the query allows."""
    tags = _tag_conditions(query.tags, values)
    if query.suite_id is not None:
        values["suite_id"] = query.suite_id
        only = [] if query.created is None else [f"suite_jobs.attached = {int(not query.created)}"]
        return "suite_jobs CROSS JOIN jobs USING (submitted_seq)", "suite_jobs.submitted_seq", ["suite_jobs.suite_id = :suite_id", *only, *tags]
    if tags:
        first = "job_tags.key = :key0 AND job_tags.value = :value0"
        return "job_tags CROSS JOIN jobs USING (submitted_seq)", "job_tags.submitted_seq", [first, *tags[1:]]
    if query.org_id is not None and query.app_version_id is not None:
        tokens = subjects.encode_part(query.org_id, "org_id"), subjects.encode_part(query.app_version_id, "app_version_id")
        values["from_slot"] = ".".join((subjects.JOB_PREFIX, *tokens, ""))
        values["to_slot"] = values["from_slot"][:-1] + chr(ord(".") + 1)
        return "jobs INDEXED BY jobs_of_slot", "jobs.submitted_seq", ["jobs.slot >= :from_slot AND jobs.slot < :to_slot"]
    if status is not None and status is not Status.DONE:
        return _BY_STATUS, "jobs.submitted_seq", ["jobs.status <> 'done'"]
    if query.test is not None:
        return "jobs INDEXED BY jobs_of_test", "jobs.submitted_seq", []
    if query.org_id is not None:
        return "jobs INDEXED BY jobs_of_org", "jobs.submitted_seq", []
    return "jobs NOT INDEXED", "jobs.submitted_seq", []


def _select_dead(query: DeadQuery, seen: str) -> tuple[str, dict[str, Any]]:
    _check_limit(query.limit, MAX_LIMIT)
    (before_seq,) = _read_cursor(query.cursor, [2**63 - 1])
    values: dict[str, Any] = {"before_seq": before_seq, "limit": query.limit + 1}
    conditions = ["settled <> ''" if query.settled else "settled = ''", "dead_letters.submitted_seq < :before_seq", seen]
    for name in ("org_id", "app_version_id", "target", "test", "verdict", "reason"):
        value = getattr(query, name)
        if value is not None:
            conditions.append(f"jobs.{name} = :{name}")
            values[name] = str(value)
    if query.finished_before is not None:
        conditions.append("jobs.finished_at < :finished_before")
        values["finished_before"] = micros(query.finished_before)
    source = "dead_letters CROSS JOIN jobs USING (submitted_seq)"
    where = " AND ".join(conditions)
    return f"SELECT {_OF_DEAD}, {_COLUMNS} FROM {source} WHERE {where} ORDER BY dead_letters.submitted_seq DESC LIMIT :limit", values


def _test_fields(key: Sequence[Any], counts: Sequence[Sequence[Any]]) -> dict[str, Any]:
    _, org_id, target, test = key
    verdicts = {verdict: jobs for verdict, jobs, *_ in counts}
    runs = sum(verdicts.get(verdict, 0) for verdict in _SAYS_SOMETHING)
    timed, duration_ms = sum(one[2] for one in counts), sum(one[3] for one in counts)
    flaky = verdicts.get(Verdict.FLAKY, 0)
    return {
        "org_id": org_id,
        "target": target,
        "test": test,
        "runs": runs,
        "verdicts": verdicts,
        "pass_rate": (verdicts.get(Verdict.PASSED, 0) + flaky) / runs if runs else None,
        "flaky_rate": flaky / runs if runs else None,
        "mean_s": duration_ms / timed / 1000 if timed else None,
    }


def _dead_letter(found: Sequence[Any]) -> DeadLetter:
    how, at, by, note, *columns = found
    settlement = Settlement(how=how, at=instant(at), by=by, note=note) if how else None
    return DeadLetter(job=job_view(Row(*columns)), settlement=settlement)


def _tag_conditions(tags: dict[str, str], values: dict[str, Any]) -> list[str]:
    conditions = []
    for number, (key, value) in enumerate(tags.items()):
        values[f"key{number}"], values[f"value{number}"] = key, value
        conditions.append(
            f"EXISTS (SELECT * FROM job_tags AS t WHERE t.key = :key{number} AND t.value = :value{number} AND t.submitted_seq = jobs.submitted_seq)"
        )
    return conditions


def _select_events(*, near: bool, job_id: str | None, org_id: str | None, suite_id: str | None) -> str:
    narrower = job_id is not None or suite_id is not None
    of_org = f"{'+' if narrower else ''}events.org_id = :org_id"  # the plus: look for the job, and not through all events of its org
    wanted = ((_OF_JOB, job_id), (_OF_SUITE, suite_id), (of_org, org_id))
    conditions = ["events.seq > :after_seq", *(condition for condition, value in wanted if value is not None)]
    return f"""SELECT events.seq, at, type, coalesce(job_id, ''), events.org_id, legal, data
        FROM events {"NOT INDEXED" if near else ""} LEFT JOIN jobs USING (submitted_seq)
        WHERE {" AND ".join(conditions)} ORDER BY events.seq LIMIT :limit"""


def _live_job(row: Row) -> LiveJob:
    running = row.status == Status.RUNNING
    since = row.started_at if running and row.started_at is not None else row.queued_at
    return LiveJob(
        job_id=row.job_id,
        slot=Slot(row.org_id, row.app_version_id, row.target, row.test),
        status=Status(row.status),
        ticket=row.ticket,
        rank=row.rank,
        agent=row.agent if running else "",
        attempt=row.attempt,
        cancel_requested=bool(row.cancel_requested),
        since=instant(since),
        retry_at=maybe_instant(row.retry_at),
        queue_timeout_s=row.queue_timeout_s,
        submitted_at=instant(row.created_at),
        seq=row.seq,
    )


def _event_view(found: Sequence[Any]) -> EventView:
    seq, at, name, job_id, org_id, legal, data = found
    return EventView(seq=seq, at=maybe_instant(at), type=name, job_id=job_id, org_id=org_id, legal=bool(legal), payload=data)


def _suite_view(connection: sqlite3.Connection, suite_id: str, org_id: str) -> SuiteView | None:
    groups = connection.execute(
        """SELECT status, coalesce(verdict, ''), count(*), min(created_at), max(finished_at), max(seq), sum(attached) 
           FROM suite_jobs CROSS JOIN jobs USING (submitted_seq)
           WHERE suite_jobs.suite_id = ? AND suite_jobs.org_id = ? GROUP BY 1, 2""",
        (suite_id, org_id),
    ).fetchall()
    if not groups:
        return None
    openings = connection.execute(
        "SELECT submission, at, to_come, tags, seq FROM openings WHERE suite_id = ? AND org_id = ? ORDER BY seq", (suite_id, org_id)
    ).fetchall()
    tags: dict[str, str] = {}
    for _, _, _, said, _ in openings:
        tags |= msgspec.json.decode(said, type=dict[str, str])
    statuses: Counter[str] = Counter()
    verdicts: Counter[str] = Counter()
    for status, verdict, count, *_ in groups:
        statuses[status] += count
        verdicts[verdict] += count if verdict else 0
    live = sum(statuses[status] for status in LIVE)
    return SuiteView(
        suite_id=suite_id,
        org_id=org_id,
        jobs=statuses.total(),
        attached=sum(attached for *_, attached in groups),
        to_come=sum({submission: to_come for submission, _, to_come, _, _ in openings}.values()),  # of each submission the last one counts
        tags=tags,
        live=live,
        statuses=dict(+statuses),
        verdicts=dict(+verdicts),
        created_at=instant(openings[0][1] if openings else min(created_at for _, _, _, created_at, *_ in groups)),
        finished_at=None if live else instant(max(finished_at for _, _, _, _, finished_at, *_ in groups)),
        seq=max(*(seq for _, _, _, _, _, seq, _ in groups), *(seq for *_, seq in openings), 0),
    )


def _partition_view(partition: Partition, lanes: list[Sequence[Any]]) -> PartitionView:
    queued = [(rank, count, oldest) for status, rank, count, oldest in lanes if status == Status.QUEUED]
    return PartitionView(
        org_id=partition.org_id,
        app_version_id=partition.app_version_id,
        target=partition.target,
        queued=sum(count for _, count, _ in queued),
        queued_by_rank={rank: count for rank, count, _ in queued},
        running=sum(count for status, _, count, _ in lanes if status == Status.RUNNING),
        oldest_queued_at=maybe_instant(min((oldest for _, _, oldest in queued), default=None)),
    )


def _page(items: list[T], keys: list[list[Any]], limit: int) -> Page[T]:
    """The first `limit` of `items`; there is one more, or its key, if another page follows."""
    more = len(keys) > limit
    return Page(items[:limit], _cursor(keys[limit - 1]) if more else None)


def _cursor(key: list[Any]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def _read_cursor(cursor: str | None, start: list[Any]) -> list[Any]:
    """The key in a cursor, of the same shape as `start`, which stands for none."""
    if cursor is None:
        return start
    try:
        key = msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=list[int | str])
    except (msgspec.MsgspecError, ValueError):
        key = []
    if [type(part) for part in key] != [type(part) for part in start] or not 0 <= int(key[0]) < 2**63:
        raise InvalidInput("cursor", "is not one that a page ended with")
    return list(key)


def _check_limit(limit: int, most: int) -> None:
    if not 1 <= limit <= most:
        raise InvalidInput("limit", f"must be from 1 to {most}")
