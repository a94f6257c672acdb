"""Asking a read model: connections, snapshots, whose rows are seen, and pages."""

from __future__ import annotations

import base64
import contextlib
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import msgspec

from qgjet.errors import InvalidInput, NatsUnavailable
from qgjet_projections.readmodel import schema
from qgjet_projections.readmodel.apply import Row
from qgjet_projections.readmodel.views import Page, T

MAX_LIMIT = 500
RENEW_S = 10.0
COLUMNS = ", ".join(f"jobs.{name}" for name in Row.__struct_fields__)
BY_STATUS = "jobs INDEXED BY jobs_by_status"
"""Goes with the condition `status <> 'done'`, which SQLite wants to read before it takes the index.
"""


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file it is; None: there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


class _Pool:
    """Connections that wait for their next use."""

    def __init__(self) -> None:
        self.idle: deque[sqlite3.Connection] = deque()
        self.in_use = 0
        self.closed = self.renewing = False
        self.file: tuple[int, int] | None = None
        """Identity of the file that the connections read."""
        self.changed = threading.Condition()

    def close_idle(self) -> None:
        while self.idle:
            self.idle.pop().close()


class Reader:
    """What all questions share."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pool = _Pool()
        self._orgs: frozenset[str] | None = None
        """The orgs that there seem to be; None: all there are."""

    def seen_by(self, orgs: frozenset[str] | None) -> Self:
        """The same as if there were nothing but `orgs` in it; None: no limit. `counts` knows no
        orgs, and is for those who may see all.
        """
        if orgs is None:
            return self
        view = type(self)(self.path)
        view._pool, view._orgs = self._pool, orgs if self._orgs is None else orgs & self._orgs
        return view

    @classmethod
    def open(cls, path: Path) -> Self:
        """The read model in `path`, made when it is missing.

        A file of another schema version, or one that is damaged, is thrown away: the projector
        fills the new one from the log. Raises SchemaMismatch for a database that is not ours.
        """
        schema.prepare(path)
        model = cls(path)
        model._pool.file = _identity(path)
        return model

    @property
    def is_gone(self) -> bool:
        """Whether the file was deleted or replaced since it was opened. Then only `renew` helps."""
        return self._pool.file is not None and _identity(self.path) != self._pool.file

    def renew(self) -> None:
        """Put an empty read model where the file was deleted or replaced. No writer may have it
        open. Raises NatsUnavailable while reads do not end.

        First every connection to the old file closes: SQLite deletes the journal of that name with
        the last one.
        """
        pool = self._pool
        with pool.changed:
            pool.renewing = True
            pool.close_idle()
            ended = pool.changed.wait_for(lambda: not pool.in_use, timeout=RENEW_S)
        try:
            if not ended:
                raise NatsUnavailable(
                    f"the read model {self.path} was deleted, and reads of it have not ended"
                )
            schema.remove_journals(self.path)
            schema.prepare(self.path)
            pool.file = _identity(self.path)
        finally:
            pool.renewing = False

    def close(self) -> None:
        """Close all connections; those in use close when they are given back. A second call is
        harmless.
        """
        with self._pool.changed:
            self._pool.closed = True
            self._pool.close_idle()

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one moment of the database."""
        connection = self._take()
        try:
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.rollback()
            self._give_back(connection)

    def _take(self) -> sqlite3.Connection:
        pool = self._pool
        with pool.changed:
            if pool.closed:
                raise RuntimeError(f"the read model {self.path} is closed")
            if pool.renewing:
                raise NatsUnavailable(f"the read model {self.path} is being rebuilt; try again")
            pool.in_use += 1
            if pool.idle:
                return pool.idle.pop()
        try:
            connection = schema.connect(self.path)
            connection.execute("PRAGMA query_only = 1")
        except sqlite3.Error as error:
            self._give_back(None)
            if self.is_gone:
                raise NatsUnavailable(
                    f"the read model {self.path} was deleted and is being rebuilt; try again"
                ) from error
            raise
        return connection

    def _give_back(self, connection: sqlite3.Connection | None) -> None:
        pool = self._pool
        with pool.changed:
            pool.in_use -= 1
            if connection is not None and (pool.closed or pool.renewing):
                connection.close()
            elif connection is not None:
                pool.idle.append(connection)
            pool.changed.notify_all()

    @property
    def applied_seq(self) -> int:
        """The log is applied up to here."""
        with self._snapshot() as connection:
            return int(connection.execute("SELECT applied_seq FROM position").fetchone()[0])

    def _asked(self, org_id: str | None) -> list[str | None]:
        """The orgs to look at, one query each: each then has its index, and comes in order. [None]:
        all of them at once.
        """
        if self._orgs is None:
            return [org_id]
        return [org for org in sorted(self._orgs) if org_id in (None, org)]

    def _seen(self, table: str) -> str:
        """The condition that a row of a table is of an org that is seen, with the value `:orgs`. No
        index is used for it.
        """
        return (
            "TRUE"
            if self._orgs is None
            else f"+{table}.org_id IN (SELECT value FROM json_each(:orgs))"
        )

    @property
    def _orgs_json(self) -> str | None:
        return None if self._orgs is None else msgspec.json.encode(sorted(self._orgs)).decode()


def page_of(items: list[T], keys: list[list[Any]], limit: int) -> Page[T]:
    """The first `limit` of `items`; there is one more, or its key, if another page follows."""
    more = len(keys) > limit
    return Page(items[:limit], _cursor(keys[limit - 1]) if more else None)


def _cursor(key: list[Any]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def read_cursor(cursor: str | None, start: list[Any]) -> list[Any]:
    """The key in a cursor, of the same shape as `start`, which stands for none."""
    if cursor is None:
        return start
    try:
        key = msgspec.json.decode(
            base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=list[int | str]
        )
    except (msgspec.MsgspecError, ValueError):
        key = []
    if [type(part) for part in key] != [type(part) for part in start] or not 0 <= int(
        key[0]
    ) < 2**63:
        raise InvalidInput("cursor", "is not one that a page ended with")
    return list(key)


def check_limit(limit: int, most: int) -> None:
    if not 1 <= limit <= most:
        raise InvalidInput("limit", f"must be from 1 to {most}")
