"""`qgjet job list`: jobs, last submitted first."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
import typer

from qgjet.client.base import open_api
from qgjet.domain.events import Status, Verdict
from qgjet.errors import InvalidInput
from qgjet.support.clock import utc_now
from qgjet_cli.commands.status import priority_order
from qgjet_cli.exits import Exit
from qgjet_cli.options import flags
from qgjet_cli.options.request import settings_of, tags_of
from qgjet_cli.output import console
from qgjet_cli.runtime import foreground
from qgjet_cli.runtime.foreground import Interrupts


def list_jobs(
    org_id: Annotated[
        str | None, typer.Option("--org-id", metavar="TEXT", help="Of this organisation only.")
    ] = None,
    app_version_id: Annotated[
        str | None,
        typer.Option("--app-version-id", metavar="TEXT", help="Of this app version only."),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", metavar="TEXT", help="For this target only.")
    ] = None,
    test: Annotated[
        str | None, typer.Option("--test", metavar="PATH", help="Of this test only.")
    ] = None,
    status: Annotated[Status | None, typer.Option("--status", help="In this status only.")] = None,
    verdict: Annotated[
        Verdict | None, typer.Option("--verdict", help="With this verdict only.")
    ] = None,
    suite_id: Annotated[
        str | None, typer.Option("--suite-id", metavar="TEXT", help="Of this suite only.")
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(
            "--tag", metavar="KEY=VALUE", help="With this tag only; repeatable.", show_default=False
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 50,
    json: flags.Json = False,
    api: flags.Api = None,
    config: flags.Config = None,
) -> None:
    """List jobs, last submitted first. With --json: a list of them."""
    filters = {
        "org_id": org_id,
        "app_version_id": app_version_id,
        "target": target,
        "test": test,
        "status": status,
        "verdict": verdict,
        "suite_id": suite_id,
        "tag": _tag_filters(tag or []),
    }
    settings = settings_of(config, None, api)

    async def body(_: Interrupts) -> Exit:
        async with open_api(settings, what="listing jobs", notice=console.note) as client:
            jobs, more = await client.jobs(filters, limit)
        console.listing(
            jobs, lambda: _show(jobs), nouns="jobs", as_json=json, more_than=limit if more else None
        )
        return Exit.PASSED

    foreground.run(body)


def _tag_filters(pairs: list[str]) -> list[str] | None:
    """In the API's spelling, `key:value`."""
    tags = tags_of(pairs)
    if any(":" in key for key in tags):
        raise InvalidInput("tag", "keys with a colon cannot be asked for")
    return [f"{key}:{value}" for key, value in tags.items()] or None


def _show(jobs: list[dict[str, Any]]) -> None:
    several = len({job["org_id"] for job in jobs}) > 1
    columns = (
        "job",
        "status",
        "age",
        "prio",
        "tries",
        "target",
        "version",
        *(["org"] if several else []),
        "test",
    )
    now = utc_now()
    console.table(columns, [_row(job, now, several) for job in jobs])
    console.note(f"Priority: {priority_order(jobs[0])}.")


def _row(job: dict[str, Any], now: datetime, several: bool) -> tuple[str, ...]:
    waits = f" ({job['pending_reason']})" if job.get("pending_reason") else ""
    return (
        job["job_id"],
        (job["verdict"] or job["status"]) + waits,
        console.duration(
            max((now - msgspec.convert(job["created_at"], datetime)).total_seconds(), 0.0)
        ),
        str(job["priority"]),
        str(job["attempt"]),
        job["target"],
        job["app_version_id"],
        *([job["org_id"]] if several else []),
        job["test"],
    )
