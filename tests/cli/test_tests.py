"""`tests list` and `tests show`: how tests went, through the API."""

from __future__ import annotations

from datetime import UTC, datetime

from cli.commandline import ORG, TARGET, VERSION, Cli, Work
from cli.test_reads import A, B, C, all_ended, submitted
from qgjet.store.event_log import EventLog
from qgjet.support.clock import utc_now


async def test_tests_are_listed_in_the_order_that_is_asked_for(
    over_api: Cli, work: Work, log: EventLog
) -> None:
    nothing = await over_api("tests", "list")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "No tests.\n")
    async with work({A: ("failed",), B: ("failed", "passed"), C: ("passed",)}):
        await submitted(over_api, A, flags=("--max-retries", "0"))
        await submitted(over_api, B, C, suite="ci-2")
        await all_ended(log, A, B, C)
    for order, first in (("failing", A), ("flakiest", B), ("name", A)):
        found = (await over_api("tests", "list", "--order", order, "--json")).json
        assert (found[0]["test"], len(found)) == (first, 3), order
    slowest = (await over_api("tests", "list", "--order", "slowest", "--json")).json
    assert [one["mean_s"] for one in slowest] == sorted(
        (one["mean_s"] for one in slowest), reverse=True
    )
    shown = await over_api("tests", "list", "--order", "flakiest", "--limit", "1")
    assert "There are more than these 1: raise --limit." in shown.err
    columns, row = (line.split() for line in shown.out.splitlines())
    assert columns == ["TARGET", "ORG", "RUNS", "PASSED", "FLAKY", "TIME", "TEST"]
    assert row[:3] + row[3:7] + row[-1:] == [TARGET, ORG, "1", "100", "%", "100", "%", B]
    assert (await over_api("tests", "list", "--target", "sofa", "--json")).json == []
    assert (await over_api("tests", "list", "--org-id", "other", "--json")).json == []
    assert (await over_api("tests", "list", "--days", "0")).code == 2


async def test_a_test_is_shown_by_day_and_by_version(
    over_api: Cli, work: Work, log: EventLog
) -> None:
    async with work({A: ("failed",)}):
        await submitted(over_api, A, flags=("--max-retries", "0"))
        await all_ended(log, A)
    shown = await over_api("tests", "show", A)
    assert shown.code == 0
    days, versions = (part.splitlines() for part in shown.out.split("\n\n"))
    assert [days[0].split(), versions[0].split()] == [
        ["DAY", "TARGET", "ORG", "RUNS", "PASSED", "FLAKY", "TIME"],
        ["VERSION", "TARGET", "RUNS", "PASSED", "FLAKY", "TIME"],
    ]
    day, *rest = days[1].split()
    assert abs((utc_now() - datetime.fromisoformat(day).replace(tzinfo=UTC)).days) <= 1
    assert rest[:5] == [TARGET, ORG, "1", "0", "%"]
    assert versions[1].split()[:5] == [VERSION, TARGET, "1", "0", "%"]
    found = (await over_api("tests", "show", A, "--json")).json
    assert [(one["app_version_id"], one["verdicts"]) for one in found["versions"]] == [
        (VERSION, {"failed": 1})
    ]
    assert [one["verdicts"] for one in found["days"]] == [{"failed": 1}]
    never = await over_api("tests", "show", "tests/never.spec.js")
    assert never.code == 0
    assert "It has not ended in these days." in never.err
