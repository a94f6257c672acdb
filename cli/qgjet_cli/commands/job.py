"""`qgjet job`: everything about jobs, under one noun."""

from __future__ import annotations

import typer

from qgjet_cli.commands import artifacts, cancel, listing, logs, queue, rerun, status

app = typer.Typer(
    help="Jobs: show, list, cancel, rerun; their output and files.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command("show")(status.status)
app.command("list")(listing.list_jobs)
app.command("logs")(logs.logs)
app.command("artifacts")(artifacts.artifacts)
app.command("cancel")(cancel.cancel)
app.command("rerun")(rerun.rerun)
app.command("set-priority")(queue.priority)
