"""The writing side of the read model: one transaction per batch, rows and position together.

Several processes may write one file: a transaction starts from the position it finds, so what
somebody else has applied is skipped, never applied twice. Whatever ends a transaction early (a
crash, SIGKILL, a full disk) leaves the file at the position before it.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import fields

from qgjet.store.event_log import Recorded
from qgjet_projections.readmodel import schema
from qgjet_projections.readmodel.apply import (
    TEST_SUMS,
    Batch,
    Ended,
    Row,
    Standing,
    slot_key,
    standing_of,
    statistics_of,
)
from qgjet_projections.readmodel.schema import instant, micros

KNOWN_SLOTS = 5_000
"""Slots whose latest job is kept in memory between batches, some 1.5 kB each: those under way,
mostly. Others are loaded with one statement per batch.
"""
CHECKPOINT_PAGES = 8_000
"""Size of the write-ahead log at which SQLite copies it into the file: 32 MB; the default of 4 MB
halves the rate of catching up.
"""
_KEYS_PER_STATEMENT = (1, 64, 4_096)
"""Statements are padded to one of these, so that few have to be prepared. Few and large: each one
gives the interpreter lock away and has to wait for it.
"""

_COLUMNS = tuple(field.name for field in fields(Row))
_FIXED = frozenset(
    {
        "submitted_seq",
        "job_id",
        "slot",
        "org_id",
        "app_version_id",
        "target",
        "test",
        "accepted_at",
        "created_at",
        "replaces",
        "rerun_of",
    }
)
_INTO_JOBS = f"INSERT INTO jobs ({', '.join(_COLUMNS)}) VALUES"
_OR_UPDATE = "ON CONFLICT (submitted_seq) DO UPDATE SET " + ", ".join(
    f"{column} = excluded.{column}" for column in _COLUMNS if column not in _FIXED
)
_ROWS_PER_STATEMENT = (128, 16, 1)
"""Many rows in one step: SQLite gives the interpreter lock away at each, and then has to wait until
the event loop lets go of it.
"""
_TALLY = """
INSERT INTO tallies VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET jobs = jobs + excluded.jobs, attempts = attempts + excluded.attempts"""
_HOURS = (
    "INSERT INTO hours VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET jobs = jobs + excluded.jobs"
)
_SUMS = ", ".join(TEST_SUMS)
_ADDED = f"CREATE TEMP TABLE added (test, target, org_id, day, {_SUMS})"
_ADD_UP = (
    # a new day begins with what the next one begins with, the last one with all there is
    f"""
    INSERT INTO test_days SELECT added.test, added.target, added.org_id, added.day, added.jobs,
        {", ".join(f"coalesce(next.{name}, tests.{name}, 0)" for name in TEST_SUMS)}
    FROM added LEFT JOIN tests USING (test, target, org_id) LEFT JOIN test_days AS next ON (next.test, next.target, next.org_id, next.day) = (
        added.test, added.target, added.org_id,
        (SELECT min(day) FROM test_days WHERE (test, target, org_id) = (added.test, added.target, added.org_id) AND day > added.day))
    WHERE TRUE ON CONFLICT DO UPDATE SET ended = ended + excluded.ended""",
    f"""
    UPDATE test_days SET {", ".join(f"{name} = test_days.{name} + more.{name}" for name in TEST_SUMS)} FROM (
        SELECT test, target, org_id, later.day, {", ".join(f"sum(added.{name}) AS {name}" for name in TEST_SUMS)}
        FROM added CROSS JOIN test_days AS later USING (test, target, org_id) WHERE later.day > added.day GROUP BY 1, 2, 3, 4) AS more
    WHERE (test_days.test, test_days.target, test_days.org_id, test_days.day) = (more.test, more.target, more.org_id, more.day)""",
    f"""
    INSERT INTO tests SELECT test, target, org_id, {", ".join(f"sum({name})" for name in TEST_SUMS)} FROM added WHERE TRUE GROUP BY 1, 2, 3
    ON CONFLICT DO UPDATE SET {", ".join(f"{name} = {name} + excluded.{name}" for name in TEST_SUMS)}""",
    "DELETE FROM added",
)
_ENDED = """
SELECT finished_at, org_id, target, test, coalesce(verdict, ''), duration_s FROM jobs WHERE submitted_seq IN (SELECT submitted_seq FROM pruned)"""
_ATTACH = """
INSERT INTO suite_jobs SELECT ?, ?, max(submitted_seq), 1 FROM jobs WHERE job_id = ? AND submitted_seq < ? HAVING max(submitted_seq) IS NOT NULL
ON CONFLICT DO NOTHING"""
_OPENED = """
INSERT INTO suites SELECT ?1, ?2, min(seq) FROM (
    SELECT min(submitted_seq) AS seq FROM suite_jobs WHERE suite_id = ?1 AND org_id = ?2 AND NOT attached
    UNION ALL SELECT min(seq) FROM openings WHERE suite_id = ?1 AND org_id = ?2) HAVING min(seq) IS NOT NULL
ON CONFLICT DO UPDATE SET opened_seq = excluded.opened_seq WHERE opened_seq <> excluded.opened_seq"""
_CLOSED = """
DELETE FROM suites WHERE suite_id = ?1 AND org_id = ?2
AND NOT EXISTS (SELECT * FROM suite_jobs WHERE suite_id = ?1 AND org_id = ?2 AND NOT attached)
AND NOT EXISTS (SELECT * FROM openings WHERE suite_id = ?1 AND org_id = ?2)"""
_DECISIONS = {
    "die": "INSERT INTO dead_letters VALUES (?, ?, ?, '', NULL, '', '')",
    "settle": """
        UPDATE dead_letters SET settled = ?, settled_at = ?, settled_by = ?, note = ? WHERE settled = ''
        AND submitted_seq = (SELECT max(submitted_seq) FROM jobs WHERE job_id = ? AND submitted_seq < ? AND org_id = ?)""",
    "pause": "INSERT OR REPLACE INTO pauses VALUES (?, ?, ?, ?, ?, ?, ?)",
    "resume": "DELETE FROM pauses WHERE (kind, name) = (?, ?)",
}
_WINDOW = """
SELECT submitted_seq, 1, finished_at FROM jobs WHERE submitted_seq > :after
UNION ALL SELECT seq, 0, at FROM events WHERE submitted_seq = 0 AND seq > :after
ORDER BY 1 LIMIT :limit"""
_PRUNE = (
    "DELETE FROM events WHERE submitted_seq IN (SELECT submitted_seq FROM pruned)",
    "DELETE FROM job_tags WHERE submitted_seq IN (SELECT submitted_seq FROM pruned)",
    "DELETE FROM dead_letters WHERE submitted_seq IN (SELECT submitted_seq FROM pruned)",
    """INSERT INTO tallies SELECT target, status, coalesce(verdict, ''), -count(*), -sum(attempt) FROM jobs
       WHERE submitted_seq IN (SELECT submitted_seq FROM pruned) GROUP BY 1, 2, 3
       ON CONFLICT DO UPDATE SET jobs = jobs + excluded.jobs, attempts = attempts + excluded.attempts""",
    "DELETE FROM tallies WHERE jobs = 0",
    "DELETE FROM jobs WHERE submitted_seq IN (SELECT submitted_seq FROM pruned)",
)


@lru_cache
def _values(head: str, width: int, size: int, tail: str) -> str:
    one = f"({', '.join('?' * width)})"
    return f"{head} {', '.join([one] * size)} {tail}"


class Position(Struct, frozen=True, kw_only=True):
    """How much of which log the read model is the sum of."""

    applied_seq: int
    stream_created: str
    """Identity of the log; empty: none yet."""
    fingerprint: bytes
    """Of the message at `applied_seq`; empty where there is none."""
    applied_at: datetime | None


def fingerprint(message: Recorded) -> bytes:
    return hashlib.blake2b(message.subject.encode() + b"\n" + message.data, digest_size=16).digest()


class Writer:
    """The one connection of this process that writes. For one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._connection = schema.connect(path)
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        self._connection.execute(_ADDED)
        self._standings: OrderedDict[str, Standing] = OrderedDict()
        self._data_version = 0

    def close(self) -> None:
        self._connection.close()

    def position(self) -> Position:
        row = self._connection.execute(
            "SELECT applied_seq, stream_created, fingerprint, applied_at FROM position"
        ).fetchone()
        return Position(
            applied_seq=row[0],
            stream_created=row[1],
            fingerprint=row[2],
            applied_at=None if row[3] is None else instant(row[3]),
        )

    def apply(self, messages: Sequence[Recorded], follows: Position) -> tuple[Position, set[str]]:
        """Apply messages that come next after `follows`; gives the new position, and the names of
        events that could not be read.

        Nothing is written when another process has applied them already, or has emptied the file:
        the position says so.
        """
        with self._transaction():
            found = self.position()
            if (
                found.stream_created != follows.stream_created
                or found.applied_seq < follows.applied_seq
            ):
                return found, set()
            fresh = [one for one in messages if one.seq > found.applied_seq]
            if not fresh:
                return found, set()
            keys = [slot_key(one.subject) for one in fresh]
            batch = Batch(self._standings_for(keys))
            for one, key in zip(fresh, keys, strict=True):
                batch.add(one, key)
            self._write(batch)
            moved = self._move_to(fresh[-1])
        return moved, batch.strangers

    def skip_to(self, seq: int, follows: Position) -> Position:
        """Nothing is left in the log up to `seq`: it was purged."""
        with self._transaction():
            if self.position() == follows:
                self._connection.execute(
                    "UPDATE position SET applied_seq = ?, fingerprint = x''", (seq,)
                )
        return self.position()

    def reset(self, stream_created: str) -> Position:
        """Empty the read model, for the log made at `stream_created`. Readers see it full until it
        is empty.
        """
        with self._transaction():
            for table in schema.CONTENT:
                self._connection.execute(f"DELETE FROM {table}")
            self._connection.execute(
                "UPDATE position SET applied_seq = 0, stream_created = ?, fingerprint = x'', applied_at = NULL",
                (stream_created,),
            )
        self._standings.clear()
        return self.position()

    def old(
        self, before: datetime, after_seq: int, limit: int = 1000
    ) -> tuple[list[int], list[int], int | None]:
        """What may be gone from the log, among the next `limit` events that begin a job or belong
        to none: jobs that finished before, by the sequence of their submission, and other events
        written before. Third, where to go on; None at the end.
        """
        horizon = micros(before)
        window = self._connection.execute(_WINDOW, {"after": after_seq, "limit": limit}).fetchall()
        jobs = [seq for seq, is_job, at in window if is_job and at is not None and at < horizon]
        others = [seq for seq, is_job, at in window if not is_job and (at is None or at < horizon)]
        return jobs, others, window[-1][0] if len(window) == limit else None

    def forget(self, jobs: Sequence[int], others: Sequence[int], stream_created: str) -> None:
        """Delete jobs, with all that belongs to them, and events that belong to none. Nothing when
        the file belongs to another log by now.
        """
        with self._transaction() as connection:
            if self.position().stream_created == stream_created:
                suites = self._delete([(seq,) for seq in jobs])
                connection.executemany(
                    "DELETE FROM events WHERE seq = ? AND submitted_seq = 0",
                    [(seq,) for seq in others],
                )
                for seq in others:
                    suites.update(
                        connection.execute(
                            "DELETE FROM openings WHERE seq = ? RETURNING suite_id, org_id", (seq,)
                        )
                    )
                self._date(suites, shrunk=True)

    def _delete(self, old: list[tuple[int]]) -> set[tuple[str, str]]:
        """Gives the suites that they were in."""
        self._connection.execute(
            "CREATE TEMP TABLE IF NOT EXISTS pruned (submitted_seq INTEGER PRIMARY KEY)"
        )
        self._connection.execute("DELETE FROM pruned")
        self._connection.executemany("INSERT INTO pruned VALUES (?)", old)
        ended = [Ended(*found) for found in self._connection.execute(_ENDED)]
        self._add_up(ended, -1)
        self._connection.execute("DELETE FROM hours WHERE jobs = 0")
        self._connection.execute("DELETE FROM test_days WHERE ended = 0")
        self._connection.execute("DELETE FROM tests WHERE jobs = 0")
        left = "DELETE FROM suite_jobs WHERE submitted_seq IN (SELECT submitted_seq FROM pruned) RETURNING suite_id, org_id"
        suites = set(self._connection.execute(left))
        for statement in _PRUNE:
            self._connection.execute(statement)
        self._standings.clear()
        return suites

    def _date(self, suites: set[tuple[str, str]], *, shrunk: bool) -> None:
        """Say when suites began that have changed; those that have `shrunk` may be none any more."""
        self._connection.executemany(_OPENED, suites)
        if shrunk:
            self._connection.executemany(_CLOSED, suites)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            self._standings.clear()  # they may be ahead of the file now
            with contextlib.suppress(sqlite3.OperationalError):  # SQLite has rolled back by itself
                self._connection.execute("ROLLBACK")
            raise

    def _standings_for(self, keys: Iterable[str | None]) -> dict[str, Standing]:
        """The latest jobs of the slots, among others."""
        (data_version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if data_version != self._data_version:  # another process has written since
            self._standings.clear()
            self._data_version = data_version
        while len(self._standings) > KNOWN_SLOTS:
            self._standings.popitem(last=False)
        unknown = [key for key in set(keys) if key is not None and key not in self._standings]
        most = _KEYS_PER_STATEMENT[-1]
        for start in range(0, len(unknown), most):
            self._load(unknown[start : start + most])
        return self._standings

    def _load(self, keys: list[str]) -> None:
        size = next(size for size in _KEYS_PER_STATEMENT if size >= len(keys))
        latest = f"SELECT max(submitted_seq) FROM jobs WHERE slot IN ({', '.join('?' * size)}) GROUP BY slot"
        padded = keys + [""] * (size - len(keys))  # no slot's key is empty
        for values in self._connection.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM jobs WHERE submitted_seq IN ({latest})", padded
        ):
            row = Row(*values)
            self._standings[row.slot] = standing_of(row)

    def _write(self, batch: Batch) -> None:
        connection = self._connection
        self._insert("INSERT INTO events VALUES", 7, batch.events)
        self._insert(_INTO_JOBS, len(_COLUMNS), list(batch.rows()), _OR_UPDATE)
        come, go = batch.suite_changes()
        if come:
            connection.executemany(
                "INSERT INTO suite_jobs VALUES (?, ?, ?, 0) ON CONFLICT DO UPDATE SET attached = 0",
                come,
            )
        if go:
            connection.executemany(
                "DELETE FROM suite_jobs WHERE (suite_id, org_id, submitted_seq) = (?, ?, ?)", go
            )
        if batch.openings:
            connection.executemany(
                "INSERT INTO openings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", batch.openings
            )
        if batch.attached:
            connection.executemany(_ATTACH, batch.attached)
        self._date(
            {one[:2] for one in (*come, *go)} | {one[1:3] for one in batch.openings},
            shrunk=bool(go),
        )
        if batch.new_tags:
            connection.executemany("INSERT INTO job_tags VALUES (?, ?, ?)", batch.new_tags)
        for step, values in batch.decisions:
            connection.execute(_DECISIONS[step], values)
        self._add_up(batch.finished(), 1)
        tallies = batch.tally_changes()
        if tallies:
            connection.executemany(_TALLY, tallies)
            connection.execute("DELETE FROM tallies WHERE jobs = 0")

    def _add_up(self, ended: Sequence[Ended], sign: int) -> None:
        if ended:
            hours, days = statistics_of(ended, sign)
            self._connection.executemany(_HOURS, hours)
            self._insert("INSERT INTO added VALUES", 4 + len(TEST_SUMS), days)
            for statement in _ADD_UP:
                self._connection.execute(statement)

    def _insert(
        self, head: str, width: int, rows: Sequence[tuple[Any, ...]], tail: str = ""
    ) -> None:
        start = 0
        for size in _ROWS_PER_STATEMENT:
            statement = _values(head, width, size, tail)
            while len(rows) - start >= size:
                self._connection.execute(
                    statement, list(chain.from_iterable(rows[start : start + size]))
                )
                start += size

    def _move_to(self, last: Recorded) -> Position:
        self._connection.execute(
            "UPDATE position SET applied_seq = ?, fingerprint = ?, applied_at = ?",
            (last.seq, fingerprint(last), last.stored_at),
        )
        return self.position()
