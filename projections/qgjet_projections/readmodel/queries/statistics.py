"""How things went: jobs by the hour, tests over days."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from qgjet.domain.events import Verdict
from qgjet_projections.readmodel.apply import DAY, HOUR, TEST_SUMS
from qgjet_projections.readmodel.queries.reader import Reader, page_of, read_cursor
from qgjet_projections.readmodel.schema import instant, micros
from qgjet_projections.readmodel.views import (
    HourView,
    Order,
    Page,
    TestDay,
    TestQuery,
    TestView,
    rates_of,
)

_SUMS = ", ".join(TEST_SUMS)
_RUNS = "nullif(passed + flaky + failed + timed_out, 0)"
_ORDERS = {
    Order.FAILING: f"1.0 * (passed + flaky) / {_RUNS} NULLS LAST,",
    Order.FLAKIEST: f"coalesce(1.0 * flaky / {_RUNS}, 0) DESC,",
    Order.SLOWEST: "coalesce(1.0 * duration_ms / nullif(timed, 0), 0) DESC,",
    Order.NAME: "",
}


class StatisticsReads(Reader):
    def hours(
        self, since: datetime, *, org_id: str | None = None, target: str | None = None
    ) -> list[HourView]:
        """Hours from `since` on in which jobs ended, first to last."""
        sql = f"""
            SELECT hour, verdict, sum(jobs) FROM hours
            WHERE hour >= :since AND (:org_id IS NULL OR org_id = :org_id) AND (:target IS NULL OR target = :target) AND {self._seen("hours")}
            GROUP BY 1, 2 ORDER BY 1"""
        hours: dict[int, dict[str, int]] = {}
        with self._snapshot() as connection:
            for hour, verdict, jobs in connection.execute(
                sql,
                {
                    "since": micros(since) // HOUR,
                    "org_id": org_id,
                    "target": target,
                    "orgs": self._orgs_json,
                },
            ):
                hours.setdefault(hour, {})[verdict] = jobs
        return [
            HourView(hour=instant(hour * HOUR), verdicts=verdicts)
            for hour, verdicts in hours.items()
        ]

    def hours_by_place(self, since: datetime) -> dict[tuple[str, str], list[HourView]]:
        """(target, org) -> hours from `since` on in which its jobs ended, first to last."""
        sql = f"""
            SELECT target, org_id, hour, verdict, jobs FROM hours WHERE hour >= :since AND {self._seen("hours")} ORDER BY 1, 2, 3, 4"""
        places: dict[tuple[str, str], dict[int, dict[str, int]]] = {}
        with self._snapshot() as connection:
            for target, org_id, hour, verdict, jobs in connection.execute(
                sql, {"since": micros(since) // HOUR, "orgs": self._orgs_json}
            ):
                places.setdefault((target, org_id), {}).setdefault(hour, {})[verdict] = jobs
        return {
            place: [
                HourView(hour=instant(hour * HOUR), verdicts=found) for hour, found in hours.items()
            ]
            for place, hours in places.items()
        }

    def tests(self, query: TestQuery) -> Page[TestView]:
        """How each test went on each target since then. Its cursor is a place: what moves across it
        meanwhile is shown twice, or not at all.
        """
        conditions, values = self._test_conditions(query)
        sums = ", ".join(f"tests.{name} - since.{name} AS {name}" for name in TEST_SUMS)
        sql = f"""
            SELECT org_id, target, test, {_SUMS} FROM (
                SELECT tests.org_id, tests.target, tests.test, {sums} FROM tests CROSS JOIN test_days AS since USING (test, target, org_id)
                WHERE {" AND ".join(conditions)} AND since.day = (
                    SELECT min(day) FROM test_days WHERE (test, target, org_id) = (tests.test, tests.target, tests.org_id) AND day >= :since))
            ORDER BY {_ORDERS[query.order]} test, target, org_id LIMIT :limit OFFSET :offset"""
        with self._snapshot() as connection:
            found = [
                TestView(**_test_fields(one[:3], one[3:]))
                for one in connection.execute(sql, values)
            ]
        return page_of(
            found, [[values["offset"] + place] for place in range(1, len(found) + 1)], query.limit
        )

    def test_days(self, query: TestQuery) -> list[TestDay]:
        """The same day by day, first to last."""
        conditions, values = self._test_conditions(query)
        where = " AND ".join(conditions)
        sql = f"""
            SELECT org_id, target, test, day, {_SUMS} FROM test_days AS tests WHERE {where} AND day >= :since
            UNION ALL SELECT org_id, target, test, NULL, {_SUMS} FROM tests WHERE {where}
            ORDER BY org_id, target, test, day NULLS LAST"""
        with self._snapshot() as connection:
            found = connection.execute(sql, values).fetchall()
        days = [
            TestDay(
                **_test_fields(
                    one[:3],
                    [after - before for before, after in zip(one[4:], following[4:], strict=True)],
                ),
                day=instant(one[3] * DAY),
            )
            for one, following in pairwise(found)
            if one[3] is not None
        ]
        return sorted(days, key=lambda one: one.day)

    def _test_conditions(self, query: TestQuery) -> tuple[list[str], dict[str, Any]]:
        values = {
            "since": micros(query.since) // DAY,
            "orgs": self._orgs_json,
            "limit": query.limit + 1,
            "offset": read_cursor(query.cursor, [0])[0],
        }
        conditions = [self._seen("tests")]
        for name in ("org_id", "target", "test"):
            if (value := getattr(query, name)) is not None:
                conditions.append(f"tests.{name} = :{name}")
                values[name] = value
        return conditions, values


def _test_fields(key: Sequence[str], sums: Sequence[int]) -> dict[str, Any]:
    """`sums`: in the order of TEST_SUMS."""
    org_id, target, test = key
    _, *verdicts, timed, duration_ms = sums
    counts = {verdict.value: jobs for verdict, jobs in zip(Verdict, verdicts, strict=True) if jobs}
    rates = rates_of(counts)
    return {
        "org_id": org_id,
        "target": target,
        "test": test,
        "runs": rates.runs,
        "verdicts": counts,
        "pass_rate": rates.passed,
        "flaky_rate": rates.flaky,
        "mean_s": duration_ms / timed / 1000 if timed else None,
    }
