"""Jobs: one, lists by filter, their attempts, how long they take."""

from __future__ import annotations

import sqlite3
import statistics
from collections.abc import Iterator
from datetime import datetime
from itertools import groupby
from typing import Any

import msgspec

from qgjet.domain import codec, subjects
from qgjet.domain.attempts import AttemptRecord, attempts_of, end_replaced
from qgjet.domain.events import JobSpec, Requeued, Status, Submitted
from qgjet.domain.job import status_of
from qgjet_projections.readmodel.apply import Row
from qgjet_projections.readmodel.queries.reader import (
    BY_STATUS,
    COLUMNS,
    MAX_LIMIT,
    Reader,
    check_limit,
    page_of,
    read_cursor,
)
from qgjet_projections.readmodel.schema import instant, micros
from qgjet_projections.readmodel.views import (
    Duration,
    JobQuery,
    JobView,
    Page,
    SlotHistory,
    job_view,
)

_RECENT_JOBS, _RECENT_RUNS = 50_000, 10_000
"""How far back durations are looked for; without the first one a target with few runs would be
looked for in everything.
"""
_RUNS_PER_TEST = 10


class JobReads(Reader):
    def job(self, job_id: str) -> JobView | None:
        """The job; of several submissions under one id the last."""
        with self._snapshot() as connection:
            row = self._find(connection, job_id)
        return None if row is None else job_view(row)

    def spec(self, job_id: str) -> JobSpec | None:
        """The job as it was last submitted or requeued: what a rerun or a requeue starts from."""
        with self._snapshot() as connection:
            row = self._find(connection, job_id)
            found = (
                None
                if row is None
                else connection.execute(
                    "SELECT data FROM events WHERE seq = ?", (row.ticket,)
                ).fetchone()
            )
        event = None if found is None else codec.decode(found[0])
        return event.spec if isinstance(event, Submitted | Requeued) else None

    def jobs(self, query: JobQuery) -> Page[JobView]:
        """Jobs, last submitted first. Raises InvalidInput for a cursor that is none, or a limit out
        of bounds.
        """
        with self._snapshot() as connection:
            selects = [
                _select_jobs(msgspec.structs.replace(query, org_id=org_id))
                for org_id in self._asked(query.org_id)
            ]
            rows = [
                Row(*found) for sql, values in selects for found in connection.execute(sql, values)
            ]
        rows = sorted(rows, key=lambda row: -row.submitted_seq)[: query.limit + 1]
        return page_of(
            [job_view(row) for row in rows], [[row.submitted_seq] for row in rows], query.limit
        )

    def all_jobs(self, query: JobQuery) -> Iterator[JobView]:
        """Every job that the query is about, page by page; its cursor and limit are not looked at.
        Reads in pieces, not one snapshot.
        """
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
            history = connection.execute(
                "SELECT data FROM events WHERE submitted_seq = ? AND legal ORDER BY seq",
                (row.submitted_seq,),
            ).fetchall()
        attempts = attempts_of(codec.decode(data) for (data,) in history)
        if row.replaced_by and row.finished_at is not None:
            end_replaced(attempts, instant(row.finished_at))
        return attempts

    def suite_attempts(self, suite_id: str, org_id: str) -> dict[int, list[AttemptRecord]]:
        """The attempts of a suite's jobs, as `attempts` gives them, by the sequence of the
        submission; nothing for a job without one.
        """
        sql = """
            SELECT submitted_seq, replaced_by, finished_at, data FROM suite_jobs CROSS JOIN jobs USING (submitted_seq) CROSS JOIN events USING (submitted_seq)
            WHERE suite_jobs.suite_id = ? AND suite_jobs.org_id = ? AND legal AND type <> 'submitted' ORDER BY submitted_seq, events.seq"""
        found: dict[int, list[AttemptRecord]] = {}
        if self._orgs is not None and org_id not in self._orgs:
            return {}
        with self._snapshot() as connection:
            rows = connection.execute(sql, (suite_id, org_id)).fetchall()
        for (submitted_seq, replaced_by, finished_at), events in groupby(
            rows, key=lambda row: row[:3]
        ):
            found[submitted_seq] = attempts = attempts_of(codec.decode(data) for *_, data in events)
            if replaced_by and finished_at is not None:
                end_replaced(attempts, instant(finished_at))
        return found

    def durations(self, org_id: str, target: str) -> dict[str, Duration]:
        """test -> how long its last runs on the target took, over all app versions, as far as they
        are among the last jobs of the org.
        """
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
            test: Duration(
                median_s=statistics.median(last_first[:_RUNS_PER_TEST]),
                last_s=last_first[0],
                runs=len(last_first),
            )
            for test, last_first in runs.items()
        }

    def ended_histories(
        self, before: datetime, after_seq: int, limit: int
    ) -> tuple[list[SlotHistory], int | None]:
        """For each slot the last job that ended before and was not replaced, among the next `limit`
        submissions; and where to go on, None at the end.
        """
        later = "SELECT * FROM jobs AS later WHERE later.slot = jobs.slot AND later.submitted_seq > jobs.submitted_seq"
        with self._snapshot() as connection:
            window = connection.execute(
                "SELECT submitted_seq FROM jobs WHERE submitted_seq > ? ORDER BY 1 LIMIT ?",
                (after_seq, limit),
            ).fetchall()
            if not window:
                return [], None
            found = connection.execute(
                f"""SELECT slot, job_id, seq, (SELECT min(submitted_seq) FROM ({later})) FROM jobs
                WHERE submitted_seq > ? AND submitted_seq <= ? AND max(finished_at, changed_at) < ? AND replaced_by = ''
                AND NOT EXISTS ({later} AND max(finished_at, changed_at) < ? AND replaced_by = '')""",
                (after_seq, window[-1][0], micros(before), micros(before)),
            ).fetchall()
        histories = [
            SlotHistory(prefix=slot, job_id=job_id, last_seq=seq, next_seq=following or 0)
            for slot, job_id, seq, following in found
        ]
        return histories, window[-1][0] if len(window) == limit else None

    def _find(self, connection: sqlite3.Connection, job_id: str) -> Row | None:
        sql = f"SELECT {COLUMNS} FROM jobs WHERE job_id = :job_id AND {self._seen('jobs')} ORDER BY submitted_seq DESC LIMIT 1"
        found = connection.execute(sql, {"job_id": job_id, "orgs": self._orgs_json}).fetchone()
        return None if found is None else Row(*found)


def _select_jobs(query: JobQuery) -> tuple[str, dict[str, Any]]:
    check_limit(query.limit, MAX_LIMIT)
    (before_seq,) = read_cursor(query.cursor, [2**63 - 1])
    values: dict[str, Any] = {"before_seq": before_seq, "limit": query.limit + 1}
    status = (
        status_of(query.verdict)
        if query.verdict is not None and query.status is None
        else query.status
    )
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
    return (
        f"SELECT {COLUMNS} FROM {source} WHERE {' AND '.join(conditions)} ORDER BY {seq} DESC LIMIT :limit",
        values,
    )


def _source(
    query: JobQuery, status: Status | None, values: dict[str, Any]
) -> tuple[str, str, list[str]]:
    """Where to look first, by which column in order, and the conditions that go with it; the
    narrowest that the query allows.
    """
    tags = _tag_conditions(query.tags, values)
    if query.suite_id is not None:
        values["suite_id"] = query.suite_id
        only = [] if query.created is None else [f"suite_jobs.attached = {int(not query.created)}"]
        return (
            "suite_jobs CROSS JOIN jobs USING (submitted_seq)",
            "suite_jobs.submitted_seq",
            ["suite_jobs.suite_id = :suite_id", *only, *tags],
        )
    if tags:
        first = "job_tags.key = :key0 AND job_tags.value = :value0"
        return (
            "job_tags CROSS JOIN jobs USING (submitted_seq)",
            "job_tags.submitted_seq",
            [first, *tags[1:]],
        )
    if query.org_id is not None and query.app_version_id is not None:
        tokens = (
            subjects.encode_part(query.org_id, "org_id"),
            subjects.encode_part(query.app_version_id, "app_version_id"),
        )
        values["from_slot"] = ".".join((subjects.JOB_PREFIX, *tokens, ""))
        values["to_slot"] = values["from_slot"][:-1] + chr(ord(".") + 1)
        return (
            "jobs INDEXED BY jobs_of_slot",
            "jobs.submitted_seq",
            ["jobs.slot >= :from_slot AND jobs.slot < :to_slot"],
        )
    if status is not None and status is not Status.DONE:
        return BY_STATUS, "jobs.submitted_seq", ["jobs.status <> 'done'"]
    if query.test is not None:
        return "jobs INDEXED BY jobs_of_test", "jobs.submitted_seq", []
    if query.org_id is not None:
        return "jobs INDEXED BY jobs_of_org", "jobs.submitted_seq", []
    return "jobs NOT INDEXED", "jobs.submitted_seq", []


def _tag_conditions(tags: dict[str, str], values: dict[str, Any]) -> list[str]:
    conditions = []
    for number, (key, value) in enumerate(tags.items()):
        values[f"key{number}"], values[f"value{number}"] = key, value
        conditions.append(
            f"EXISTS (SELECT * FROM job_tags AS t WHERE t.key = :key{number} AND t.value = :value{number} AND t.submitted_seq = jobs.submitted_seq)"
        )
    return conditions
