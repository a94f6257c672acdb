"""`qgjet queue`, `pause`, `resume` and `priority`: what waits and why, and what may start."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
import typer

from qgjet.clock import utc_now
from qgjet.errors import InvalidInput
from qgjet.settings import duration
from qgjet_cli import foreground, options, output
from qgjet_cli.client import open_api
from qgjet_cli.exits import Exit
from qgjet_cli.foreground import Interrupts
from qgjet_cli.request import settings_of

COLUMNS = ("org", "version", "target", "queued", "running", "age", "waits for")

Target = Annotated[str | None, typer.Option("--target", metavar="TEXT", help="This target.")]
OrgId = Annotated[str | None, typer.Option("--org-id", metavar="TEXT", help="Or this organisation.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="For people; kept in the event log.", show_default=False)]


def queue(json: options.Json = False, api: options.Api = None, config: options.Config = None) -> None:
    """Show what waits and runs, why it waits, and what is paused. With --json: `partitions` and `pauses`."""
    settings = settings_of(config, None, api)

    async def body(_: Interrupts) -> Exit:
        async with open_api(settings, what="reading the queue", notice=output.note) as client:
            found, pauses = await client.partitions(), await client.pauses()
        if json:
            output.json({**found, "pauses": pauses})
            return Exit.PASSED
        now = utc_now()
        if found["partitions"]:
            output.table(COLUMNS, [_row(one, now) for one in found["partitions"]])
        else:
            output.note("Nothing is queued, and nothing runs.")
        for one in pauses:
            output.note(_told(one))
        return Exit.PASSED

    foreground.run(body)


def _row(partition: dict[str, Any], now: datetime) -> tuple[str, ...]:
    oldest = partition["oldest_queued_at"]
    age_s = None if oldest is None else max((now - msgspec.convert(oldest, datetime)).total_seconds(), 0.0)
    return (
        partition["org_id"],
        partition["app_version_id"],
        partition["target"],
        str(partition["queued"]),
        str(partition["running"]),
        output.duration(age_s),
        partition["pending_reason"] or "",
    )


def _told(pause: dict[str, Any]) -> str:
    state = "paused" if pause["paused"] else "resumed"
    until = f" until {pause['until']}" if pause["until"] else ""
    return f"{pause['kind'].capitalize()} {pause['name']} → {state}{until}" + (f": {pause['reason']}" if pause["reason"] else "")


def pause(
    target: Target = None,
    org_id: OrgId = None,
    for_: Annotated[str | None, typer.Option("--for", metavar="DURATION", help="How long, such as 2h. [default: until it is resumed]")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Until then, such as 2026-01-31T18:00:00+01:00.")] = None,
    reason: Reason = "",
    json: options.Json = False,
    api: options.Api = None,
    config: options.Config = None,
) -> None:
    """Let agents start nothing of a target or an organisation. What runs goes on, what is submitted waits."""
    scope = _scope(target, org_id, reason)
    if for_ is not None:
        scope["for_s"] = duration(for_, "for")
    if until is not None:
        scope["until"] = _time(until)
    _change("pause", scope, json=json, api=api, config=config)


def resume(
    target: Target = None, org_id: OrgId = None, reason: Reason = "", json: options.Json = False, api: options.Api = None, config: options.Config = None
) -> None:
    """Go on with a target or an organisation. Harmless when it is not paused."""
    _change("resume", _scope(target, org_id, reason), json=json, api=api, config=config)


def _scope(target: str | None, org_id: str | None, reason: str) -> dict[str, Any]:
    if bool(target) == bool(org_id):
        raise InvalidInput("target", "give a target or an organisation, one of them")
    return {"target": target or "", "org_id": org_id or "", "reason": reason}


def _time(text: str) -> str:
    """A time without a zone is one of this machine's."""
    try:
        return datetime.fromisoformat(text).astimezone().isoformat()
    except (ValueError, OverflowError) as error:
        raise InvalidInput("until", f"{text!r} is not a time such as 2026-01-31T18:00:00+01:00") from error


def _change(how: str, scope: dict[str, Any], *, json: bool, api: options.Api, config: options.Config) -> None:
    settings = settings_of(config, None, api)

    async def body(_: Interrupts) -> Exit:
        async with open_api(settings, what=f"to {how} a queue", notice=output.note) as client:
            done = await (client.pause(scope) if how == "pause" else client.resume(scope))
        if json:
            output.json(done)
        else:
            output.line(_told(done))
        return Exit.PASSED

    foreground.run(body)


def priority(
    job_id: Annotated[str, typer.Argument(metavar="JOB_ID", help="A queued job.", show_default=False)],
    wanted: Annotated[int, typer.Argument(metavar="0-9", min=0, max=9, help="Its new priority; `qgjet list` says which end runs first.", show_default=False)],
    json: options.Json = False,
    api: options.Api = None,
    config: options.Config = None,
) -> None:
    """Give a queued job another priority."""
    settings = settings_of(config, None, api)

    async def body(_: Interrupts) -> Exit:
        async with open_api(settings, what="changing a job's priority", notice=output.note) as client:
            done = await client.prioritize(job_id, wanted)
        if json:
            output.json(done)
        else:
            output.line(f"Job {done['job_id']} → priority {done['priority']} (it was {done['before']})")
        return Exit.PASSED

    foreground.run(body)
