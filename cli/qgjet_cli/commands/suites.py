"""`qgjet suite list`: what was submitted together, newest first."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
import typer

from qgjet.client.base import open_api
from qgjet.support.clock import utc_now
from qgjet_cli.exits import Exit
from qgjet_cli.options import flags
from qgjet_cli.options.request import settings_of
from qgjet_cli.output import console
from qgjet_cli.runtime import foreground
from qgjet_cli.runtime.foreground import Interrupts

COLUMNS = (
    "suite",
    "verdict",
    "jobs",
    "passed",
    "flaky",
    "failed",
    "no verdict",
    "live",
    "age",
    "took",
    "branch",
    "commit",
)


def suites(
    suite_id: Annotated[
        str | None, typer.Argument(metavar="SUITE_ID", help="This suite only.", show_default=False)
    ] = None,
    org_id: Annotated[
        str | None, typer.Option("--org-id", metavar="TEXT", help="Of this organisation only.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 20,
    json: flags.Json = False,
    api: flags.Api = None,
    config: flags.Config = None,
) -> None:
    """List suites, newest first. With --json: a list of them."""
    settings = settings_of(config, None, api)

    async def body(_: Interrupts) -> Exit:
        async with open_api(settings, what="listing suites", notice=console.note) as client:
            found, more = (
                ([await client.suite_summary(suite_id)], False)
                if suite_id
                else await client.suites(org_id, limit)
            )
        console.listing(
            found,
            lambda: _show(found),
            nouns="suites",
            as_json=json,
            more_than=limit if more else None,
        )
        return Exit.PASSED

    foreground.run(body)


def _show(found: list[dict[str, Any]]) -> None:
    now = utc_now()
    console.table(COLUMNS, [_row(one, now) for one in found])


def _row(suite: dict[str, Any], now: datetime) -> tuple[str, ...]:
    verdicts, tags = suite["verdicts"], suite["tags"]
    created = msgspec.convert(suite["created_at"], datetime)
    failed = verdicts.get("failed", 0) + verdicts.get("timed_out", 0)
    none = sum(verdicts.get(word, 0) for word in ("infra_error", "config_error", "cancelled"))
    return (
        suite["suite_id"],
        suite["verdict"] or suite["status"],
        str(suite["total"]),
        str(verdicts.get("passed", 0) + verdicts.get("skipped", 0)),
        str(verdicts.get("flaky", 0)),
        str(failed),
        str(none),
        str(suite["live"]),
        console.duration(max((now - created).total_seconds(), 0.0)),
        console.duration(suite["duration_s"]),
        tags.get("branch", ""),
        tags.get("commit", "")[:12],
    )
