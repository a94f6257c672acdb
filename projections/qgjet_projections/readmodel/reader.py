"""Asking a read model: connections, snapshots, whose rows are seen, and pages."""

from __future__ import annotations

import base64
import contextlib
import sqlite3
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import msgspec

from qgjet.errors import InvalidInput
from qgjet_projections import schema
from qgjet_projections.batch import Row
from qgjet_projections.views import Page, T

MAX_LIMIT = 500
COLUMNS = ", ".join(f"jobs.{name}" for name in Row.__struct_fields__)
BY_STATUS = "jobs INDEXED BY jobs_by_status"
"""Goes with the condition `status <> 'done'`, which SQLite wants to read before it takes the index."""


class _Pool:
    """Connections that wait for their next use."""

    def __init__(self) -> None:
        self.idle: deque[sqlite3.Connection] = deque()
        self.closed = False


class Reader:
    """What all questions share."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pool = _Pool()
        self._orgs: frozenset[str] | None = None
        """The orgs that there seem to be; None: all there are."""

    def seen_by(self, orgs: frozenset[str] | None) -> Self:
        """The same as if there were nothing but `orgs` in it; None: no limit. `counts` knows no orgs, and is for those who may see all."""
        if orgs is None:
            return self
        view = type(self)(self.path)
        view._pool, view._orgs = self._pool, orgs if self._orgs is None else orgs & self._orgs
        return view

    @classmethod
    def open(cls, path: Path) -> Self:
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

    def _seen(self, table: str) -> str:
        """The condition that a row of a table is of an org that is seen, with the value `:orgs`. No index is used for it."""
        return "TRUE" if self._orgs is None else f"+{table}.org_id IN (SELECT value FROM json_each(:orgs))"

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
        key = msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=list[int | str])
    except (msgspec.MsgspecError, ValueError):
        key = []
    if [type(part) for part in key] != [type(part) for part in start] or not 0 <= int(key[0]) < 2**63:
        raise InvalidInput("cursor", "is not one that a page ended with")
    return list(key)


def check_limit(limit: int, most: int) -> None:
    if not 1 <= limit <= most:
        raise InvalidInput("limit", f"must be from 1 to {most}")
