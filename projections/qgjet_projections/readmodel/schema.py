"""The SQLite file of the read model: its tables, how it is opened, and when it is thrown away.

The log is the authority, so the file is never migrated: a file of another version, or a damaged
one, makes room for an empty one, which the projector fills.

Times are integers, microseconds since 1970 in UTC: exactly what an event's `at` holds, in any time
zone it was written in, ordered and subtracted without parsing. For people: `datetime(created_at /
1e6, 'unixepoch')`.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

from qgjet.errors import SchemaMismatch
from qgjet.support import private_files

log = logging.getLogger(__name__)

VERSION = 6
"""Raised with every change of the tables, or of what the projector writes into them."""
APPLICATION_ID = 0x71676A74
"""`qgjt`: this file is one of ours, and may be deleted."""

TABLES = """
-- how much of which log the tables below are the sum of; one row, written in the transaction that changes them
CREATE TABLE IF NOT EXISTS position (
    applied_seq INTEGER NOT NULL,
    stream_created TEXT NOT NULL,
    fingerprint BLOB NOT NULL,          -- of the message at applied_seq: a log rolled back and written anew has another one there
    applied_at INTEGER                  -- when the server stored that message
);
INSERT INTO position SELECT 0, '', x'', NULL WHERE NOT EXISTS (SELECT * FROM position);

-- every message of the log as it came
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY,
    at INTEGER,                         -- NULL: this version cannot read it
    type TEXT NOT NULL,
    submitted_seq INTEGER NOT NULL,     -- the job that its slot was about; 0: none
    org_id TEXT NOT NULL,
    legal INTEGER NOT NULL,             -- 0: it broke a rule or cannot be read, and changed nothing
    data BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS events_of_job ON events (submitted_seq);
CREATE INDEX IF NOT EXISTS events_of_org ON events (org_id);

-- one row per submission; a job id may come again in time, a sequence does not. Wide columns last: a scan need not read them
CREATE TABLE IF NOT EXISTS jobs (
    submitted_seq INTEGER PRIMARY KEY,
    job_id TEXT NOT NULL,
    slot TEXT NOT NULL,                 -- the subject without event and rank
    org_id TEXT NOT NULL,
    app_version_id TEXT NOT NULL,
    target TEXT NOT NULL,
    test TEXT NOT NULL,
    status TEXT NOT NULL,
    verdict TEXT,                       -- NULL while the job is live
    ticket INTEGER NOT NULL,
    seq INTEGER NOT NULL,               -- last event that concerns the job
    priority INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    max_retries INTEGER NOT NULL,
    infra_retries INTEGER NOT NULL,
    retries_left INTEGER NOT NULL,
    infra_retries_left INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    agent TEXT NOT NULL,                -- that runs it, or ran its last attempt
    cancel_requested INTEGER NOT NULL,
    accepted_at INTEGER NOT NULL,       -- when the server stored its submission: no clock of a client or an agent is in it
    changed_at INTEGER NOT NULL,        -- when the server stored the event `seq`
    created_at INTEGER NOT NULL,
    queued_at INTEGER NOT NULL,         -- when it last came into the queue
    started_at INTEGER,                 -- of the running attempt, or the last one
    finished_at INTEGER,
    retry_at INTEGER,
    duration_s REAL,                    -- of the last attempt that ended
    execution_timeout_s REAL,
    queue_timeout_s REAL,
    replaces TEXT NOT NULL,
    replaced_by TEXT NOT NULL,
    rerun_of TEXT NOT NULL,
    submitted_by TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    reason TEXT NOT NULL,
    suite_ids TEXT NOT NULL,            -- JSON
    tags TEXT NOT NULL,                 -- JSON
    message TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS jobs_of_org ON jobs (org_id);  -- in the order of their submission; whoever is bound to an org asks for all of its jobs
CREATE INDEX IF NOT EXISTS jobs_by_id ON jobs (job_id);
CREATE INDEX IF NOT EXISTS jobs_of_test ON jobs (test);
CREATE INDEX IF NOT EXISTS jobs_of_slot ON jobs (slot);  -- by its prefix: the jobs of an app version too
-- what somebody looks for: what waits, runs or went wrong. Most jobs are done, and leave it
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status) WHERE status <> 'done';
-- what maintenance asks for every two seconds: partition queues that have jobs, and jobs that have waited too long to start
CREATE INDEX IF NOT EXISTS jobs_by_queue ON jobs (org_id, app_version_id, target, rank, changed_at) WHERE status = 'queued';
CREATE INDEX IF NOT EXISTS jobs_by_start_deadline ON jobs (accepted_at + queue_timeout_s * 1e6)
    WHERE status = 'queued' AND attempt = 0 AND queue_timeout_s IS NOT NULL;

-- what submissions brought into suites: one row per event of a suite
CREATE TABLE IF NOT EXISTS openings (
    seq INTEGER PRIMARY KEY,
    suite_id TEXT NOT NULL,
    org_id TEXT NOT NULL,
    submission TEXT NOT NULL,
    at INTEGER NOT NULL,
    stored_at INTEGER NOT NULL,         -- by the server's clock
    to_come INTEGER NOT NULL,           -- jobs of the submission that later events bring
    missing INTEGER NOT NULL,           -- jobs of the submission that never arrived; it is complete when this and to_come are 0
    tags TEXT NOT NULL                  -- JSON
);
CREATE INDEX IF NOT EXISTS openings_unfinished ON openings (org_id, suite_id, submission) WHERE to_come > 0;
CREATE INDEX IF NOT EXISTS openings_of_suite ON openings (suite_id, org_id);
CREATE INDEX IF NOT EXISTS openings_of_branch ON openings (org_id, tags ->> '$.branch');  -- in their order: the run before this one

CREATE TABLE IF NOT EXISTS suite_jobs (
    suite_id TEXT NOT NULL,
    org_id TEXT NOT NULL,
    submitted_seq INTEGER NOT NULL,
    attached INTEGER NOT NULL,          -- 1: it was live before the suite asked for it
    PRIMARY KEY (suite_id, org_id, submitted_seq)
) WITHOUT ROWID;

-- every suite with its first sequence, so that the newest ones need no scan: of its events, and of the jobs that were submitted into it
CREATE TABLE IF NOT EXISTS suites (
    suite_id TEXT NOT NULL,
    org_id TEXT NOT NULL,
    opened_seq INTEGER NOT NULL,
    PRIMARY KEY (suite_id, org_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS suites_by_age ON suites (opened_seq, suite_id);
CREATE INDEX IF NOT EXISTS suites_of_org ON suites (org_id, opened_seq, suite_id);

CREATE TABLE IF NOT EXISTS job_tags (
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    submitted_seq INTEGER NOT NULL,
    PRIMARY KEY (key, value, submitted_seq)
) WITHOUT ROWID;

-- jobs that ended without a statement about the app, and what people did about it
CREATE TABLE IF NOT EXISTS dead_letters (
    submitted_seq INTEGER PRIMARY KEY,
    org_id TEXT NOT NULL,
    target TEXT NOT NULL,
    settled TEXT NOT NULL,              -- '', 'redriven' or 'discarded'
    settled_at INTEGER,
    settled_by TEXT NOT NULL,
    note TEXT NOT NULL,                 -- the id of the new job, or the reason that was given
    CHECK (settled IN ('', 'redriven', 'discarded'))
);
CREATE INDEX IF NOT EXISTS open_dead_letters ON dead_letters (submitted_seq) WHERE settled = '';

-- targets and orgs that were told to wait; `until` may be over
CREATE TABLE IF NOT EXISTS pauses (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    at INTEGER NOT NULL,
    until INTEGER,                      -- NULL: until somebody resumes it
    reason TEXT NOT NULL,
    by TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID;

-- jobs counted, so that metrics need no scan
CREATE TABLE IF NOT EXISTS tallies (
    target TEXT NOT NULL,
    status TEXT NOT NULL,
    verdict TEXT NOT NULL,              -- '' while live
    jobs INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    PRIMARY KEY (target, status, verdict)
) WITHOUT ROWID;

-- finished jobs by hour, so that charts need no scan
CREATE TABLE IF NOT EXISTS hours (
    hour INTEGER NOT NULL,              -- since 1970, UTC
    org_id TEXT NOT NULL,
    target TEXT NOT NULL,
    verdict TEXT NOT NULL,
    jobs INTEGER NOT NULL,
    PRIMARY KEY (hour, org_id, target, verdict)
) WITHOUT ROWID;

-- finished jobs of each test so far: how many, by verdict, and how long they took
CREATE TABLE IF NOT EXISTS tests (
    test TEXT NOT NULL,
    target TEXT NOT NULL,
    org_id TEXT NOT NULL,
    jobs INTEGER NOT NULL,
    passed INTEGER NOT NULL,
    flaky INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    timed_out INTEGER NOT NULL,
    infra_error INTEGER NOT NULL,
    config_error INTEGER NOT NULL,
    cancelled INTEGER NOT NULL,
    skipped INTEGER NOT NULL,
    timed INTEGER NOT NULL,             -- of these: have a duration
    duration_ms INTEGER NOT NULL,       -- of these together
    PRIMARY KEY (test, target, org_id)
) WITHOUT ROWID;

-- the same before each day on which one of them has ended: how a test went since a day is one subtraction, however many days that are
CREATE TABLE IF NOT EXISTS test_days (
    test TEXT NOT NULL,
    target TEXT NOT NULL,
    org_id TEXT NOT NULL,
    day INTEGER NOT NULL,               -- since 1970, UTC
    ended INTEGER NOT NULL,             -- on this day
    jobs INTEGER NOT NULL,              -- before it, as all that follows
    passed INTEGER NOT NULL,
    flaky INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    timed_out INTEGER NOT NULL,
    infra_error INTEGER NOT NULL,
    config_error INTEGER NOT NULL,
    cancelled INTEGER NOT NULL,
    skipped INTEGER NOT NULL,
    timed INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    PRIMARY KEY (test, target, org_id, day)
) WITHOUT ROWID;
"""
CONTENT = (
    "events",
    "jobs",
    "openings",
    "suite_jobs",
    "suites",
    "job_tags",
    "dead_letters",
    "pauses",
    "tallies",
    "hours",
    "tests",
    "test_days",
)
"""The tables that are made from the log; `position` says from how much of it."""

BUSY_TIMEOUT_S = 10.0
_JOURNALS = ("-wal", "-shm")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def micros(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def instant(at: int) -> datetime:
    """The time of a column. One before year 1 or after 9999 in UTC (a time zone can make it so)
    becomes the nearest there is.
    """
    try:
        return _EPOCH + at * _MICROSECOND
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC) if at < 0 else datetime.max.replace(tzinfo=UTC)


def connect(path: Path) -> sqlite3.Connection:
    """A connection that leaves transactions to its user and may move between threads."""
    # mode=rw: a file that was deleted must not come back empty, without tables and open to others
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
    # a power cut may cost the last transactions, never consistency: the position is among them, and
    # the log has the events
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA cache_size = -32768")
    return connection


def prepare(path: Path) -> None:
    """Make `path` a read model of this version, empty unless it is one already.

    A file of ours of another version is deleted; a damaged one is put aside as `<name>.damaged`.
    Raises SchemaMismatch for a database of somebody else.
    """
    private_files.make_directory(path.parent)
    try:
        fits = _fits(path)
    except sqlite3.DatabaseError as error:
        if isinstance(
            error, sqlite3.OperationalError
        ):  # locked, no permission, disk full: nothing that throwing it away would mend
            raise
        log.warning(
            "the read model %s is damaged (%s): it is made anew from the log, the old file is kept as %s.damaged",
            path,
            error,
            path.name,
        )
        _remove(path, keep_as=path.with_name(path.name + ".damaged"))
    else:
        if not fits:
            log.warning(
                "the read model %s was written by another version: it is made anew from the log",
                path,
            )
            _remove(path)
    path.touch(mode=0o600)
    for suffix in ("", *_JOURNALS, ".damaged"):  # SQLite gives new journals the mode of the file
        private_files.tighten(path.with_name(path.name + suffix))
    with contextlib.closing(connect(path)) as connection:
        _create(connection)


def _fits(path: Path) -> bool:
    """False: one of ours, but of another version."""
    if not path.exists() or path.stat().st_size == 0:
        return True
    with contextlib.closing(connect(path)) as connection:
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if application_id != APPLICATION_ID:
            if tables:
                raise SchemaMismatch(
                    f"{path} is a database, but not a read model of qgjet: set api.database to another path"
                )
            return True
        if version == VERSION:
            problems = [
                text for (text,) in connection.execute("PRAGMA quick_check(3)") if text != "ok"
            ]
            if problems:
                raise sqlite3.DatabaseError("; ".join(problems))
    return bool(version == VERSION)


def remove_journals(path: Path) -> None:
    """Remove what is left of a file that is gone: SQLite would apply it to the next one of that
    name.
    """
    for suffix in _JOURNALS:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _remove(path: Path, *, keep_as: Path | None = None) -> None:
    remove_journals(path)
    if keep_as is None:
        path.unlink(missing_ok=True)
    else:
        path.replace(keep_as)


def _create(connection: sqlite3.Connection) -> None:
    connection.execute(
        "PRAGMA journal_mode = WAL"
    )  # readers do not wait for the writer, nor it for them
    connection.executescript(
        f"BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; {TABLES} COMMIT;"
    )
