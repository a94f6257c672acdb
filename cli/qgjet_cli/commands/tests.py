"""`qgjet test`: how tests went over the last days."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from qgjet.client.base import open_api
from qgjet.reporting.text import percent
from qgjet_cli.commands.question import ask
from qgjet_cli.exits import Exit
from qgjet_cli.options import flags
from qgjet_cli.options.request import settings_of
from qgjet_cli.output import console
from qgjet_cli.runtime import foreground
from qgjet_cli.runtime.foreground import Interrupts

COLUMNS = ("target", "org", "runs", "passed", "flaky", "time", "test")
DAYS = ("day", "target", "org", "runs", "passed", "flaky", "time")
VERSIONS = ("version", "target", "runs", "passed", "flaky", "time")

app = typer.Typer(
    help="Tests: which fail, which are flaky, which are slow.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

OrgId = Annotated[
    str | None, typer.Option("--org-id", metavar="TEXT", help="Of this organisation only.")
]
Target = Annotated[
    str | None, typer.Option("--target", metavar="TEXT", help="On this target only.")
]
Days = Annotated[
    int, typer.Option("--days", min=1, max=366, help="Over so many days, UTC, today among them.")
]


class Order(StrEnum):
    """As the API has it."""

    FAILING = "failing"
    FLAKIEST = "flakiest"
    SLOWEST = "slowest"
    NAME = "name"


@app.command("list")
def list_tests(
    order: Annotated[Order, typer.Option("--order", help="Which come first.")] = Order.FAILING,
    org_id: OrgId = None,
    target: Target = None,
    days: Days = 14,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 20,
    json: flags.Json = False,
    api: flags.Api = None,
    config: flags.Config = None,
) -> None:
    """List tests by how they went: pass rate, flakiness, mean time. With --json: a list of them."""
    filters = {"order": order.value, "org_id": org_id, "target": target, "days": days}
    settings = settings_of(config, None, api)

    async def body(_: Interrupts) -> Exit:
        async with open_api(settings, what="listing tests", notice=console.note) as client:
            found, more = await client.tests(filters, limit)
        rows = [(one["target"], one["org_id"], *_figures(one), one["test"]) for one in found]
        console.listing(
            found,
            lambda: console.table(COLUMNS, rows),
            nouns="tests",
            as_json=json,
            more_than=limit if more else None,
        )
        return Exit.PASSED

    foreground.run(body)


@app.command("show")
def show(
    test: Annotated[str, typer.Argument(metavar="TEST", help="Its path.", show_default=False)],
    org_id: OrgId = None,
    target: Target = None,
    days: Days = 30,
    json: flags.Json = False,
    api: flags.Api = None,
    config: flags.Config = None,
) -> None:
    """Show how one test went, day by day and by app version, on each target."""
    filters = {"test": test, "org_id": org_id, "target": target, "days": days}
    ask(
        lambda client: client.test_history(filters),
        _show,
        what="reading a test's history",
        json=json,
        api=api,
        config=config,
    )


def _show(found: dict[str, Any]) -> None:
    _table(
        DAYS,
        [(one["day"][:10], one["target"], one["org_id"], *_figures(one)) for one in found["days"]],
        "It has not ended in these days.",
    )
    console.line("")
    _table(
        VERSIONS,
        [(one["app_version_id"], one["target"], *_figures(one)) for one in found["versions"]],
        "It has never ended.",
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], otherwise: str) -> None:
    if rows:
        console.table(columns, rows)
    else:
        console.note(otherwise)


def _figures(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(one["runs"]),
        percent(one["pass_rate"]),
        percent(one["flaky_rate"]),
        console.duration(one["mean_s"]),
    )
