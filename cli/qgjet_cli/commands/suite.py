"""`qgjet suite`: everything about suites, under one noun."""

from __future__ import annotations

from typing import Annotated

import typer

from qgjet_cli.commands import cancel, rerun, suites, wait
from qgjet_cli.exits import HELP
from qgjet_cli.options import flags

app = typer.Typer(
    help="Suites, the jobs of one run: list, show, cancel, rerun.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
def list_suites(
    org_id: Annotated[
        str | None, typer.Option("--org-id", metavar="TEXT", help="Of this organisation only.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 20,
    json: flags.Json = False,
    api: flags.Api = None,
    config: flags.Config = None,
) -> None:
    """List suites, newest first. With --json: a list of them."""
    suites.suites(None, org_id, limit, json, api, config)


@app.command("show")
def show(
    suite_id: Annotated[
        str, typer.Argument(metavar="SUITE_ID", help="The suite.", show_default=False)
    ],
    json: flags.Json = False,
    api: flags.Api = None,
    config: flags.Config = None,
) -> None:
    """Show how many jobs of a suite have which verdict. With --json: a list of one suite."""
    suites.suites(suite_id, None, 1, json, api, config)


app.command("wait", epilog=HELP)(wait.wait)
app.command("cancel")(cancel.cancel)
app.command("rerun")(rerun.rerun)
