"""Dead letters: jobs that ended without a statement about the app, and what was done about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qgjet.support.text import shortened
from qgjet_projections.readmodel.apply import Row
from qgjet_projections.readmodel.queries.reader import (
    COLUMNS,
    MAX_LIMIT,
    Reader,
    check_limit,
    page_of,
    read_cursor,
)
from qgjet_projections.readmodel.schema import instant, micros
from qgjet_projections.readmodel.views import DeadLetter, DeadQuery, Page, Settlement, job_view

_OF_DEAD = "settled, settled_at, settled_by, note"
_DEAD_COLUMNS = 4


class DeadLetterReads(Reader):
    def dead_letters(self, query: DeadQuery) -> Page[DeadLetter]:
        """Last submitted first. Raises InvalidInput for a cursor that is none, or a limit out of
        bounds.
        """
        check_limit(query.limit, MAX_LIMIT)
        (before_seq,) = read_cursor(query.cursor, [2**63 - 1])
        source, values = self._dead(query)
        sql = f"SELECT {_OF_DEAD}, {COLUMNS} {source} AND dead_letters.submitted_seq < :before_seq ORDER BY dead_letters.submitted_seq DESC LIMIT :limit"
        with self._snapshot() as connection:
            found = connection.execute(
                sql, {**values, "before_seq": before_seq, "limit": query.limit + 1}
            ).fetchall()
        return page_of(
            [_dead_letter(one) for one in found],
            [[one[_DEAD_COLUMNS]] for one in found],
            query.limit,
        )

    def oldest_dead(self, query: DeadQuery, limit: int) -> tuple[list[str], int]:
        """The ids of those that were submitted first, and how many there are in all. The query's
        cursor and limit are not looked at.
        """
        source, values = self._dead(query)
        with self._snapshot() as connection:
            (count,) = connection.execute(f"SELECT count(*) {source}", values).fetchone()
            found = connection.execute(
                f"SELECT job_id {source} ORDER BY dead_letters.submitted_seq LIMIT :limit",
                {**values, "limit": limit},
            ).fetchall()
        return [job_id for (job_id,) in found], count

    def dead_count(self) -> int:
        """Dead letters that nobody has dealt with."""
        with self._snapshot() as connection:
            sql = f"SELECT count(*) FROM dead_letters WHERE settled = '' AND {self._seen('dead_letters')}"
            return int(connection.execute(sql, {"orgs": self._orgs_json}).fetchone()[0])

    def dead_letter(self, job_id: str) -> DeadLetter | None:
        """The job as a dead letter; None when it is none."""
        sql = f"""
            SELECT {_OF_DEAD}, {COLUMNS} FROM jobs CROSS JOIN dead_letters USING (submitted_seq)
            WHERE job_id = :job_id AND {self._seen("jobs")} ORDER BY submitted_seq DESC LIMIT 1"""
        with self._snapshot() as connection:
            found = connection.execute(sql, {"job_id": job_id, "orgs": self._orgs_json}).fetchone()
        return None if found is None else _dead_letter(found)

    def _dead(self, query: DeadQuery) -> tuple[str, dict[str, Any]]:
        """FROM and WHERE of those that the query is about."""
        conditions = ["settled <> ''" if query.settled else "settled = ''", self._seen("jobs")]
        values: dict[str, Any] = {"orgs": self._orgs_json}
        for name in ("org_id", "app_version_id", "target", "test", "verdict", "reason"):
            value = getattr(query, name)
            if value is not None:
                conditions.append(f"jobs.{name} = :{name}")
                values[name] = str(value)
        if query.finished_before is not None:
            conditions.append("jobs.finished_at < :finished_before")
            values["finished_before"] = micros(query.finished_before)
        return (
            f"FROM dead_letters CROSS JOIN jobs USING (submitted_seq) WHERE {' AND '.join(conditions)}",
            values,
        )


def _dead_letter(found: Sequence[Any]) -> DeadLetter:
    how, at, by, note, *columns = found
    settlement = Settlement(how=how, at=instant(at), by=by, note=shortened(note)) if how else None
    return DeadLetter(job=job_view(Row(*columns)), settlement=settlement)
