"""`qgjet queue`, `pause`, `resume` and `priority`: what waits and why, and what may start."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from qgjet.errors import InvalidInput
from qgjet.support.clock import utc_now
from qgjet.support.units import duration
from qgjet_cli.commands.question import ask
from qgjet_cli.options import flags
from qgjet_cli.output import console

if TYPE_CHECKING:
    from qgjet.client.http import ApiClient

COLUMNS = ("org", "version", "target", "queued", "running", "age", "waits for")

Target = Annotated[str | None, typer.Option("--target", metavar="TEXT", help="This target.")]
OrgId = Annotated[
    str | None, typer.Option("--org-id", metavar="TEXT", help="Or this organisation.")
]
Reason = Annotated[
    str,
    typer.Option(
        "--reason", metavar="TEXT", help="For people; kept in the event log.", show_default=False
    ),
]


def queue(
    context: typer.Context,
    json: flags.Json = False,
    api: flags.Api = None,
    config: flags.Config = None,
) -> None:
    """Show what waits and runs, why it waits, and what is paused. With --json: `partitions` and
    `pauses`.
    """
    if context.invoked_subcommand is not None:
        return
    ask(_look, _show, what="reading the queue", json=json, api=api, config=config)


async def _look(client: ApiClient) -> dict[str, Any]:
    return {**await client.partitions(), "pauses": await client.pauses()}


def _show(found: dict[str, Any]) -> None:
    now = utc_now()
    if found["partitions"]:
        console.table(COLUMNS, [_row(one, now) for one in found["partitions"]])
    else:
        console.note("Nothing is queued, and nothing runs.")
    for one in found["pauses"]:
        console.note(_told(one))


def _row(partition: dict[str, Any], now: datetime) -> tuple[str, ...]:
    oldest = partition["oldest_queued_at"]
    age_s = (
        None
        if oldest is None
        else max((now - msgspec.convert(oldest, datetime)).total_seconds(), 0.0)
    )
    return (
        partition["org_id"],
        partition["app_version_id"],
        partition["target"],
        str(partition["queued"]),
        str(partition["running"]),
        console.duration(age_s),
        partition["pending_reason"] or "",
    )


def _told(pause: dict[str, Any]) -> str:
    state = "paused" if pause["paused"] else "resumed"
    until = f" until {pause['until']}" if pause["until"] else ""
    return f"{pause['kind'].capitalize()} {pause['name']} → {state}{until}" + (
        f": {pause['reason']}" if pause["reason"] else ""
    )


def _tell(pause: dict[str, Any]) -> None:
    console.line(_told(pause))


def pause(
    target: Target = None,
    org_id: OrgId = None,
    for_: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="DURATION", help="How long, such as 2h. [default: until it is resumed]"
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until", metavar="TIME", help="Until then, such as 2026-01-31T18:00:00+01:00."
        ),
    ] = None,
    reason: Reason = "",
    json: flags.Json = False,
    api: flags.Api = None,
    config: flags.Config = None,
) -> None:
    """Let agents start nothing of a target or an organisation. What runs goes on, what is submitted
    waits.
    """
    scope = _scope(target, org_id, reason)
    if for_ is not None:
        scope["for_s"] = duration(for_, "for")
    if until is not None:
        scope["until"] = _time(until)
    ask(
        lambda client: client.pause(scope),
        _tell,
        what="pausing a queue",
        json=json,
        api=api,
        config=config,
    )


def resume(
    target: Target = None,
    org_id: OrgId = None,
    reason: Reason = "",
    json: flags.Json = False,
    api: flags.Api = None,
    config: flags.Config = None,
) -> None:
    """Go on with a target or an organisation. Harmless when it is not paused."""
    scope = _scope(target, org_id, reason)
    ask(
        lambda client: client.resume(scope),
        _tell,
        what="resuming a queue",
        json=json,
        api=api,
        config=config,
    )


def _scope(target: str | None, org_id: str | None, reason: str) -> dict[str, Any]:
    if bool(target) == bool(org_id):
        raise InvalidInput("target", "give a target or an organisation, one of them")
    return {"target": target or "", "org_id": org_id or "", "reason": reason}


def _time(text: str) -> str:
    """A time without a zone is one of this machine's."""
    try:
        return datetime.fromisoformat(text).astimezone().isoformat()
    except (ValueError, OverflowError) as error:
        raise InvalidInput(
            "until", f"{text!r} is not a time such as 2026-01-31T18:00:00+01:00"
        ) from error


def priority(
    job_id: Annotated[
        str, typer.Argument(metavar="JOB_ID", help="A queued job.", show_default=False)
    ],
    wanted: Annotated[
        int,
        typer.Argument(
            metavar="0-9",
            min=0,
            max=9,
            help="Its new priority; `qgjet job list` says which end runs first.",
            show_default=False,
        ),
    ],
    json: flags.Json = False,
    api: flags.Api = None,
    config: flags.Config = None,
) -> None:
    """Give a queued job another priority."""

    def show(done: dict[str, Any]) -> None:
        console.line(
            f"Job {done['job_id']} → priority {done['priority']} (it was {done['before']})"
        )

    ask(
        lambda client: client.prioritize(job_id, wanted),
        show,
        what="changing a job's priority",
        json=json,
        api=api,
        config=config,
    )


app = typer.Typer(
    callback=queue,
    invoke_without_command=True,
    help="The queue: what waits and runs; pause and resume it.",
    rich_markup_mode=None,
)
app.command("show")(queue)
app.command("pause")(pause)
app.command("resume")(resume)
