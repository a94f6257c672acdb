"""`qgjet dead`: jobs that ended without a statement about the app."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from qgjet.client.base import open_api
from qgjet.domain.events import Verdict
from qgjet.errors import InvalidInput, NotAccepted
from qgjet.support.clock import utc_now
from qgjet.support.units import duration
from qgjet_cli.commands import status
from qgjet_cli.commands.question import ask
from qgjet_cli.exits import Exit
from qgjet_cli.options import flags
from qgjet_cli.options.request import settings_of
from qgjet_cli.output import console
from qgjet_cli.runtime import foreground
from qgjet_cli.runtime.foreground import Interrupts

if TYPE_CHECKING:
    from qgjet.client.http import ApiClient

COLUMNS = ("job", "verdict", "age", "tries", "target", "version", "test", "reason")

app = typer.Typer(
    help="Dead letters: jobs that ended without a verdict about the app.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

JobIds = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="JOB_ID", help="These; or say which with the flags.", show_default=False
    ),
]
OrgId = Annotated[
    str | None, typer.Option("--org-id", metavar="TEXT", help="Of this organisation only.")
]
AppVersion = Annotated[
    str | None, typer.Option("--app-version-id", metavar="TEXT", help="Of this app version only.")
]
Target = Annotated[
    str | None, typer.Option("--target", metavar="TEXT", help="For this target only.")
]
Test = Annotated[str | None, typer.Option("--test", metavar="PATH", help="Of this test only.")]
OfVerdict = Annotated[
    Verdict | None,
    typer.Option("--verdict", help="With this verdict only: infra_error or config_error."),
]
Cause = Annotated[
    str | None,
    typer.Option(
        "--cause",
        metavar="CODE",
        help="With this reason only, such as attempt_lost or queue_timeout.",
    ),
]
Older = Annotated[
    str | None,
    typer.Option(
        "--older-than", metavar="DURATION", help="That ended longer ago than this, such as 2h."
    ),
]
All = Annotated[bool, typer.Option("--all", help="All of them.")]


@app.command("list")
def list_dead(
    org_id: OrgId = None,
    app_version_id: AppVersion = None,
    target: Target = None,
    test: Test = None,
    verdict: OfVerdict = None,
    cause: Cause = None,
    older_than: Older = None,
    settled: Annotated[
        bool, typer.Option("--settled", help="Those that were redriven or discarded.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 50,
    json: flags.Json = False,
    api: flags.Api = None,
    config: flags.Config = None,
) -> None:
    """List dead letters, last submitted first. With --json: a list of them."""
    filters = _filters(org_id, app_version_id, target, test, verdict, cause, older_than) | (
        {"settled": "true"} if settled else {}
    )
    settings = settings_of(config, None, api)

    async def body(_: Interrupts) -> Exit:
        async with open_api(settings, what="listing dead letters", notice=console.note) as client:
            found, more = await client.dead_letters(filters, limit)
        console.listing(
            found,
            lambda: _list(found),
            nouns="dead letters",
            as_json=json,
            more_than=limit if more else None,
        )
        return Exit.PASSED

    foreground.run(body)


def _filters(
    org_id: str | None,
    app_version_id: str | None,
    target: str | None,
    test: str | None,
    verdict: Verdict | None,
    cause: str | None,
    older_than: str | None,
) -> dict[str, str]:
    """What was given, in the API's words."""
    before = (
        None
        if older_than is None
        else (utc_now() - timedelta(seconds=duration(older_than, "older_than"))).isoformat()
    )
    given = {
        "org_id": org_id,
        "app_version_id": app_version_id,
        "target": target,
        "test": test,
        "verdict": verdict and verdict.value,
        "reason": cause,
        "finished_before": before,
    }
    return {name: value for name, value in given.items() if value is not None}


def _list(found: list[dict[str, Any]]) -> None:
    now = utc_now()
    console.table(COLUMNS, [_row(one, now) for one in found])


def _row(letter: dict[str, Any], now: datetime) -> tuple[str, ...]:
    ended = msgspec.convert(letter["finished_at"], datetime)
    return (
        letter["job_id"],
        letter["verdict"] if letter["settlement"] is None else letter["settlement"]["how"],
        console.duration(max((now - ended).total_seconds(), 0.0)),
        str(letter["attempt"]),
        letter["target"],
        letter["app_version_id"],
        letter["test"],
        console.one_line(
            ": ".join(part for part in (letter["reason"], letter["message"]) if part), 200
        ),
    )


@app.command("show")
def show(
    job_id: Annotated[
        str, typer.Argument(metavar="JOB_ID", help="The dead letter.", show_default=False)
    ],
    json: flags.Json = False,
    api: flags.Api = None,
    config: flags.Config = None,
) -> None:
    """Show why a job ended without a verdict: cause, attempts, last output."""
    ask(
        lambda client: client.dead_letter(job_id),
        _show,
        what="reading a dead letter",
        json=json,
        api=api,
        config=config,
    )


def _show(found: dict[str, Any]) -> None:
    status.show(found)
    if found["settlement"] is not None:
        settlement = found["settlement"]
        console.line(
            f"{'Settled:':<14}{settlement['how']} {settlement['at']} by {settlement['by']} {settlement['note']}".rstrip()
        )
    if found["output"]:
        console.line("Last output:")
        for text in found["output"]:
            console.line(f"  {text}")


@app.command("redrive")
def redrive(
    job_ids: JobIds = None,
    org_id: OrgId = None,
    app_version_id: AppVersion = None,
    target: Target = None,
    test: Test = None,
    verdict: OfVerdict = None,
    cause: Cause = None,
    older_than: Older = None,
    all_: All = False,
    json: flags.Json = False,
    api: flags.Api = None,
    config: flags.Config = None,
) -> None:
    """Run dead letters again, as new jobs that name the old ones. With --json: a list with what
    became of each.

    Exit code 2 when one of them could not be redriven: it was dealt with already, or a live job
    holds its slot.
    """
    filters = _filters(org_id, app_version_id, target, test, verdict, cause, older_than)
    _settle(
        "redrive", job_ids or [], filters, "", everything=all_, json=json, api=api, config=config
    )


@app.command("discard")
def discard(
    job_ids: JobIds = None,
    reason: Annotated[
        str,
        typer.Option(
            "--reason", metavar="TEXT", help="For people; kept with each.", show_default=False
        ),
    ] = "",
    org_id: OrgId = None,
    app_version_id: AppVersion = None,
    target: Target = None,
    test: Test = None,
    verdict: OfVerdict = None,
    cause: Cause = None,
    older_than: Older = None,
    all_: All = False,
    json: flags.Json = False,
    api: flags.Api = None,
    config: flags.Config = None,
) -> None:
    """Say that nobody has to look at dead letters any more. The jobs stay as they ended."""
    filters = _filters(org_id, app_version_id, target, test, verdict, cause, older_than)
    _settle(
        "discard",
        job_ids or [],
        filters,
        reason,
        everything=all_,
        json=json,
        api=api,
        config=config,
    )


def _settle(
    how: str,
    job_ids: list[str],
    filters: dict[str, str],
    reason: str,
    *,
    everything: bool,
    json: bool,
    api: flags.Api,
    config: flags.Config,
) -> None:
    if bool(job_ids) + bool(filters) + everything != 1:
        raise InvalidInput("job_id", "give jobs, or flags that say which, or --all")
    settings = settings_of(config, None, api)
    asked: dict[str, Any] = dict(filters) if filters else {"all": True}
    if how == "discard" and reason:
        asked["because"] = reason

    async def body(_: Interrupts) -> Exit:
        async with open_api(settings, what=f"to {how} dead letters", notice=console.note) as client:
            done, left = (
                (await _settle_each(client, how, job_ids, reason), 0)
                if job_ids
                else await _settle_all(client, how, asked)
            )
        if json:
            console.json(done)
        else:
            for one in done:
                console.line(_told(one))
            if not done:
                console.note("No dead letters.")
        if left:
            console.note(f"{left} more wait behind these: say with flags which.")
        return Exit.USAGE if any(one["error"] for one in done) else Exit.PASSED

    foreground.run(body)


async def _settle_each(
    client: ApiClient, how: str, job_ids: list[str], reason: str
) -> list[dict[str, Any]]:
    done = []
    for job_id in dict.fromkeys(job_ids):
        try:
            done.append(await client.settle(how, job_id, reason))
        except NotAccepted as refused:
            done.append(
                {
                    "job_id": job_id,
                    "new_job_id": None,
                    "error": str(refused),
                    "status": refused.status,
                }
            )
    return done


async def _settle_all(
    client: ApiClient, how: str, asked: dict[str, Any]
) -> tuple[list[dict[str, Any]], int]:
    """Call until nothing is left, or nothing moves: those that are refused stay, and would come
    first again. Second, how many were never asked for.
    """
    done: list[dict[str, Any]] = []
    while True:
        answer = await client.settle_all(how, asked)
        known = {one["job_id"] for one in done}
        done += [one for one in answer["dead_letters"] if one["job_id"] not in known]
        if not answer["left"] or not answer["settled"]:
            return done, answer["left"]


def _told(one: dict[str, Any]) -> str:
    if one["error"]:
        return f"Job {one['job_id']} → {one['error']}"
    return f"Job {one['job_id']} → " + (
        f"redriven as {one['new_job_id']}" if one["new_job_id"] else "discarded"
    )
