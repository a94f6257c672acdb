"""Suites: what their jobs add up to, and what came before them."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from qgjet.domain.events import ACTIVE
from qgjet_projections.readmodel.queries.reader import (
    MAX_LIMIT,
    Reader,
    check_limit,
    page_of,
    read_cursor,
)
from qgjet_projections.readmodel.schema import instant, micros
from qgjet_projections.readmodel.views import EndedSuite, Page, SuiteView


class SuiteReads(Reader):
    def suite(self, suite_id: str, org_id: str | None = None) -> SuiteView | None:
        """The suite; without an org the first that has one of this id."""
        sql = f"SELECT min(org_id) FROM suite_jobs WHERE suite_id = :suite_id AND (:org_id IS NULL OR org_id = :org_id) AND {self._seen('suite_jobs')}"
        with self._snapshot() as connection:
            (org,) = connection.execute(
                sql, {"suite_id": suite_id, "org_id": org_id, "orgs": self._orgs_json}
            ).fetchone()
            return None if org is None else _suite_view(connection, suite_id, org)

    def suites(
        self, org_id: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page[SuiteView]:
        """Suites, newest first."""
        check_limit(limit, MAX_LIMIT)
        opened_before, below = read_cursor(cursor, [2**63 - 1, ""])
        found: list[Sequence[Any]] = []
        with self._snapshot() as connection:
            for org in self._asked(org_id):
                sql = f"""
                    SELECT suite_id, org_id, opened_seq FROM suites
                    WHERE (opened_seq, suite_id) < (:opened_before, :below)
                    AND EXISTS (SELECT * FROM suite_jobs WHERE (suite_jobs.suite_id, suite_jobs.org_id) = (suites.suite_id, suites.org_id))
                    {"" if org is None else "AND org_id = :org_id"}
                    ORDER BY opened_seq DESC, suite_id DESC LIMIT :limit + 1"""
                found += connection.execute(
                    sql,
                    {"org_id": org, "opened_before": opened_before, "below": below, "limit": limit},
                )
            found = sorted(found, key=lambda one: (one[2], one[0]), reverse=True)[: limit + 1]
            views = [_suite_view(connection, suite_id, org) for suite_id, org, _ in found[:limit]]
        return page_of(
            [view for view in views if view is not None],
            [[opened_seq, suite_id] for suite_id, _, opened_seq in found],
            limit,
        )

    def suite_before(self, suite: SuiteView) -> SuiteView | None:
        """The org's last suite before this one on the same branch, as the tag `branch` says; None
        when there is none, or it has no such tag.
        """
        branch = suite.tags.get("branch")
        if not branch:
            return None
        sql = """
            SELECT suite_id FROM openings WHERE org_id = :org_id AND suite_id <> :suite_id AND tags ->> '$.branch' = :branch
            AND seq < (SELECT min(seq) FROM openings WHERE org_id = :org_id AND suite_id = :suite_id) ORDER BY seq DESC LIMIT 1"""
        with self._snapshot() as connection:
            found = connection.execute(
                sql, {"org_id": suite.org_id, "suite_id": suite.suite_id, "branch": branch}
            ).fetchone()
            return None if found is None else _suite_view(connection, found[0], suite.org_id)

    def ended_suites(self, before: datetime) -> list[EndedSuite]:
        """Suites that were last opened before and have no jobs any more."""
        sql = """
            SELECT org_id, suite_id, max(seq) FROM openings
            WHERE NOT EXISTS (SELECT * FROM suite_jobs WHERE (suite_jobs.suite_id, suite_jobs.org_id) = (openings.suite_id, openings.org_id))
            GROUP BY 1, 2 HAVING max(at) < ?1 AND max(stored_at) < ?1"""
        with self._snapshot() as connection:
            found = connection.execute(sql, (micros(before),)).fetchall()
        return [
            EndedSuite(org_id=org_id, suite_id=suite_id, last_seq=seq)
            for org_id, suite_id, seq in found
        ]


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
        "SELECT submission, at, to_come, missing, tags, seq FROM openings WHERE suite_id = ? AND org_id = ? ORDER BY seq",
        (suite_id, org_id),
    ).fetchall()
    tags: dict[str, str] = {}
    for *_, said, _ in openings:
        tags |= msgspec.json.decode(said, type=dict[str, str])
    statuses: Counter[str] = Counter()
    verdicts: Counter[str] = Counter()
    for status, verdict, count, *_ in groups:
        statuses[status] += count
        verdicts[verdict] += count if verdict else 0
    live = sum(statuses[status] for status in ACTIVE)
    absent = {
        submission: (to_come, missing) for submission, _, to_come, missing, *_ in openings
    }.values()  # of each submission the last one counts
    to_come, missing = (sum(numbers) for numbers in zip(*absent, strict=True)) if absent else (0, 0)
    return SuiteView(
        suite_id=suite_id,
        org_id=org_id,
        jobs=statuses.total(),
        attached=sum(attached for *_, attached in groups),
        to_come=to_come,
        missing=missing,
        tags=tags,
        live=live,
        statuses=dict(+statuses),
        verdicts=dict(+verdicts),
        created_at=instant(
            openings[0][1] if openings else min(created_at for _, _, _, created_at, *_ in groups)
        ),
        finished_at=None
        if live or to_come
        else instant(max(finished_at for _, _, _, _, finished_at, *_ in groups)),
        seq=max(*(seq for _, _, _, _, _, seq, _ in groups), *(seq for *_, seq in openings), 0),
    )
