"""How things went: jobs by the hour, tests over days."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from qgjet.events import Verdict
from qgjet_projections.batch import DAY, HOUR
from qgjet_projections.readmodel.reader import Reader
from qgjet_projections.schema import instant, micros
from qgjet_projections.views import HourView, TestDay, TestQuery, TestView

_SAYS_SOMETHING = (Verdict.PASSED, Verdict.FLAKY, Verdict.FAILED, Verdict.TIMED_OUT)


class StatisticsReads(Reader):
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
